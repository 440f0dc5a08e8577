"""The connection that writes letters. Its calls block, and are all made by one thread or process."""

from __future__ import annotations

import json
import sqlite3
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain

from msgspec import Struct

from penstock.deadletters.groups import KnownGroups
from penstock.deadletters.sql.grouping import GroupChange, assign_groups, changes_of
from penstock.deadletters.sql.rows import COLUMNS, Columns
from penstock.deadletters.sqlite.database_file import DatabaseFile, create_private_file
from penstock.deadletters.sqlite.insert import insert_of
from penstock.deadletters.sqlite.migrations import prepare
from penstock.deadletters.store import STATES
from penstock.errors import StoreError, StoreFileReplaced

GROUP = 512
"""Maximum number of letters in one statement. SQLite allows 32,766 values, these are 10,752."""

ID, FLOW, ORIGIN = map(COLUMNS.index, ("id", "flow", "origin"))


class WriterConfig(Struct, frozen=True):
    """The file that a writer opens, and its settings."""

    path: bytes
    """As bytes, because a file name need not be text."""
    url: str
    """The URL to show in errors, as valid Unicode."""
    create: bool
    busy_seconds: float
    """How long a statement waits for the lock of another process."""

    @property
    def timeout(self) -> float:
        """Seconds that one commit may take: those of the current one, then its own."""
        return 2 * self.busy_seconds + 2


class WriterStatistics(Struct):
    """Counters of a writer. Other threads may read them."""

    counts: dict[str, int] = {}
    """Letters in the database, by state. Replaced, never changed."""
    commits: int = 0
    failures: int = 0
    """Groups of letters that could not be committed."""
    stored: int = 0
    """Letters that were new."""
    seconds: float = 0.0
    """Time spent in commits, including failed ones."""
    restarts: int = 0
    """Writer processes that ended unexpectedly."""


class Writer:
    """Writes letters, many in one durable commit, and counts them.

    A group is one INSERT of many rows, and one INSERT or UPDATE for each group of letters that it changes: one
    transaction, one sync.
    """

    # Measured in letters/s, five indexes: groups of 85, of 512.
    #     Core insert, executemany               33k  51k
    #     executemany of tuples, the driver      50k  76k
    #     many rows in one INSERT, SQLAlchemy    56k  86k
    #     many rows in one INSERT, the driver    63k  84k   (this one)
    #     INSERT from json_each                  39k  52k
    # `insert_of` saves another 3 to 10 µs a letter: shared values are bound once, and no page is written to a temporary
    # file.
    # Beside a busy event loop, a thread that releases the GIL waits to get it back: executemany does so for each row
    # (below 1k), one INSERT about twice for the whole group (10-35k). That is why `serve` and `run` use a process:
    # with a third of 200,000 orders failing, `serve` has 0.70 of the speed of Express with a thread and 0.9 with a
    # process, and uses 1.3 s of CPU instead of 2.3 s.
    # Values bound as 5 columns, most of them in one JSON text: 1 µs a letter less under the GIL, 1.7 more beside it.
    # A larger `wal_autocheckpoint`: a growing file costs each sync more than checkpoints cost.

    def __init__(self, config: WriterConfig, statistics: WriterStatistics | None = None) -> None:
        self.statistics = statistics or WriterStatistics()
        self.copies: tuple[str, ...] = ()
        """The copies of the store: each letter is put into the outbox of each."""
        self._config = config
        self._database: sqlite3.Connection | None = None
        self._file = DatabaseFile(config.path, config.url)
        self._groups = KnownGroups()
        self._failing = False
        """Whether the last call failed."""
        self._data_version: object = None
        """SQLite's number for the changes of other connections, when letters were counted last."""

    def open(self, *, recount: bool = True) -> None:
        """Connect, migrate the schema, and count the letters unless the statistics have just counted them."""
        config = self._config
        if config.create:
            create_private_file(config.path)
        self._database = sqlite3.connect(config.path, timeout=config.busy_seconds, isolation_level=None)
        try:
            prepare(self._database, config.url, create=config.create, timeout=config.busy_seconds)
            self._file.opened()
            self._read_groups()
            if recount:
                self._recount()
            else:
                self._data_version = self._current_version()
        except BaseException:
            self._disconnect()
            raise

    def write(self, batches: Sequence[Columns], *, refresh: bool) -> list[Exception | None]:
        """Store the batches of several callers in one commit. With `refresh`, check the file and the counts before.

        Returns an error or None for each caller. The letters of one caller are stored all or none. Without batches,
        returns the result of the check.
        """
        if not batches:
            return [self._check()] if refresh else []
        if refresh and self._database is not None:
            self._refresh_counts()
        error = self._commit(batches)
        # A disk, a lock or a lost file affects all callers; any other error may be caused by the letters of one.
        if error is None or len(batches) == 1 or isinstance(error, (sqlite3.OperationalError, StoreError)):
            return [error] * len(batches)
        return [self._commit([batch]) for batch in batches]

    def close(self) -> None:
        """Close the file."""
        if self._database is None:
            return
        with suppress(sqlite3.Error):  # on a full disk all letters stay in the WAL, where they are as safe
            # Passive: does not wait for readers in other processes. The last process to close the file empties the WAL.
            self._database.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        self._disconnect()

    def _commit(self, batches: Sequence[Columns]) -> Exception | None:
        started = time.perf_counter()
        try:
            self._prepare_commit()
            if self._groups.outdated:
                self._read_groups()
            for columns in batches:
                assign_groups(columns, self._groups)
            changes = self._store(batches)
            self._check_committed()
        except Exception as error:
            self.statistics.failures += 1
            self._note_failure(error)
            return error
        finally:
            self.statistics.seconds += time.perf_counter() - started
        self._failing = False
        self.statistics.commits += 1
        added: Counter[str] = Counter()
        for change in changes:
            added.update(change.counts)
        self.statistics.stored += added.total()
        self.statistics.counts = dict(Counter(self.statistics.counts) + added)
        return None

    def _check(self) -> Exception | None:
        """Return why letters cannot be stored now; None if they can, or if the next commit creates a new file."""
        try:
            self._prepare_commit()
            if self._failing:  # a full disk or a lock is noticed only by writing
                self._connection().execute("UPDATE letters_schema SET version = version")
        except Exception as error:
            self._note_failure(error)
            return error
        self._failing = False
        self._refresh_counts()
        return None

    def _note_failure(self, error: Exception) -> None:
        self._failing = True
        if str(getattr(error, "sqlite_errorname", "")).startswith("SQLITE_READONLY"):
            self._disconnect()  # a connection opened without write permission never gets it: the next call reconnects

    def _prepare_commit(self) -> None:
        """Connect if necessary; raise if the file was replaced or truncated.

        A file that failed and was moved away afterwards is abandoned for a new one. What is written to a file without a
        name reappears when the file is moved back: letters of elements that were cancelled.
        """
        if self._failing and self._database is not None and self._file.is_missing():
            self._abandon_file()
        if self._database is None:  # it could not be opened again after its file was lost
            self.open()
        self._file.check_replaced()
        self._file.check_size(self._is_complete)

    def _is_complete(self) -> bool:
        """Check whether the file has all pages of the database. Reads the whole file."""
        database = self._connection()
        try:
            database.execute("PRAGMA shrink_memory").fetchall()  # so that no page is checked in the cache only
            return database.execute("PRAGMA quick_check(1)").fetchall() == [("ok",)]
        except sqlite3.DatabaseError as error:
            if str(getattr(error, "sqlite_errorname", "")).startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
                return False
            raise

    def _check_committed(self) -> None:
        """Raise if the committed data is not in the file at the path. If there is no file, create a new one.

        A file that another program put there is not touched: closing ours would remove its log.
        """
        if self._file.is_current():
            self._file.check_size(self._is_complete)
            return
        self._file.check_replaced()
        self._abandon_file()
        self.open()
        raise StoreFileReplaced(self._config.url)

    def _abandon_file(self) -> None:
        """Close a deleted database file and remove its WAL and SHM files."""
        with suppress(sqlite3.Error):
            self._connection().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        self._disconnect()
        self._file.remove_logs()

    def _disconnect(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    def _store(self, batches: Sequence[Columns]) -> list[GroupChange]:
        """Store letters with the changes of their groups; returns these changes. Skips those that are stored."""
        database = self._connection()
        database.execute("BEGIN IMMEDIATE")
        try:
            count = sum(len(columns[ID]) for columns in batches)
            if self._insert(batches) != count:
                database.execute("ROLLBACK")
                database.execute("BEGIN IMMEDIATE")
                batches = self._without_stored(batches)
                if batches:
                    self._insert(batches)
            changes = changes_of(batches)
            database.executemany(CHANGE_GROUP, [change.row() for change in changes])
            self._fill_outbox(batches)
            database.execute("COMMIT")
        finally:
            if database.in_transaction:
                database.execute("ROLLBACK")
        return changes

    def _insert(self, batches: Sequence[Columns]) -> int:
        columns: Columns = batches[0]
        if len(batches) > 1:
            columns = [list(chain.from_iterable(parts)) for parts in zip(*batches, strict=True)]
        stored, database = 0, self._connection()
        for start in range(0, len(columns[ID]), GROUP):
            part: Columns = [column[start : start + GROUP] for column in columns]
            stored += database.execute(*insert_of(part)).rowcount
        return stored

    def _without_stored(self, batches: Sequence[Columns]) -> list[Columns]:
        """Return the letters whose ids and origins are not stored, each once."""
        ids = json.dumps([id for columns in batches for id in columns[ID]])
        rows = self._connection().execute("SELECT id FROM letters WHERE id IN (SELECT value FROM json_each(?))", (ids,))
        known = {id for (id,) in rows}
        messages = self._stored_messages(batches)
        found: list[Columns] = []
        for columns in batches:
            new: list[int] = []
            for at, (id, flow, origin) in enumerate(zip(columns[ID], columns[FLOW], columns[ORIGIN], strict=True)):
                if id in known or (origin is not None and (flow, origin) in messages):
                    continue
                known.add(id)
                messages.add((flow, origin))
                new.append(at)
            if new:
                found.append([[column[at] for at in new] for column in columns])
        return found

    def _stored_messages(self, batches: Sequence[Columns]) -> set[tuple[str, str | None]]:
        """Return the flows and origins of letters that are not resolved, for the origins of these letters."""
        origins = json.dumps([origin for columns in batches for origin in columns[ORIGIN] if origin is not None])
        query = """
            SELECT flow, origin FROM letters
            WHERE origin IN (SELECT value FROM json_each(?)) AND flow IN (SELECT value FROM json_each(?))
            AND origin IS NOT NULL AND state != 'resolved'
        """
        flows = json.dumps(sorted({flow for columns in batches for flow in columns[FLOW]}))
        return set(self._connection().execute(query, (origins, flows)))

    def _fill_outbox(self, batches: Sequence[Columns]) -> None:
        if not self.copies:
            return
        ids = json.dumps([id for columns in batches for id in columns[ID]])
        for copy in self.copies:
            self._connection().execute(
                "INSERT INTO copies (copy, letter_id) SELECT ?, value FROM json_each(?)", (copy, ids)
            )

    def _refresh_counts(self) -> None:
        try:
            if self._data_version is None or self._current_version() != self._data_version:
                self._recount()
        except sqlite3.Error:
            self._data_version = None  # a failed count does not undo the commit; the next refresh counts again

    def _recount(self) -> None:
        self._data_version = self._current_version()
        self._read_groups()
        totals = ", ".join(f"coalesce(sum({state}), 0)" for state in STATES)
        (counts,) = self._connection().execute(f"SELECT {totals} FROM groups")  # noqa: S608 - no input
        self.statistics.counts = {state: count for state, count in zip(STATES, counts, strict=True) if count}

    def _read_groups(self) -> None:
        self._groups.replace(self._connection().execute("SELECT id, flow, step, type FROM groups"))

    def _current_version(self) -> object:
        # Changes when another connection commits, and not when this one does.
        return self._connection().execute("PRAGMA data_version").fetchone()[0]

    def _connection(self) -> sqlite3.Connection:
        assert self._database is not None
        return self._database


CHANGE_GROUP = f"""
    INSERT INTO groups VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET
    first_revision = CASE WHEN excluded.first_seen < first_seen THEN excluded.first_revision ELSE first_revision END,
    first_seen = min(first_seen, excluded.first_seen), last_seen = max(last_seen, excluded.last_seen),
    {", ".join(f"{state} = {state} + excluded.{state}" for state in STATES)}
"""  # noqa: S608 - no input
"""Adds a group, or the letters of a change to it."""
