"""One task that merges what many callers store at once into few durable commits."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from operator import itemgetter

import aiosqlite

from penstock.deadletters.rows import COLUMNS, STATE, Row
from penstock.errors import StoreError

GROUP = 512
"""Letters in one statement at most; SQLite allows 32,766 values, these are 8,704."""


@dataclass(slots=True, eq=False)
class Wish:
    """The rows of one caller, and the future that it waits for."""

    rows: list[Row]
    done: asyncio.Future[None]


class Committer:
    """The writing connection of a store. A task lives only while there is something to write.

    A group is one INSERT of many rows in autocommit mode: one call of the driver, one transaction, one sync.
    """

    # Measured in letters/s, five indexes. Idle loop: groups of 85, of 512. Busy: 512, beside a loop that burns Python
    # in slices of 1 ms; switch interval 5 ms, 0.5 ms; the busy ones vary threefold with luck.
    #     Core insert, executemany               33k  51k   16k      14k
    #     executemany of tuples, the driver      50k  76k   below 1k  2k
    #     many rows in one INSERT, SQLAlchemy    56k  86k   21k      33k
    #     many rows in one INSERT, the driver    63k  84k   10-35k   29-49k   (this one)
    #     INSERT from json_each                  39k  52k    9k      21k
    # Whoever lets go of the GIL beside a busy loop waits milliseconds to get it back: executemany for each row,
    # SQLAlchemy for each of its three calls of the driver, one INSERT about twice for the whole group.

    def __init__(self, explain: Callable[[Exception], StoreError], note: Callable[[int | None, float], None]) -> None:
        """`note` is told of each commit: the letters that were new, None when it failed, and its seconds."""
        self.counts: Counter[str] = Counter()
        self._explain = explain
        self._note = note
        self._writer: aiosqlite.Connection | None = None
        self._wishes: deque[Wish] = deque()
        self._look_again = False
        self._seen: object = None
        self._task: asyncio.Task[None] | None = None

    async def open(self, writer: aiosqlite.Connection) -> None:
        """Use a connection, and count what is there."""
        self._writer = writer
        await self._recount()

    async def store(self, rows: list[Row]) -> None:
        """Store rows, all or none. The commit goes on when the caller is cancelled."""
        done = asyncio.get_running_loop().create_future()
        self._wishes.append(Wish(rows, done))
        self._wake()
        await done

    def look_again(self) -> None:
        """Count again soon, if another process has changed the database."""
        self._look_again = True
        self._wake()

    async def aclose(self) -> None:
        """Finish what was asked for, then let go of the connection, which its owner closes."""
        if self._task is not None:
            await asyncio.wait((self._task,))
        writer, self._writer = self._writer, None
        if writer is not None:
            # Passive: readers in other processes are not waited for. The last one to leave empties the WAL.
            await writer.execute_fetchall("PRAGMA wal_checkpoint(PASSIVE)")

    def _wake(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="dead letters: commit")

    async def _run(self) -> None:
        try:
            while self._wishes or self._look_again:
                if self._look_again:
                    await self._refresh()
                if self._wishes:
                    await self._commit(self._next_group())
        finally:
            self._task = None
            while self._wishes:  # only when this task is cancelled with its loop
                _fail(self._wishes.popleft(), StoreError("the dead letters were closed before these were stored"))

    def _next_group(self) -> list[Wish]:
        group = [self._wishes.popleft()]
        size = len(group[0].rows)
        while self._wishes and size + len(self._wishes[0].rows) <= GROUP:
            size += len(self._wishes[0].rows)
            group.append(self._wishes.popleft())
        return group

    async def _commit(self, group: list[Wish]) -> None:
        rows = [row for wish in group for row in wish.rows]
        begun = time.perf_counter()
        try:
            stored = await self._insert(rows)
        except asyncio.CancelledError:
            for wish in group:
                _fail(wish, StoreError("the process ended during the commit; these letters may be stored or not"))
            raise
        except Exception as error:
            self._note(None, time.perf_counter() - begun)
            await self._part(group, error)
            return

        self._note(stored, time.perf_counter() - begun)
        await self._count(rows, stored)
        for wish in group:
            if not wish.done.done():
                wish.done.set_result(None)

    async def _part(self, group: list[Wish], error: Exception) -> None:
        # A disk or a lock fails all alike; anything else may be the fault of one caller's letters.
        if len(group) == 1 or isinstance(error, sqlite3.OperationalError):
            for wish in group:
                _fail(wish, self._explain(error))
            return
        for wish in group:
            await self._commit([wish])

    async def _insert(self, rows: list[Row]) -> int:
        if len(rows) <= GROUP:
            return await self._insert_group(rows)
        writer = self._open_writer()
        await writer.execute("BEGIN IMMEDIATE")
        try:
            stored = 0
            for start in range(0, len(rows), GROUP):
                stored += await self._insert_group(rows[start : start + GROUP])
            await writer.execute("COMMIT")
        finally:
            if writer.in_transaction:
                await writer.execute("ROLLBACK")
        return stored

    async def _insert_group(self, rows: list[Row]) -> int:
        size = len(rows) if len(rows) <= 4 else -(-len(rows) // 32) * 32
        values = [value for row in rows for value in row]
        # Few sizes, so that SQLite keeps their statements ready; the last row again does nothing.
        values += rows[-1] * (size - len(rows))
        return (await self._open_writer().execute(_insert_of(size), values)).rowcount

    async def _count(self, rows: list[Row], stored: int) -> None:
        states = Counter(map(itemgetter(STATE), rows))
        if stored == len(rows):
            self.counts.update(states)
        elif len(states) == 1:
            self.counts[rows[0][STATE]] += stored
        else:
            self._seen = None
            await self._refresh()

    async def _refresh(self) -> None:
        self._look_again = False
        try:
            if self._seen is None or await self._version() != self._seen:
                await self._recount()
        except Exception:
            self._seen = None  # a count that failed undoes no commit; the next look counts again

    async def _recount(self) -> None:
        self._seen = await self._version()
        rows = await self._open_writer().execute_fetchall("SELECT state, count(*) FROM letters GROUP BY state")
        self.counts = Counter({str(row[0]): int(row[1]) for row in rows})

    async def _version(self) -> object:
        # Changes when another connection has committed, and not when this one has.
        return next(iter(await self._open_writer().execute_fetchall("PRAGMA data_version")))[0]

    def _open_writer(self) -> aiosqlite.Connection:
        if self._writer is None:
            raise StoreError("the dead letters are closed")
        return self._writer


def _fail(wish: Wish, error: StoreError) -> None:
    if not wish.done.done():
        wish.done.set_exception(error)


@cache
def _insert_of(size: int) -> str:
    row = f"({','.join('?' * len(COLUMNS))})"
    return f"INSERT INTO letters ({','.join(COLUMNS)}) VALUES {','.join([row] * size)} ON CONFLICT (id) DO NOTHING"  # noqa: S608 - no input
