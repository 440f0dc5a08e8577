"""The schema of a SQLite dead-letter database, and its migrations."""

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
        # One index, for the most frequent query: letters of an error type. Each further index costs a letter a fifth
        # of its time (measured: 6 µs a letter with one, 13 with five); other queries scan by id.
        "CREATE INDEX letters_by_type ON letters (type, id)",
    ],
    ["ALTER TABLE letters ADD COLUMN revision INTEGER"],
    # A resumed run and `list --run` select the letters of one run. Times and ids cannot narrow that search, because the
    # clock may have been set back. Measured: a scan takes 9 s for a million letters, the index 1.3 µs more a letter.
    ["CREATE INDEX letters_by_run ON letters (run, id)"],
    [
        "ALTER TABLE letters ADD COLUMN group_id TEXT",
        "ALTER TABLE letters ADD COLUMN redrives INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE letters ADD COLUMN header TEXT",
    ],
]
"""The statements of each schema version. Released ones never change; new ones are appended."""


def prepare(connection: sqlite3.Connection, url: str, *, create: bool, timeout: float) -> None:
    """Migrate a database to the newest schema. Several processes may do so at the same time.

    Raises `StoreTooNew` if a newer Penstock wrote it, and `StoreMissing` if it has no table of letters and
    `create` is False. Waits at most `timeout` seconds for other processes.
    """
    if not create and schema_version(connection) == 0:
        raise StoreMissing(url)
    _use_wal(connection, timeout)
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("BEGIN IMMEDIATE")
    try:
        _migrate(connection, url)
        if create:  # without permission, SQLite opens the file for reading, and fails with the first letter only
            connection.execute("UPDATE letters_schema SET version = version WHERE 0")
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _use_wal(connection: sqlite3.Connection, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL").fetchall()
            return
        except sqlite3.OperationalError as error:
            # SQLite's busy timeout does not apply to this change, and two processes may start at the same time.
            if error.sqlite_errorname != "SQLITE_BUSY" or time.monotonic() > deadline:
                raise
        time.sleep(0.02)  # the lock is held for milliseconds


def _migrate(connection: sqlite3.Connection, url: str) -> None:
    current = schema_version(connection)
    if current > len(MIGRATIONS):
        raise StoreTooNew(url, current, len(MIGRATIONS))

    if current == 0:
        connection.execute("CREATE TABLE letters_schema (version INTEGER NOT NULL PRIMARY KEY, applied_at TEXT)")
    for version, statements in enumerate(MIGRATIONS[current:], start=current + 1):
        for statement in statements:
            connection.execute(statement)
        connection.execute("INSERT INTO letters_schema VALUES (?, datetime('now'))", (version,))


def schema_version(connection: sqlite3.Connection) -> int:
    """Return the schema version of a database; 0 if it has no table of letters."""
    exists = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'letters_schema'"
    if not connection.execute(exists).fetchall():
        return 0
    return int(connection.execute("SELECT coalesce(max(version), 0) FROM letters_schema").fetchone()[0])
