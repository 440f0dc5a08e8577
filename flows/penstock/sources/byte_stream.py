"""NDJSON sources: one element per line, from an async iterable of bytes or from standard input.

Lines are emitted as bytes. The first step of the flow (`decode`) parses them, so that an invalid line fails like any
other element, with its bytes kept.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from dataclasses import dataclass

from penstock.formats.ndjson_reader import LINE_LIMIT, LineSplitter, Splitter
from penstock.sources.file import CHUNK
from penstock.sources.source import Emitter, Source
from penstock.support.tasks import to_thread_uncancellable
from penstock.support.used_files import UsedFile


class NdjsonSource(Source[bytes]):
    """The lines of a stream of chunks. Reads at most one chunk ahead."""

    name = "ndjson"

    def __init__(self, chunks: AsyncIterable[bytes], limit: int) -> None:
        super().__init__()
        self._chunks = chunks
        self._limit = limit

    async def produce(self, emitter: Emitter[bytes]) -> None:
        await emit_chunks(emitter, self._chunks, LineSplitter(self._limit))


async def emit_chunks(emitter: Emitter[bytes], stream: AsyncIterable[bytes], splitter: Splitter) -> None:
    """Emit all lines of a stream of chunks, and close the stream however that ends."""
    chunks = aiter(stream)
    try:
        async for chunk in chunks:
            if lines := splitter.feed(chunk):
                await emitter.send(lines, list(map(len, lines)))
            await emitter.wait_for_capacity()
    finally:
        if (close := getattr(chunks, "aclose", None)) is not None:
            await close()
    if lines := splitter.finish():
        await emitter.send(lines, list(map(len, lines)))


def ndjson(chunks: AsyncIterable[bytes], *, limit: int = LINE_LIMIT) -> Source[bytes]:
    """Make a source of JSON lines from an async iterable of bytes. `limit` is the maximum of bytes in a line."""
    return NdjsonSource(chunks, limit)


@dataclass(unsafe_hash=True)
class StdinSource(Source[bytes]):
    """The lines of an open file descriptor, which is not closed: the caller owns it."""

    name = "standard input"

    limit: int = LINE_LIMIT
    descriptor: int = 0

    def __post_init__(self) -> None:
        super().__init__()

    async def produce(self, emitter: Emitter[bytes]) -> None:
        await NdjsonSource(chunks_of(self.descriptor), self.limit).produce(emitter)

    def used_files(self) -> Iterable[UsedFile]:
        return (UsedFile(self.name, self.descriptor),)


async def chunks_of(descriptor: int) -> AsyncIterator[bytes]:
    """Yield the data of a pipe, a terminal, a socket or a file, until its end.

    If the event loop can report readiness, nothing is read before: so a cancellation ends the wait, no thread hangs in
    a read, and no input is consumed and then lost. (A non-blocking descriptor would work too, but the mode is shared
    with other users of the descriptor, such as the shell.) Regular files are always ready.
    """
    while True:
        if not await is_readable_stdin(descriptor):
            chunk = await to_thread_uncancellable(lambda: os.read(descriptor, CHUNK))
        else:
            chunk = os.read(descriptor, CHUNK)
        if not chunk:
            return
        yield chunk


async def is_readable_stdin(descriptor: int) -> bool:
    """Wait until there is data to read. Return False at once if the event loop cannot tell."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    try:
        loop.add_reader(descriptor, ready.set)
    except (PermissionError, NotImplementedError):  # epoll does not support files, Windows no descriptors
        return False
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)
    return True


def from_stdin(*, limit: int = LINE_LIMIT) -> Source[bytes]:
    """Make a source of the lines of standard input. `limit` is the maximum of bytes in a line."""
    if limit < 1:
        raise ValueError(f"limit: expected at least 1 byte for a line, got {limit!r}")
    return StdinSource(limit)
