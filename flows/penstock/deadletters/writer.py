"""The connection that writes letters: plain calls that wait for the disk, all made in one thread or process."""

from __future__ import annotations

import os
import sqlite3
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from msgspec import Struct

from penstock.deadletters.insert import GROUP, STATE, WIDTH, insert_of, values_of
from penstock.deadletters.rows import Columns
from penstock.deadletters.schema import prepare
from penstock.errors import StoreError, StoreMoved, StoreReplaced, StoreTruncated


class Place(Struct, frozen=True):
    """Where letters are written, and how."""

    path: bytes
    """As the system has it: a name of a file need not be text."""
    url: str
    """As it was written, in text that can be encoded: errors name that one."""
    create: bool
    busy_seconds: float
    """How long a statement waits for the lock of another process."""

    @property
    def patience(self) -> float:
        """Seconds that one commit may take: the one that is under way, then its own."""
        return 2 * self.busy_seconds + 2


def identity(path: bytes | Path) -> tuple[int, int] | None:
    """What tells the file at a path from any other, also from one of the same name; None if there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def create_private(path: bytes) -> None:
    """Create an empty file that only its owner can read, unless there is a file; SQLite gives its logs the same mode.

    A file that exists is not opened: closing it would drop the locks that SQLite holds on it in this process.
    """
    # A link without a target is followed, as SQLite does. What else is wrong, SQLite reports.
    with suppress(OSError):
        os.close(os.open(os.path.realpath(path), os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


def size_of(path: bytes) -> int:
    """How many bytes a file has; 0 if there is none."""
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


class Numbers(Struct):
    """What was written so far, and what is there: plain numbers, which another thread may read."""

    counts: dict[str, int] = {}
    """Letters that are there, by state. A new one takes its place when they change."""
    commits: int = 0
    failures: int = 0
    """Groups that could not be committed."""
    stored: int = 0
    """Letters that were new."""
    seconds: float = 0.0
    """Spent in commits, those of failed groups too."""
    restarts: int = 0
    """Processes that ended before their time."""


class Writer:
    """Writes letters, many in one durable commit, and counts what is there.

    A group is one INSERT of many rows in autocommit mode: one call of the driver, one transaction, one sync.
    """

    # Measured in letters/s, five indexes: groups of 85, of 512.
    #     Core insert, executemany               33k  51k
    #     executemany of tuples, the driver      50k  76k
    #     many rows in one INSERT, SQLAlchemy    56k  86k
    #     many rows in one INSERT, the driver    63k  84k   (this one)
    #     INSERT from json_each                  39k  52k
    # Beside a busy event loop whoever lets go of the GIL waits to get it back: executemany for each row (below 1k),
    # one INSERT about twice for the whole group (10-35k). That is why `serve` and `run` have it done in a
    # process of its own: with a third of 200,000 orders failing, `serve` is at 0.70 of the speed of Express beside a
    # thread and at 0.9 beside a process, and uses 1.3 s of its processor instead of 2.3 s.
    # Values bound as 5 columns, most of them in one JSON text: 1 µs a letter less under the GIL, 1.7 more beside it.
    # A larger `wal_autocheckpoint`: a growing file costs each sync more than checkpoints cost.

    def __init__(self, place: Place, numbers: Numbers | None = None) -> None:
        self.numbers = numbers or Numbers()
        self._place = place
        self._database: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        """Which file is open."""
        self._size = 0
        """How many bytes it had when it was last checked."""
        self._truncated = False
        self._failing = False
        """Whether the last piece of work failed."""
        self._seen: object = None

    def open(self) -> None:
        """Connect, bring the schema up to date, and count what is there."""
        place = self._place
        if place.create:
            create_private(place.path)
        self._database = sqlite3.connect(place.path, timeout=place.busy_seconds, isolation_level=None)
        try:
            prepare(self._database, place.url, create=place.create, patience=place.busy_seconds)
            self._file, self._size, self._truncated = identity(place.path), size_of(place.path), False
            self._recount()
        except BaseException:
            self._drop()
            raise

    def work(self, calls: Sequence[Columns], *, look_again: bool) -> list[Exception | None]:
        """Store letters together. Before that, check the file and the counts, if `look_again` is set.

        Returns what each caller has to be told: None, or why it failed. The letters of one are stored all or none.
        Without calls, the result of the check.
        """
        if not calls:
            return [self._look()] if look_again else []
        if look_again and self._database is not None:
            self._refresh()
        error = self._commit(calls)
        # A disk, a lock or a lost file fails all alike; anything else may be the fault of one caller's letters.
        if error is None or len(calls) == 1 or isinstance(error, (sqlite3.OperationalError, StoreError)):
            return [error] * len(calls)
        return [self._commit([columns]) for columns in calls]

    def close(self) -> None:
        """Let go of the file."""
        if self._database is None:
            return
        with suppress(sqlite3.Error):  # on a full disk all letters stay in the WAL, where they are as safe
            # Passive: readers in other processes are not waited for. The last one to leave empties the WAL.
            self._database.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        self._drop()

    def _commit(self, calls: Sequence[Columns]) -> Exception | None:
        begun = time.perf_counter()
        try:
            values = values_of(calls)
            self._check_before()
            stored = self._insert(values)
            self._check_file()
        except Exception as error:
            self.numbers.failures += 1
            self._fail(error)
            return error
        finally:
            self.numbers.seconds += time.perf_counter() - begun
        self._failing = False
        self.numbers.commits += 1
        self.numbers.stored += stored
        self._count(values[STATE::WIDTH], stored)
        return None

    def _look(self) -> Exception | None:
        """Why letters could not be stored now; None if they could, or the next commit begins a new file."""
        try:
            self._check_before()
            if self._failing:  # a disk that was full, or a lock, shows only when something is written
                self._opened().execute("UPDATE letters_schema SET version = version")
        except Exception as error:
            self._fail(error)
            return error
        self._failing = False
        self._refresh()
        return None

    def _fail(self, error: Exception) -> None:
        self._failing = True
        if str(getattr(error, "sqlite_errorname", "")).startswith("SQLITE_READONLY"):
            self._drop()  # what was opened without the right to write never gets it: the next try opens anew

    def _check_before(self) -> None:
        """Open the database if it is not open; raise if its file was truncated or replaced.

        A file that failed, and was moved away since, is left for a new one. (What is written to a file that has lost
        its name comes back with it, when it is moved to its place again: letters of elements that were cancelled.)
        """
        if self._failing and self._database is not None and identity(self._place.path) is None:
            self._leave()
        if self._database is None:  # it could not be opened again after its file was lost
            self.open()
        found = identity(self._place.path)
        if found is not None and found != self._file:
            raise StoreReplaced(self._place.url)
        self._check_size()

    def _check_size(self) -> None:
        """Raise if the file was truncated. VACUUM makes it shorter too, but leaves it complete.

        What is written to a truncated file is lost without an error: pages that are missing read as zeros.
        """
        if identity(self._place.path) == self._file:
            size = size_of(self._place.path)
            if size < self._size and not self._is_complete(size):
                self._truncated = True
            else:
                self._size = size
        if self._truncated:
            raise StoreTruncated(self._place.url)

    def _is_complete(self, size: int) -> bool:
        """Whether all pages of the database are there. Reads all of it."""
        if not size:
            return False
        database = self._opened()
        try:
            database.execute("PRAGMA shrink_memory").fetchall()  # or pages are checked that only the cache has
            return database.execute("PRAGMA quick_check(1)").fetchall() == [("ok",)]
        except sqlite3.DatabaseError as error:
            if str(getattr(error, "sqlite_errorname", "")).startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
                return False
            raise

    def _check_file(self) -> None:
        """Raise if what was written is not in the file at its place; begin a new one if there is none.

        One that another put there is left alone: closing ours would remove the log of what others have open.
        """
        found = identity(self._place.path)
        if found == self._file:
            self._check_size()
            return
        if found is not None:
            raise StoreReplaced(self._place.url)
        self._leave()
        self.open()
        raise StoreMoved(self._place.url)

    def _leave(self) -> None:
        """Let go of a file that has lost its name, with all it holds, and of what would pass for a new one's log."""
        with suppress(sqlite3.Error):
            self._opened().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        self._drop()
        for log in (b"-wal", b"-shm"):
            with suppress(OSError):
                os.unlink(self._place.path + log)

    def _drop(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

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
        if stored == len(states):
            self.numbers.counts = dict(Counter(self.numbers.counts) + Counter(states))
        elif states.count(states[0]) == len(states):
            self.numbers.counts = dict(Counter(self.numbers.counts) + Counter({states[0]: stored}))
        else:
            self._seen = None
            self._refresh()

    def _refresh(self) -> None:
        try:
            if self._seen is None or self._version() != self._seen:
                self._recount()
        except sqlite3.Error:
            self._seen = None  # a count that failed undoes no commit; the next look counts again

    def _recount(self) -> None:
        self._seen = self._version()
        counted = self._opened().execute("SELECT state, count(*) FROM letters GROUP BY state")
        self.numbers.counts = dict(counted.fetchall())

    def _version(self) -> object:
        # Changes when another connection has committed, and not when this one has.
        return self._opened().execute("PRAGMA data_version").fetchone()[0]

    def _opened(self) -> sqlite3.Connection:
        assert self._database is not None
        return self._database
