"""Runs queries of a store in a thread, on a separate connection: one for those that read, one for changes."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from sqlalchemy import URL, Connection, create_engine, event
from sqlalchemy.exc import OperationalError

from penstock.deadletters.sqlite.database_file import file_identity
from penstock.deadletters.sqlite.existing import database_uri, open_mode

T = TypeVar("T")


class QueryThread:
    """Runs operations on letters. In WAL mode, reading does not block a commit of the writer, nor vice versa.

    The thread uses the synchronous driver: an asynchronous one for SQLite is a thread too, with its own queue.
    """

    def __init__(self, path: Path, busy_seconds: float, *, read_only: bool = False) -> None:
        self._path = path
        self._file = file_identity(path)
        self._executor = ThreadPoolExecutor(1, "dead letters")
        self._engine = create_engine(
            URL.create(
                "sqlite", database=database_uri(path), query=open_mode(path, read_only=read_only) | {"uri": "true"}
            ),
            isolation_level="AUTOCOMMIT",
            connect_args={"timeout": busy_seconds},
            pool_size=1,
            max_overflow=0,
        )
        self._connection: sqlite3.Connection | None = None
        event.listen(self._engine, "connect", self._on_connect)

    async def read(self, operation: Callable[[Connection], T]) -> T:
        """Run an operation that changes nothing."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._execute, operation)

    async def write(self, operation: Callable[[Connection], T]) -> T:
        """Run an operation in a transaction, which is rolled back if the operation raises."""

        def run(connection: Connection) -> T:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            try:
                result = operation(connection)
                connection.exec_driver_sql("COMMIT")
            except BaseException:
                with suppress(OperationalError):  # some errors, such as a full disk, have rolled back already
                    connection.exec_driver_sql("ROLLBACK")
                raise
            return result

        return await self.read(run)

    async def aclose(self) -> None:
        """Finish the current query, then close the connection. A caller that is cancelled interrupts the query."""
        closing = self._close()
        try:
            await asyncio.shield(asyncio.wrap_future(closing))
        except asyncio.CancelledError:
            self._interrupt()
            raise

    def close_detached(self) -> None:
        """Interrupt the current query and close the connection, without waiting."""
        self._interrupt()
        self._close()

    def _close(self) -> Future[None]:
        closing = self._executor.submit(self._engine.dispose)
        self._executor.shutdown(wait=False)
        return closing

    def _interrupt(self) -> None:
        if self._connection is not None:
            self._connection.interrupt()

    def _execute(self, query: Callable[[Connection], T]) -> T:
        if (identity := file_identity(self._path)) != self._file:  # another file is at the path
            self._engine.dispose()
            self._file = identity
        with self._engine.connect() as connection:
            return query(connection)

    def _on_connect(self, connection: sqlite3.Connection, _: object) -> None:
        self._connection = connection
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA temp_store=MEMORY")  # statements that change many rows keep the old ones meanwhile
