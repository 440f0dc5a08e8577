"""Runs the writer in a thread of this process."""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor

from penstock.deadletters.sql.rows import Columns
from penstock.deadletters.sqlite.group_commit import OnDone
from penstock.deadletters.sqlite.writer import Writer, WriterConfig, WriterStatistics


class WriterThread:
    """Runs a `Writer` in one thread, from `open` to `aclose`."""

    def __init__(self, config: WriterConfig, statistics: WriterStatistics | None = None) -> None:
        self._writer = Writer(config, statistics)
        self._executor: ThreadPoolExecutor | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def statistics(self) -> WriterStatistics:
        """The counters of the writer."""
        return self._writer.statistics

    @property
    def copies(self) -> tuple[str, ...]:
        """The copies of the store. It may be replaced at any time."""
        return self._writer.copies

    @copies.setter
    def copies(self, names: tuple[str, ...]) -> None:
        self._writer.copies = names

    @property
    def timeout(self) -> None:
        """None, because a thread cannot be stopped."""
        return None

    def serialize(self, columns: Columns) -> Columns:
        """Return the columns unchanged."""
        return columns

    async def open(self) -> None:
        """Start the thread and open the database in it."""
        self._loop = asyncio.get_running_loop()
        self._executor = ThreadPoolExecutor(1, "dead letters")
        await self._loop.run_in_executor(self._executor, self._writer.open)

    def submit(self, batches: list[Columns], *, refresh: bool, on_done: OnDone) -> None:
        """Have the thread store a group."""
        assert self._loop is not None
        self._loop.run_in_executor(self._executor, self._write, batches, refresh, on_done)

    async def aclose(self) -> None:
        """Close the database and end the thread."""
        assert self._executor is not None
        assert self._loop is not None
        try:
            await self._loop.run_in_executor(self._executor, self._writer.close)
        finally:
            self._executor.shutdown(wait=False)
            self._executor = None

    def kill(self) -> None:
        """Do nothing: a thread cannot be stopped."""

    def close_detached(self) -> None:
        """Have the thread finish its work, close the database, and end. Does not wait for it."""
        if self._executor is not None:
            self._executor.submit(self._writer.close)
            self._executor.shutdown(wait=False)
            self._executor = None

    def _write(self, batches: list[Columns], refresh: bool, on_done: OnDone) -> None:
        errors = self._writer.write(batches, refresh=refresh)
        with contextlib.suppress(RuntimeError):  # the event loop was closed, with all callers
            assert self._loop is not None
            self._loop.call_soon_threadsafe(on_done, errors)
