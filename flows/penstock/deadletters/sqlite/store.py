"""The SQLite dead-letter store: durable, for one machine, readable with any SQLite tool."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from penstock.deadletters.dead_letter import DeadLetter
from penstock.deadletters.sql.rows import to_columns
from penstock.deadletters.sql.sql_queue import SqlQueue
from penstock.deadletters.sqlite.errors import to_store_error
from penstock.deadletters.sqlite.existing import ensure_readable
from penstock.deadletters.sqlite.group_commit import GroupCommitter
from penstock.deadletters.sqlite.shared_writer import SharedWriter
from penstock.deadletters.sqlite.writer import WriterConfig, WriterStatistics
from penstock.deadletters.sqlite.writer_process import WriterProcess
from penstock.deadletters.sqlite.writer_thread import WriterThread
from penstock.deadletters.store import (
    SQLITE,
    Problem,
    StoreStatistics,
)
from penstock.deadletters.stores import validate_file_url
from penstock.errors import RedriveError, StoreError, StoreMissing, describe
from penstock.support.tasks import to_thread_uncancellable
from penstock.support.text import sanitize

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from penstock.deadletters.sqlite.query_thread import QueryThread

T = TypeVar("T")

MakeWriter = Callable[[WriterConfig, WriterStatistics], WriterThread | WriterProcess | SharedWriter]
"""Creates what writes the letters of one store; the counters continue from those that are given."""


class SqliteStore(SqlQueue):
    """Stores letters in the file that `sqlite:///FILE` names; an absolute path begins with four slashes.

    `display_url` is the URL before its variables were substituted, for errors. With `create=False`, `open` raises
    `StoreMissing` instead of creating a database. `busy_seconds` is how long a statement waits for the lock of another
    process. With `read_only=True`, `open` does not create a database either, no write permission is needed, and letters
    cannot be added or changed. An older schema is migrated all the same, or raises `StoreTooOld` if it is not writable.

    With `separate_writer=True`, a subprocess writes the letters, starting with the first one: beside a busy event loop,
    a thread waits for the interpreter longer than it writes. On Windows, a thread writes them all the same.
    `make_writer` replaces both: the processes of one service share a writer (`SharedWriters`).

    Leases follow the clock of this machine, as files are used by processes of one machine. If the clock is set forward,
    leases end early, and letters in work may be redriven twice; if it is set back, they end late.

    Letters that another process adds or changes are seen at once by all methods, but by `statistics` only after
    `refresh_seconds` and one more call. Changes of this store are seen by the second next call of `statistics`.
    """

    editable = True
    _step_pause = 0.12  # while SQLite waits for a lock, it looks every 0.1 s at most

    def __init__(
        self,
        url: str,
        *,
        create: bool = True,
        busy_seconds: float = 5.0,
        refresh_seconds: float = 5.0,
        display_url: str | None = None,
        separate_writer: bool = False,
        read_only: bool = False,
        make_writer: MakeWriter | None = None,
    ) -> None:
        validate_file_url(url, url)
        self._read_only = read_only
        self.url = url if display_url is None else display_url
        self._path = Path(url.removeprefix(SQLITE))
        self._create = create
        self._refresh_seconds = refresh_seconds
        self._refreshed_at = 0.0
        self._file = self._path.absolute()  # the writer may be restarted in another working directory
        self._config = WriterConfig(os.fsencode(self._file), sanitize(self.url), create, busy_seconds)
        self.timeout = self._config.timeout
        own_writer: MakeWriter = WriterProcess if separate_writer and os.name == "posix" else WriterThread
        self._make_writer = make_writer or own_writer
        self._home: asyncio.AbstractEventLoop | None = None
        """The event loop that opened or closed the store last."""
        self.copies: tuple[str, ...] = ()
        self._reset(WriterStatistics())

    def write_with(self, make_writer: MakeWriter) -> None:
        """Have another writer store the letters from the next `open` on. Does nothing while the store is open."""
        if self._loop is None:
            self._make_writer = make_writer
            self._reset(self._committer.statistics)

    async def open(self) -> None:
        """Connect, create or migrate the schema, and count the letters.

        Several users share the open store; it is closed when all of them have closed it. Raises `StoreMissing`,
        `StoreTooNew`, `StoreTooOld`, or `StoreError` with advice.
        """
        self._bind_loop()
        async with self._lock:
            if self._loop is None:
                await self._open()
            self._users += 1

    def add(self, letters: Sequence[DeadLetter]) -> Awaitable[None]:
        """Store letters in one durable commit, together with those of other callers."""
        self._check_open(to_write=True)
        try:
            columns = to_columns(letters)
        except Exception as error:
            raise StoreError(
                f"dead-letter store {self.url}: cannot convert a letter to a row: {describe(error)}"
            ) from error
        self._backend.copies = self.copies
        return self._committer.add(columns, len(letters))

    def statistics(self) -> StoreStatistics:
        """Return the counters. Never waits."""
        self._refresh_if_due()
        writer = self._committer.statistics
        return StoreStatistics(
            {state: count for state, count in writer.counts.items() if count},
            writer.commits,
            writer.failures,
            writer.stored,
            writer.seconds,
            writer.restarts,
        )

    def problem(self) -> Problem | None:
        """Return why letters could not be stored at the last commit or check. Never waits; a check follows soon."""
        self._refresh_if_due()
        return self._committer.problem

    async def aclose(self) -> None:
        """Close the store for one of its users. The last one completes pending calls and closes the file."""
        self._bind_loop()
        async with self._lock:
            if self._loop is not None:
                self._users -= 1
                if not self._users:
                    await self._close()

    def _reset(self, statistics: WriterStatistics) -> None:
        """Create everything that belongs to one event loop."""
        self._backend = self._make_writer(self._config, statistics)
        self._committer = GroupCommitter[Any](self._backend, self._to_store_error)
        self._reads: QueryThread | None = None
        self._writes: QueryThread | None = None
        """Apart from `_reads`: a long search must not delay the settlements and leases of a redrive."""
        self._lock = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        """The event loop in which the store is open."""
        self._users = 0
        """How often it was opened and not yet closed."""

    def _bind_loop(self) -> None:
        """Bind the store to the running event loop. Raises `StoreError` if it is in use in another one."""
        loop = asyncio.get_running_loop()
        if self._home is loop:
            return
        if self._home is not None:
            if not self._home.is_closed() and (self._loop is not None or self._lock.locked()):
                raise self._wrong_loop()
            if self._loop is not None:  # an event loop that was closed left it open
                self._committer.close_detached()
                for queries in filter(None, (self._reads, self._writes)):
                    queries.close_detached()
            self._reset(self._committer.statistics)
        self._home = loop

    async def _open(self) -> None:
        try:
            if (self._read_only or not self._create) and not self._path.exists():
                raise StoreMissing(self.url)
            if self._read_only:
                await to_thread_uncancellable(lambda: ensure_readable(self._file, self._config))
            else:
                await self._committer.open()
        except BaseException as error:
            await self._committer.aclose()
            if isinstance(error, Exception):
                store_error = self._to_store_error(error)
                raise store_error from store_error.__cause__
            raise
        self._refreshed_at = time.monotonic()
        self._loop = asyncio.get_running_loop()

    async def _close(self) -> None:
        self._loop = None
        try:
            await self._committer.aclose()
        except Exception as error:
            store_error = self._to_store_error(error)
            raise store_error from store_error.__cause__
        finally:
            open_threads = [queries for queries in (self._reads, self._writes) if queries is not None]
            self._reads = self._writes = None
            await asyncio.gather(*(queries.aclose() for queries in open_threads))

    async def _read(self, operation: Callable[[Connection], T]) -> T:
        self._check_open()
        return await self._run(operation, to_write=False)

    async def _write(self, operation: Callable[[Connection], T]) -> T:
        self._check_open(to_write=True)
        try:
            return await self._run(operation, to_write=True)
        finally:
            self._refreshed_at = 0.0  # the counts have changed

    async def _run(self, operation: Callable[[Connection], T], *, to_write: bool) -> T:
        try:
            queries = await self._queries(to_write=to_write)
            return await (queries.write(operation) if to_write else queries.read(operation))
        except RedriveError:
            raise
        except Exception as error:
            store_error = self._to_store_error(error)
            raise store_error from store_error.__cause__

    async def _queries(self, *, to_write: bool) -> QueryThread:
        found = self._writes if to_write else self._reads
        if found is not None:
            return found
        # In a thread, because importing SQLAlchemy takes 150 ms.
        module = await to_thread_uncancellable(lambda: import_module("penstock.deadletters.sqlite.query_thread"))
        self._check_open()
        found = self._writes if to_write else self._reads  # another task may have begun earlier
        if found is None:
            found = module.QueryThread(self._file, self._config.busy_seconds, read_only=self._read_only)
            if to_write:
                self._writes = found
            else:
                self._reads = found
        return found

    def _refresh_if_due(self) -> None:
        loop = self._loop
        if loop is None or loop.is_closed() or self._read_only:
            return
        if time.monotonic() - self._refreshed_at >= self._refresh_seconds:
            self._refreshed_at = time.monotonic()
            loop.call_soon_threadsafe(self._refresh)  # metrics may be read in another thread

    def _refresh(self) -> None:
        if self._loop is not None:
            self._committer.refresh_counts()

    def _check_open(self, *, to_write: bool = False) -> None:
        if self._loop is None or self._loop.is_closed():
            raise StoreError(
                f"dead-letter store {self.url}: it is not open; outside of a run, call await store.open() first, and "
                "await store.aclose() at the end"
            )
        if self._loop is not asyncio.get_running_loop():
            raise self._wrong_loop()
        if to_write and self._read_only:
            raise StoreError(f"dead-letter store {self.url}: it is open for reading only")

    def _wrong_loop(self) -> StoreError:
        return StoreError(
            f"dead-letter store {self.url}: opened in another event loop; close it there, or create a second store"
        )

    def _to_store_error(self, error: Exception) -> StoreError:
        return to_store_error(error, self.url, self._path)
