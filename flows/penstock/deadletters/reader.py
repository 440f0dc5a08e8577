"""The connection that reads letters. It is imported for the first read only: SQLAlchemy takes 150 ms."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Column, Integer, LargeBinary, MetaData, Select, Table, Text, event, select
from sqlalchemy.ext.asyncio import create_async_engine

from penstock.deadletters.existing import access, uri_of
from penstock.deadletters.letter import Letter
from penstock.deadletters.rows import COLUMNS, letter_of, microseconds
from penstock.deadletters.sheet import Sheet
from penstock.deadletters.store import Filter, Page
from penstock.deadletters.writer import identity
from penstock.ids import CLOCK_SLACK, id_at

_NUMBERS = {"seq", "part", "attempts", "input_size", "started_at", "failed_at", "revision"}

_FEW = 32
"""Rows that are taken from the database at a time: a thousand letters may be a gigabyte."""

LETTERS = Table(
    "letters",
    MetaData(),
    *(
        Column(name, LargeBinary() if name == "input" else Integer() if name in _NUMBERS else Text())
        for name in COLUMNS
    ),
)
"""For queries; the migrations make the table itself."""


class Reader:
    """Reads beside the one who writes: a long page does not hold up a commit, and WAL lets both go on."""

    def __init__(self, path: Path, busy_seconds: float, *, read_only: bool = False) -> None:
        self._path = path
        self._file = identity(path)
        self._engine = create_async_engine(
            URL.create(
                "sqlite+aiosqlite", database=uri_of(path), query=access(path, read_only=read_only) | {"uri": "true"}
            ),
            isolation_level="AUTOCOMMIT",
            connect_args={"timeout": busy_seconds},
            pool_size=1,
            max_overflow=0,
        )
        self._reading = asyncio.Lock()
        self._connection: Any = None
        """The last one that was made, as the driver has it."""
        event.listen(self._engine.sync_engine, "connect", self._note)

    async def letter(self, id: str) -> Letter | None:
        """One letter, or None."""
        page = await self._read(select(LETTERS).where(LETTERS.c.id == id), 1)
        return page.letters[0] if page.letters else None

    async def page(self, filter: Filter, after: str | None, limit: int) -> Page:
        """Letters in the order of their ids, beginning after one of them."""
        return await self._read(page_query(filter, after, limit + 1), limit)

    async def aclose(self) -> None:
        """Finish the read that was begun, and let go of the file."""
        async with self._reading:
            await self._engine.dispose()

    def let_go(self) -> None:
        """Close the file without the event loop, which was closed. To be called in a thread."""
        if self._connection is not None:
            self._connection.stop()

    def _note(self, connection: Any, _: object) -> None:
        self._connection = connection.driver_connection

    async def _read(self, query: Select[Any], limit: int) -> Page:
        async with self._reading:
            if (found := identity(self._path)) != self._file:  # another file is at its place
                await self._engine.dispose()
                self._file = found
            sheet = Sheet(limit)
            async with self._engine.connect() as connection, connection.stream(query) as found:
                async for rows in found.partitions(_FEW):
                    if not all(sheet.take(letter_of(row)) for row in rows):
                        return sheet.page(more=True)
            return sheet.page(more=False)


def page_query(filter: Filter, after: str | None, limit: int) -> Select[Any]:
    """The question for a page. It is read off an index in the order of ids, and sorted never."""
    start = after or ""
    query = select(LETTERS).order_by(LETTERS.c.id).limit(limit)
    if filter.since is not None:
        # SQLite begins at one bound only, so it gets the later one. There is none for `until`: ids never run behind
        # the times of their letters, but they run ahead of a clock that was set back.
        start = max(start, id_at(filter.since, slack=CLOCK_SLACK))
        query = query.where(LETTERS.c.failed_at >= microseconds(filter.since))
    if filter.until is not None:
        query = query.where(LETTERS.c.failed_at < microseconds(filter.until))
    if start:
        query = query.where(LETTERS.c.id > start)
    if filter.min_seq is not None:
        query = query.where(LETTERS.c.seq >= filter.min_seq)
    for name in ("flow", "run", "step", "type", "state"):
        wanted = getattr(filter, name)
        if wanted is not None:
            query = query.where(LETTERS.c[name] == wanted)
    return query
