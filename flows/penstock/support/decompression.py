"""Incremental decoders for compressed request bodies: gzip, deflate and zstd, in chunks of limited size.

aiohttp has decoders too, but accepts a gzip or zstd body that was cut off as complete, so orders would be lost.
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
"""Maximum bytes of one decompressed chunk."""

WINDOW_LOG = 23
"""The maximum zstd window, as a power of two: 8 MiB, as RFC 9659 defines for HTTP. A decoder allocates that much."""

EMPTY_PARTS = 32
"""Members or frames without content that are skipped in one iteration of the event loop."""


class BodyDecodeFailed(PenstockError):
    """A compressed body is invalid, or cut off."""

    def __init__(self, encoding: str, reason: str) -> None:
        super().__init__(f"the {encoding} body {reason}")
        self.encoding = encoding


def decompressed(chunks: AsyncIterable[bytes], encoding: str) -> AsyncIterable[bytes]:
    """Decode a body in one of `negotiation.ENCODINGS`. Reading the result raises `BodyDecodeFailed`."""
    return chunks if encoding == "identity" else _decompress(chunks, encoding)


async def _decompress(chunks: AsyncIterable[bytes], encoding: str) -> AsyncIterator[bytes]:
    """Decode chunks, and yield to the event loop after each: a small body may contain gigabytes of empty parts."""
    decoder: Decoder = Zstd() if encoding == "zstd" else Zlib(encoding)
    empty = 0
    try:
        async for chunk in chunks:
            for content in decoder.feed(chunk):
                if content:
                    yield content
                elif (empty := empty + 1) % EMPTY_PARTS:
                    continue
                await asyncio.sleep(0)
    except (zlib.error, zstd.ZstdError) as error:
        raise BodyDecodeFailed(encoding, f"cannot be decompressed: {error}") from error
    if not decoder.complete:
        raise BodyDecodeFailed(encoding, "is cut off before its end")


class Decoder(Protocol):
    """An incremental decoder."""

    @property
    def complete(self) -> bool:
        """Whether the input may end here."""
        ...

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the content of further bytes in chunks, and an empty chunk for each part that ends without content."""
        ...


class Zlib:
    """gzip, of one or several members, and deflate, with or without zlib's header, because both are in use."""

    def __init__(self, encoding: str) -> None:
        self._gzip = encoding == "gzip"
        self._object: Any = None
        self._begun = False
        self._full = False
        """Whether the last chunk ended at its limit: the decoder may have more content without further input."""

    @property
    def complete(self) -> bool:
        return self._object is None or self._object.eof

    def feed(self, data: bytes) -> Iterator[bytes]:
        while data or self._full:
            if self._object is None:
                if self._gzip and self._begun:
                    data = data.lstrip(b"\0")  # zero bytes after a member are padding, as in `gzip` and Python
                    if not data:
                        return
                self._object = zlib.decompressobj(self._bits(data[0]))
                self._begun = True
            chunk = self._object.decompress(data, CHUNK)
            self._full = len(chunk) == CHUNK and not self._object.eof
            if chunk or self._object.eof:
                yield chunk
            data = self._object.unconsumed_tail
            if self._object.eof:
                data = self._object.unused_data
                self._object = None
                if not self._gzip and data:
                    raise zlib.error("there is data after its end")

    def _bits(self, first: int) -> int:
        """Return `wbits`, which selects a gzip header, zlib's header, or none."""
        if self._gzip:
            return 31
        return 15 if first & 0x0F == 8 else -15


class Zstd:
    """zstd, of one or several frames."""

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
            chunk = self._object.decompress(data, CHUNK)
            if chunk or self._object.eof:
                yield chunk
            data = self._object.unused_data if self._object.eof else b""

    @staticmethod
    def _decompressor() -> zstd.ZstdDecompressor:
        return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: WINDOW_LOG})
