"""The connection that writes letters: plain calls that wait for the disk, all made in one thread of its own."""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from penstock.deadletters.insert import GROUP, STATE, WIDTH, insert_of, values_of
from penstock.deadletters.rows import Columns
from penstock.deadletters.schema import prepare


class Writer:
    """Writes letters, many in one durable commit, and counts what is there.

    A group is one INSERT of many rows in autocommit mode: one call of the driver, one transaction, one sync.

    Plain numbers, which another thread may read: `counts` (letters by state), `commits`, `failures` (groups that could
    not be committed), `stored` (letters that were new) and `seconds` (of failed groups too).
    """

    # Measured in letters/s, five indexes. Idle loop: groups of 85, of 512. Busy: 512, beside a loop that burns Python
    # in slices of 1 ms; switch interval 5 ms, 0.5 ms; the busy ones vary threefold with luck.
    #     Core insert, executemany               33k  51k   16k      14k
    #     executemany of tuples, the driver      50k  76k   below 1k  2k
    #     many rows in one INSERT, SQLAlchemy    56k  86k   21k      33k
    #     many rows in one INSERT, the driver    63k  84k   10-35k   29-49k   (this one)
    #     INSERT from json_each                  39k  52k    9k      21k
    # Whoever lets go of the GIL beside a busy loop waits to get it back: executemany for each row, SQLAlchemy for each
    # of its three calls of the driver, one INSERT about twice for the whole group. (`serve` makes that wait short.)
    # Values bound as 5 columns, most of them in one JSON text: 1 µs a letter less under the GIL, 1.7 more beside it.
    # A larger `wal_autocheckpoint`: a growing file costs each sync more than checkpoints cost.

    def __init__(self, path: Path, busy_seconds: float) -> None:
        self.counts: Counter[str] = Counter()
        self.commits = 0
        self.failures = 0
        self.stored = 0
        self.seconds = 0.0
        self._path = path
        self._busy_seconds = busy_seconds
        self._database: sqlite3.Connection | None = None
        self._seen: object = None

    def open(self, url: str, *, create: bool) -> None:
        """Connect, bring the schema up to date, and count what is there."""
        self._database = sqlite3.connect(self._path, timeout=self._busy_seconds, isolation_level=None)
        try:
            prepare(self._database, url, create=create, patience=self._busy_seconds)
            self._recount()
        except BaseException:
            self._database.close()
            self._database = None
            raise

    def write(self, calls: Sequence[Columns]) -> list[Exception | None]:
        """Store the letters of several callers together; returns what each has to be told: None, or why it failed.

        The letters of one caller are stored all or none.
        """
        error = self._commit(calls)
        # A disk or a lock fails all alike; anything else may be the fault of one caller's letters.
        if error is None or len(calls) == 1 or isinstance(error, sqlite3.OperationalError):
            return [error] * len(calls)
        return [self._commit([columns]) for columns in calls]

    def refresh(self) -> None:
        """Count again if another process has changed the database."""
        try:
            if self._seen is None or self._version() != self._seen:
                self._recount()
        except sqlite3.Error:
            self._seen = None  # a count that failed undoes no commit; the next look counts again

    def close(self) -> None:
        """Let go of the file."""
        if self._database is None:
            return
        try:
            # Passive: readers in other processes are not waited for. The last one to leave empties the WAL.
            self._database.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        finally:
            self._database.close()
            self._database = None

    def _commit(self, calls: Sequence[Columns]) -> Exception | None:
        begun = time.perf_counter()
        try:
            values = values_of(calls)
            stored = self._insert(values)
        except Exception as error:
            self.failures += 1
            return error
        finally:
            self.seconds += time.perf_counter() - begun
        self.commits += 1
        self.stored += stored
        self._count(values[STATE::WIDTH], stored)
        return None

    def _insert(self, values: list[Any]) -> int:
        most = GROUP * WIDTH
        if len(values) <= most:
            return self._insert_group(values)
        database = self._opened()
        database.execute("BEGIN IMMEDIATE")
        try:
            stored = sum(self._insert_group(values[start : start + most]) for start in range(0, len(values), most))
            database.execute("COMMIT")
        finally:
            if database.in_transaction:
                database.execute("ROLLBACK")
        return stored

    def _insert_group(self, values: list[Any]) -> int:
        count = len(values) // WIDTH
        size = count if count <= 4 else -(-count // 32) * 32
        # Few sizes, so that SQLite keeps their statements ready; the last row again does nothing.
        padded = values + values[-WIDTH:] * (size - count)
        return self._opened().execute(insert_of(size), padded).rowcount

    def _count(self, states: list[str], stored: int) -> None:
        if states.count(states[0]) == len(states):
            self.counts[states[0]] += stored
        elif stored == len(states):
            self.counts.update(states)
        else:
            self._seen = None
            self.refresh()

    def _recount(self) -> None:
        self._seen = self._version()
        counted = self._opened().execute("SELECT state, count(*) FROM letters GROUP BY state")
        self.counts = Counter(dict(counted.fetchall()))

    def _version(self) -> object:
        # Changes when another connection has committed, and not when this one has.
        return self._opened().execute("PRAGMA data_version").fetchone()[0]

    def _opened(self) -> sqlite3.Connection:
        assert self._database is not None
        return self._database
