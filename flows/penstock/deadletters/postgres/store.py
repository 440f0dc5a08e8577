"""The PostgreSQL dead-letter store: durable, for several machines, readable with any PostgreSQL tool."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from penstock.backends.postgres import PostgresServer
from penstock.deadletters.dead_letter import DeadLetter
from penstock.deadletters.postgres.errors import concerns_store, to_store_error
from penstock.deadletters.postgres.writer import PostgresWriter
from penstock.deadletters.sql.rows import Columns, to_columns
from penstock.deadletters.sql.sql_queue import SqlQueue
from penstock.deadletters.sqlite.group_commit import GroupCommitter
from penstock.deadletters.sqlite.writer import WriterStatistics
from penstock.deadletters.store import Problem, StoreStatistics
from penstock.errors import FlowDefinitionError, RedriveError, StoreError, describe

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncEngine

T = TypeVar("T")

POOL = 5
"""Maximum number of connections for queries. One more is for writing letters."""

POOL_SECONDS = 30.0
"""How long a query waits for a connection of the pool."""


class PostgresStore(SqlQueue):
    """Stores letters in the database that `postgresql://USER:PASSWORD@HOST:PORT/DATABASE?OPTIONS` names.

    Options are those of libpq, such as `sslmode` and `host` (for a folder of Unix sockets). The tables are in the
    schema `penstock`, or in the one that `search_path` names. `display_url` is the URL for errors, without password.
    With `create=False`, `open` raises `StoreMissing` instead of creating tables. With `read_only=True`, letters cannot
    be added or changed.

    Several processes may use one database. Letters that another process adds are seen at once by all methods, except
    `statistics`: it sees them after `refresh_seconds` and one more call.
    """

    def __init__(
        self,
        url: str,
        *,
        create: bool = True,
        refresh_seconds: float = 5.0,
        display_url: str | None = None,
        read_only: bool = False,
    ) -> None:
        self.url = display_url or url
        try:
            self._server = PostgresServer.of(url)
        except ValueError:
            raise FlowDefinitionError(
                f"dead-letter store {self.url!r}: connect_timeout: expected a number of seconds"
            ) from None
        self.copies: tuple[str, ...] = ()
        self._create = create and not read_only
        self._read_only = read_only
        self._refresh_seconds = refresh_seconds
        self._refreshed_at = 0.0
        self._reset(WriterStatistics())
        self.timeout = self._writer.timeout

    async def open(self) -> None:
        """Connect, create or migrate the schema, and count the letters.

        Several users share the open store; it is closed when all of them have closed it. Raises `StoreMissing`,
        `StoreTooNew`, or `StoreError` with advice.
        """
        if self._loop is not None and self._loop.is_closed():  # its connections went with it
            self._committer.close_detached()
            self._reset(self._committer.statistics)
        async with self._lock:
            if self._loop is None:
                await self._open()
            elif self._loop is not asyncio.get_running_loop():
                raise self._wrong_loop()
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
        """Close the store for one of its users. The last one completes pending calls and disconnects."""
        if self._loop is None or self._loop.is_closed():
            return
        async with self._lock:
            self._users -= 1
            if not self._users:
                await self._close()

    def _reset(self, statistics: WriterStatistics) -> None:
        """Create everything that belongs to one event loop."""
        self._writer = PostgresWriter(
            self._server, self.url, statistics, create=self._create, copies=lambda: self.copies
        )
        self._committer = GroupCommitter[Columns](self._writer, self._to_store_error, concerns_store)
        self._engine: AsyncEngine | None = None
        self._lock = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        """The event loop in which the store is open."""
        self._users = 0
        """How often it was opened and not yet closed."""

    async def _open(self) -> None:
        try:
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
        finally:
            engine, self._engine = self._engine, None
            if engine is not None:
                await engine.dispose()

    async def _read(self, operation: Callable[[Connection], T]) -> T:
        self._check_open()
        return await self._run(operation)

    async def _write(self, operation: Callable[[Connection], T]) -> T:
        self._check_open(to_write=True)
        try:
            return await self._run(operation)
        finally:
            self._refreshed_at = 0.0  # the counts have changed

    async def _run(self, operation: Callable[[Connection], T]) -> T:
        try:
            async with self._queries().begin() as connection:
                return await connection.run_sync(operation)
        except RedriveError:
            raise
        except Exception as error:
            store_error = self._to_store_error(error)
            raise store_error from store_error.__cause__

    def _queries(self) -> AsyncEngine:
        if self._engine is None:
            from penstock.deadletters.postgres.engine import create_engine  # SQLAlchemy takes 150 ms to import

            self._engine = create_engine(self._server, POOL, POOL_SECONDS)
        return self._engine

    def _refresh_if_due(self) -> None:
        loop = self._loop
        if loop is None or loop.is_closed():
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
        return to_store_error(error, self.url)
