"""Compressed bodies, read piece by piece: no piece is large, whatever it was compressed from, and no end is missed.

aiohttp could do it, but takes a gzip or zstd body that breaks off for a complete one; orders would be lost quietly.
"""

from __future__ import annotations

import asyncio
import sys
import zlib
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from typing import Any, Protocol

from penstock.errors import PenstockError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

CHUNK = 256 * 1024
"""Bytes that are decompressed in one go."""

WINDOW_LOG = 23
"""How far back zstd may refer, as a power of two: 8 MiB, which RFC 9659 has for HTTP. A decoder holds that much."""

EMPTY_PARTS = 32
"""Members or frames without content that are passed over in one turn of the event loop."""


class BodyDecodeFailed(PenstockError):
    """A compressed body is not what it says, or breaks off before its end."""

    def __init__(self, encoding: str, reason: str) -> None:
        super().__init__(f"the {encoding} body {reason}")
        self.encoding = encoding


def decompressed(chunks: AsyncIterable[bytes], encoding: str) -> AsyncIterable[bytes]:
    """The content of a body in an encoding of `negotiation.ENCODINGS`. Reading it raises `BodyDecodeFailed`."""
    return chunks if encoding == "identity" else _decompress(chunks, encoding)


async def _decompress(chunks: AsyncIterable[bytes], encoding: str) -> AsyncIterator[bytes]:
    """The event loop gets its turn after each piece: a small body may hold gigabytes of nothing."""
    decoder: Decoder = Zstd() if encoding == "zstd" else Zlib(encoding)
    empty = 0
    try:
        async for chunk in chunks:
            for piece in decoder.feed(chunk):
                if piece:
                    yield piece
                elif (empty := empty + 1) % EMPTY_PARTS:
                    continue
                await asyncio.sleep(0)
    except (zlib.error, zstd.ZstdError) as error:
        raise BodyDecodeFailed(encoding, f"cannot be decompressed: {error}") from error
    if not decoder.complete:
        raise BodyDecodeFailed(encoding, "breaks off before its end")


class Decoder(Protocol):
    """What decompresses."""

    @property
    def complete(self) -> bool:
        """Whether the input may end here."""
        ...

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The content of further bytes, in pieces; also an empty one for each part that ends without content."""
        ...


class Zlib:
    """gzip, of one member or several, and deflate, with zlib's header or bare, as both are found in the wild."""

    def __init__(self, encoding: str) -> None:
        self._gzip = encoding == "gzip"
        self._object: Any = None
        self._begun = False
        self._full = False
        """True after a piece that ended at its limit: there may be more inside, though all input is taken."""

    @property
    def complete(self) -> bool:
        return self._object is None or self._object.eof

    def feed(self, data: bytes) -> Iterator[bytes]:
        while data or self._full:
            if self._object is None:
                if self._gzip and self._begun:
                    data = data.lstrip(b"\0")  # padding behind a member is no content, as `gzip` and Python have it
                    if not data:
                        return
                self._object = zlib.decompressobj(self._bits(data[0]))
                self._begun = True
            piece = self._object.decompress(data, CHUNK)
            self._full = len(piece) == CHUNK and not self._object.eof
            if piece or self._object.eof:
                yield piece
            data = self._object.unconsumed_tail
            if self._object.eof:
                data = self._object.unused_data
                self._object = None
                if not self._gzip and data:
                    raise zlib.error("there is something behind its end")

    def _bits(self, first: int) -> int:
        """How zlib is to read (its `wbits`): a gzip header, zlib's header, or none."""
        if self._gzip:
            return 31
        return 15 if first & 0x0F == 8 else -15


class Zstd:
    """zstd, of one frame or several."""

    def __init__(self) -> None:
        self._object = self._decompressor()
        self._begun = False

    @property
    def complete(self) -> bool:
        return not self._begun or self._object.eof

    def feed(self, data: bytes) -> Iterator[bytes]:
        while data or not self._object.needs_input:
            if self._object.eof:
                if not data:
                    return
                self._object = self._decompressor()
            self._begun = True
            piece = self._object.decompress(data, CHUNK)
            if piece or self._object.eof:
                yield piece
            data = self._object.unused_data if self._object.eof else b""

    @staticmethod
    def _decompressor() -> zstd.ZstdDecompressor:
        return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: WINDOW_LOG})
