"""The schema of a SQLite dead-letter database, and its migrations."""

from __future__ import annotations

import sqlite3
import time

from penstock.deadletters.groups import fingerprint, pattern_of
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
        "ALTER TABLE letters ADD COLUMN changed_at INTEGER",
        "UPDATE letters SET group_id = fingerprint(flow, step, type, message)",
        # Letters of a type are found through their groups now. An index of which each insert touches the end of a few
        # ranges costs 0.6 µs a letter.
        "DROP INDEX letters_by_type",
        "CREATE INDEX letters_by_state ON letters (state, id)",
        "CREATE INDEX letters_by_group ON letters (group_id, state, id)",
        """
        CREATE TABLE groups (
            id TEXT NOT NULL PRIMARY KEY,
            flow TEXT NOT NULL,
            step TEXT NOT NULL,
            type TEXT NOT NULL,
            pattern TEXT NOT NULL,
            first_seen INTEGER NOT NULL,
            last_seen INTEGER NOT NULL,
            first_revision INTEGER,
            waiting INTEGER NOT NULL,
            claimed INTEGER NOT NULL,
            resolved INTEGER NOT NULL,
            parked INTEGER NOT NULL
        )
        """,
        "CREATE INDEX groups_by_last_seen ON groups (last_seen, id)",
        """
        INSERT INTO groups
        SELECT
            found.group_id, flow, step, type, pattern_of(message), first_seen, last_seen, revision,
            waiting, claimed, resolved, parked
        FROM (
            SELECT
                group_id, min(id) AS first_id, min(failed_at) AS first_seen, max(failed_at) AS last_seen,
                sum(state = 'waiting') AS waiting, sum(state = 'claimed') AS claimed,
                sum(state = 'resolved') AS resolved, sum(state = 'parked') AS parked
            FROM letters GROUP BY group_id
        ) AS found JOIN letters ON letters.id = found.first_id
        """,
        """
        CREATE TABLE jobs (
            id TEXT NOT NULL PRIMARY KEY,
            state TEXT NOT NULL,
            options TEXT NOT NULL,
            query TEXT NOT NULL,
            requester TEXT NOT NULL,
            reason TEXT NOT NULL,
            created_at INTEGER NOT NULL,
            ended_at INTEGER,
            message TEXT,
            runner TEXT,
            leased_until INTEGER
        )
        """,
        "CREATE INDEX jobs_by_state ON jobs (state, id)",
        """
        CREATE TABLE job_batches (
            job TEXT NOT NULL,
            batch INTEGER NOT NULL,
            total INTEGER NOT NULL,
            resolved INTEGER NOT NULL,
            failed INTEGER NOT NULL,
            skipped INTEGER NOT NULL,
            PRIMARY KEY (job, batch)
        )
        """,
        """
        CREATE TABLE job_letters (
            job TEXT NOT NULL,
            letter_id TEXT NOT NULL,
            batch INTEGER NOT NULL,
            state TEXT NOT NULL,
            runner TEXT,
            leased_until INTEGER,
            PRIMARY KEY (job, letter_id)
        ) WITHOUT ROWID
        """,
        "CREATE INDEX job_letters_by_state ON job_letters (job, batch, state, letter_id)",
        "CREATE INDEX job_letters_claimed ON job_letters (job, leased_until) WHERE state = 'claimed'",
        "CREATE TABLE job_groups (group_id TEXT NOT NULL PRIMARY KEY, job TEXT NOT NULL)",
        "CREATE INDEX job_groups_by_job ON job_groups (job)",
        """
        CREATE TABLE attempts (
            letter_id TEXT NOT NULL,
            number INTEGER NOT NULL,
            job TEXT NOT NULL,
            requester TEXT NOT NULL,
            started_at INTEGER NOT NULL,
            ended_at INTEGER,
            outcome TEXT NOT NULL,
            error TEXT,
            PRIMARY KEY (letter_id, number)
        ) WITHOUT ROWID
        """,
        """
        CREATE TABLE edits (
            letter_id TEXT NOT NULL,
            number INTEGER NOT NULL,
            at INTEGER NOT NULL,
            requester TEXT NOT NULL,
            reason TEXT NOT NULL,
            input BLOB NOT NULL,
            header TEXT,
            PRIMARY KEY (letter_id, number)
        )
        """,
        """
        CREATE TABLE audit (
            number INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
            at INTEGER NOT NULL,
            requester TEXT NOT NULL,
            action TEXT NOT NULL,
            reason TEXT NOT NULL,
            query TEXT NOT NULL,
            job TEXT,
            count INTEGER NOT NULL,
            outcome TEXT NOT NULL
        )
        """,
        "CREATE INDEX audit_by_job ON audit (job, number)",
        """
        CREATE TRIGGER audit_rejects_update BEFORE UPDATE ON audit
        BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END
        """,
        """
        CREATE TRIGGER audit_rejects_delete BEFORE DELETE ON audit
        BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END
        """,
        """
        CREATE TABLE copies (
            copy TEXT NOT NULL,
            letter_id TEXT NOT NULL,
            leased_until INTEGER,
            PRIMARY KEY (copy, letter_id)
        ) WITHOUT ROWID
        """,
        "CREATE INDEX copies_by_letter ON copies (letter_id)",
    ],
    [
        "ALTER TABLE letters ADD COLUMN origin TEXT",
        """
        CREATE UNIQUE INDEX letters_by_origin ON letters (flow, origin)
        WHERE origin IS NOT NULL AND state != 'resolved'
        """,
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
    if current < len(MIGRATIONS):
        add_functions(connection)
    for version, statements in enumerate(MIGRATIONS[current:], start=current + 1):
        for statement in statements:
            connection.execute(statement)
        connection.execute("INSERT INTO letters_schema VALUES (?, datetime('now'))", (version,))


def add_functions(connection: sqlite3.Connection) -> None:
    """Add the functions that migrations call."""
    connection.create_function("fingerprint", 4, fingerprint, deterministic=True)
    connection.create_function("pattern_of", 1, pattern_of, deterministic=True)


def schema_version(connection: sqlite3.Connection) -> int:
    """Return the schema version of a database; 0 if it has no table of letters."""
    exists = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'letters_schema'"
    if not connection.execute(exists).fetchall():
        return 0
    return int(connection.execute("SELECT coalesce(max(version), 0) FROM letters_schema").fetchone()[0])
