"""The tables of dead letters in SQLite, and how an older database becomes a newer one."""

from __future__ import annotations

import sqlite3
import time

from penstock.errors import StoreMissing, StoreTooNew

MIGRATIONS: list[list[str]] = [
    [
        """
        CREATE TABLE letters (
            id TEXT NOT NULL PRIMARY KEY,
            flow TEXT NOT NULL,
            run TEXT NOT NULL,
            seq INTEGER NOT NULL,
            part INTEGER,
            key TEXT,
            step TEXT NOT NULL,
            type TEXT NOT NULL,
            message TEXT NOT NULL,
            attempts INTEGER NOT NULL,
            cause TEXT,
            input BLOB NOT NULL,
            input_size INTEGER NOT NULL,
            found TEXT,
            state TEXT NOT NULL,
            started_at INTEGER NOT NULL,
            failed_at INTEGER NOT NULL
        )
        """,
        # One index, for the question that is asked most: which of these errors. Every further one costs each letter
        # a fifth of its time (measured: 6 µs a letter with one, 13 with five); a scan by id has to do for the rest.
        "CREATE INDEX letters_by_type ON letters (type, id)",
    ],
    ["ALTER TABLE letters ADD COLUMN revision INTEGER"],
    # A resumed run asks for its own letters, and `list --run` does. Times and ids cannot narrow the search, because the
    # clock may have been set back. Measured: a scan takes 9 s for a million letters, the index 1.3 µs more a letter.
    ["CREATE INDEX letters_by_run ON letters (run, id)"],
]
"""The statements that lead from each version to the next. Released ones never change; new ones are appended."""


def prepare(writer: sqlite3.Connection, url: str, *, create: bool, patience: float) -> None:
    """Bring the database behind a connection to the newest schema, safely beside other processes that do the same.

    Raises `StoreTooNew` when a newer Penstock wrote it, `StoreMissing` when it holds no letters and must not be
    created. Waits for other processes for `patience` seconds at most.
    """
    if not create and version_of(writer) == 0:
        raise StoreMissing(url)
    _use_wal(writer, patience)
    writer.execute("PRAGMA synchronous=FULL")
    writer.execute("BEGIN IMMEDIATE")
    try:
        _migrate(writer, url)
        if create:  # SQLite opens what may not be written for reading only, and would say so with the first letter
            writer.execute("UPDATE letters_schema SET version = version WHERE 0")
        writer.execute("COMMIT")
    finally:
        if writer.in_transaction:
            writer.execute("ROLLBACK")


def _use_wal(writer: sqlite3.Connection, patience: float) -> None:
    deadline = time.monotonic() + patience
    while True:
        try:
            writer.execute("PRAGMA journal_mode=WAL").fetchall()
            return
        except sqlite3.OperationalError as error:
            # The busy timeout does not hold for this change, and two processes may start at once.
            if error.sqlite_errorname != "SQLITE_BUSY" or time.monotonic() > deadline:
                raise
        time.sleep(0.02)


def _migrate(writer: sqlite3.Connection, url: str) -> None:
    found = version_of(writer)
    if found > len(MIGRATIONS):
        raise StoreTooNew(url, found, len(MIGRATIONS))

    if found == 0:
        writer.execute("CREATE TABLE letters_schema (version INTEGER NOT NULL PRIMARY KEY, applied_at TEXT)")
    for version, statements in enumerate(MIGRATIONS[found:], start=found + 1):
        for statement in statements:
            writer.execute(statement)
        writer.execute("INSERT INTO letters_schema VALUES (?, datetime('now'))", (version,))


def version_of(database: sqlite3.Connection) -> int:
    """The schema of the letters in a database; 0 if it holds none."""
    named = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'letters_schema'"
    if not database.execute(named).fetchall():
        return 0
    return int(database.execute("SELECT coalesce(max(version), 0) FROM letters_schema").fetchone()[0])
