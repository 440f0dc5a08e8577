"""Runs the queries of a store in a thread, on a separate connection."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from sqlalchemy import URL, Connection, create_engine, event

from penstock.deadletters.dead_letter import DeadLetter
from penstock.deadletters.sql.rows import from_row
from penstock.deadletters.sql.table import delete_letters, select_counts, select_letter, select_page, update_state
from penstock.deadletters.sqlite.database_file import file_identity
from penstock.deadletters.sqlite.existing import database_uri, open_mode
from penstock.deadletters.store import DeadLetterQuery, GroupField, Page, PageBuilder

T = TypeVar("T")

FETCH_ROWS = 32
"""Rows fetched at a time: a thousand letters may be a gigabyte."""

UPDATE_IDS = 500
"""Ids in one statement."""

DELETE_ROWS = 500
"""Letters deleted by one transaction. Between two of them, the writer can commit."""


class QueryThread:
    """Reads, updates and deletes letters. In WAL mode, reading does not block a commit of the writer, nor vice versa.

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

    async def get(self, id: str) -> DeadLetter | None:
        """Return the letter with this id, or None."""

        def read(connection: Connection) -> DeadLetter | None:
            row = connection.execute(select_letter(id)).first()
            return None if row is None else from_row(row)

        return await self._run(read)

    async def page(self, query: DeadLetterQuery, after: str | None, limit: int) -> Page:
        """Return letters in the order of their ids, starting after an id."""

        def read(connection: Connection) -> Page:
            page = PageBuilder(limit)
            with connection.execute(select_page(query, after, limit + 1)) as result:
                for rows in result.partitions(FETCH_ROWS):
                    if not all(page.add(from_row(row)) for row in rows):
                        return page.page(more=True)
            return page.page(more=False)

        return await self._run(read)

    async def count(self, query: DeadLetterQuery, by: Sequence[GroupField]) -> Mapping[tuple[str, ...], int]:
        """Count letters by the values of some fields."""

        def read(connection: Connection) -> Mapping[tuple[str, ...], int]:
            return {tuple(fields): count for *fields, count in connection.execute(select_counts(query, by))}

        return await self._run(read)

    async def update(self, ids: Sequence[str], state: str) -> int:
        """Set the state of letters in one transaction; returns how many of the ids exist."""
        known = sorted(set(ids))

        def change(connection: Connection) -> int:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            try:
                changed = sum(
                    connection.execute(update_state(known[start : start + UPDATE_IDS], state)).rowcount
                    for start in range(0, len(known), UPDATE_IDS)
                )
                connection.exec_driver_sql("COMMIT")
            except BaseException:
                connection.exec_driver_sql("ROLLBACK")
                raise
            return changed

        return await self._run(change) if known else 0

    async def delete(self, query: DeadLetterQuery) -> int:
        """Delete letters, `DELETE_ROWS` in each transaction; returns how many."""

        def change(connection: Connection) -> int:
            return connection.execute(delete_letters(query, DELETE_ROWS)).rowcount

        deleted = 0
        while True:
            count = await self._run(change)
            deleted += count
            if count < DELETE_ROWS:
                return deleted

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

    async def _run(self, query: Callable[[Connection], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._execute, query)

    def _execute(self, query: Callable[[Connection], T]) -> T:
        if (identity := file_identity(self._path)) != self._file:  # another file is at the path
            self._engine.dispose()
            self._file = identity
        with self._engine.connect() as connection:
            return query(connection)

    def _on_connect(self, connection: sqlite3.Connection, _: object) -> None:
        self._connection = connection
        connection.execute("PRAGMA synchronous=FULL")
