"""Standard input as a source: a line of NDJSON an element."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass

from penstock.sources.files import CHUNK
from penstock.sources.ndjson import LINE_LIMIT, Ndjson
from penstock.sources.source import Intake, Source
from penstock.threads import in_thread


@dataclass(unsafe_hash=True)
class StandardInput(Source[bytes]):
    """The lines of an open file descriptor, which is not closed: it is not ours."""

    name = "standard input"

    limit: int = LINE_LIMIT
    descriptor: int = 0

    def __post_init__(self) -> None:
        super().__init__()

    async def produce(self, intake: Intake[bytes]) -> None:
        await Ndjson(chunks_of(self.descriptor), self.limit).produce(intake)


async def chunks_of(descriptor: int) -> AsyncIterator[bytes]:
    """What can be read from a pipe, a terminal, a socket or a file, until its end.

    Where the event loop can tell that there is something to read, nothing is read before: so a cancel ends the wait, no
    thread hangs in a read, and no input is taken that nobody will see. (Making the descriptor non-blocking would do as
    well, but would do it to all who share it, such as the shell.) Regular files are always ready.
    """
    while True:
        if not await readable(descriptor):
            chunk = await in_thread(lambda: os.read(descriptor, CHUNK))
        else:
            chunk = os.read(descriptor, CHUNK)
        if not chunk:
            return
        yield chunk


async def readable(descriptor: int) -> bool:
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
    return StandardInput(limit)
