"""Has letters written by a thread of this process."""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor

from penstock.deadletters.committer import Tell
from penstock.deadletters.rows import Columns
from penstock.deadletters.writer import Numbers, Place, Writer


class Threaded:
    """Works in one thread, from `open` to `aclose`."""

    def __init__(self, place: Place, numbers: Numbers | None = None) -> None:
        self._writer = Writer(place, numbers)
        self._thread: ThreadPoolExecutor | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def numbers(self) -> Numbers:
        """What was written so far, and what is there."""
        return self._writer.numbers

    @property
    def patience(self) -> None:
        """A thread cannot be ended."""
        return None

    def pack(self, columns: Columns) -> Columns:
        """A thread takes them as they are."""
        return columns

    async def open(self) -> None:
        """Start the thread and open the database in it."""
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, "dead letters")
        await self._loop.run_in_executor(self._thread, self._writer.open)

    def work(self, loads: list[Columns], *, look_again: bool, tell: Tell) -> None:
        """Hand a piece of work to the thread."""
        assert self._loop is not None
        self._loop.run_in_executor(self._thread, self._work, loads, look_again, tell)

    async def aclose(self) -> None:
        """Close the database and end the thread."""
        assert self._thread is not None
        assert self._loop is not None
        try:
            await self._loop.run_in_executor(self._thread, self._writer.close)
        finally:
            self._thread.shutdown(wait=False)
            self._thread = None

    def abandon(self) -> None:
        """A thread cannot be ended."""

    def let_go(self) -> None:
        """Wait for what the thread does, close the database, and end the thread."""
        if self._thread is not None:
            self._thread.submit(self._writer.close)
            self._thread.shutdown()
            self._thread = None

    def _work(self, loads: list[Columns], look_again: bool, tell: Tell) -> None:
        """In the thread: look, write, and tell the event loop."""
        errors = self._writer.work(loads, look_again=look_again)
        with contextlib.suppress(RuntimeError):  # the event loop was closed, and with it whoever waited
            assert self._loop is not None
            self._loop.call_soon_threadsafe(tell, errors)
