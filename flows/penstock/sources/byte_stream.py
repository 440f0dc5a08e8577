"""NDJSON: one element a line, split from whole chunks of bytes.

The lines go out as they came, as bytes: reading them as JSON is the first step of the flow (`decode`), so that a line
which is no JSON fails like any other element, with its bytes kept.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import dataclass

from penstock.formats.ndjson_reader import LINE_LIMIT, LineSplitter, Splitter
from penstock.sources.file import CHUNK
from penstock.sources.source import Emitter, Source
from penstock.support.tasks import to_thread_uncancellable


class NdjsonSource(Source[bytes]):
    """The lines of a stream of chunks; reads one chunk ahead at most."""

    name = "ndjson"

    def __init__(self, chunks: AsyncIterable[bytes], limit: int) -> None:
        super().__init__()
        self._chunks = chunks
        self._limit = limit

    async def produce(self, intake: Emitter[bytes]) -> None:
        await emit_chunks(intake, self._chunks, LineSplitter(self._limit))


async def emit_chunks(intake: Emitter[bytes], stream: AsyncIterable[bytes], splitter: Splitter) -> None:
    """Give out all lines of a stream of chunks, and close it however that ends."""
    chunks = aiter(stream)
    try:
        async for chunk in chunks:
            if lines := splitter.feed(chunk):
                await intake.send(lines, list(map(len, lines)))
            await intake.wait_for_capacity()
    finally:
        if (close := getattr(chunks, "aclose", None)) is not None:
            await close()
    if lines := splitter.finish():
        await intake.send(lines, list(map(len, lines)))


def ndjson(chunks: AsyncIterable[bytes], *, limit: int = LINE_LIMIT) -> Source[bytes]:
    """A source of lines of JSON from an async iterable of chunks of bytes. `limit` is the bytes a line may have."""
    return NdjsonSource(chunks, limit)


@dataclass(unsafe_hash=True)
class StdinSource(Source[bytes]):
    """The lines of an open file descriptor, which is not closed: it is not ours."""

    name = "standard input"

    limit: int = LINE_LIMIT
    descriptor: int = 0

    def __post_init__(self) -> None:
        super().__init__()

    async def produce(self, intake: Emitter[bytes]) -> None:
        await NdjsonSource(chunks_of(self.descriptor), self.limit).produce(intake)


async def chunks_of(descriptor: int) -> AsyncIterator[bytes]:
    """What can be read from a pipe, a terminal, a socket or a file, until its end.

    Where the event loop can tell that there is something to read, nothing is read before: so a cancel ends the wait, no
    thread hangs in a read, and no input is taken that nobody will see. (Making the descriptor non-blocking would do as
    well, but would do it to all who share it, such as the shell.) Regular files are always ready.
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
    """Wait until there is something to read; returns False at once where the event loop cannot tell."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    try:
        loop.add_reader(descriptor, ready.set)
    except (PermissionError, NotImplementedError):  # epoll knows no files; Windows no descriptors
        return False
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)
    return True


def from_stdin(*, limit: int = LINE_LIMIT) -> Source[bytes]:
    """A source of the lines of standard input. `limit` is the bytes that a line may have."""
    if limit < 1:
        raise ValueError(f"a line needs at least 1 byte, got limit {limit!r}")
    return StdinSource(limit)
