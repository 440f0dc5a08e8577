"""The schema of a PostgreSQL dead-letter database, and its migrations."""

from __future__ import annotations

from penstock.backends.postgres import PostgresConnection
from penstock.errors import StoreMissing, StoreTooNew

LOCK = 0x70656E73746F636B
"""The key of the advisory lock that is held during a migration: "penstock" in ASCII."""

MIGRATIONS: list[list[str]] = [
    [
        """
        CREATE TABLE letters (
            id TEXT NOT NULL,
            flow TEXT NOT NULL,
            run TEXT NOT NULL,
            seq BIGINT NOT NULL,
            step TEXT NOT NULL,
            type TEXT NOT NULL,
            message TEXT NOT NULL,
            input BYTEA NOT NULL,
            input_size BIGINT NOT NULL,
            started_at BIGINT NOT NULL,
            failed_at BIGINT NOT NULL,
            part BIGINT,
            key TEXT,
            attempts BIGINT NOT NULL,
            cause TEXT,
            found TEXT,
            state TEXT NOT NULL,
            revision BIGINT,
            group_id TEXT,
            redrives BIGINT NOT NULL,
            header TEXT,
            changed_at BIGINT,
            PRIMARY KEY (id)
        )
        """,
        "CREATE INDEX letters_by_group ON letters (group_id, state, id)",
        "CREATE INDEX letters_by_run ON letters (run, id)",
        "CREATE INDEX letters_by_state ON letters (state, id)",
        """
        CREATE TABLE groups (
            id TEXT NOT NULL,
            flow TEXT NOT NULL,
            step TEXT NOT NULL,
            type TEXT NOT NULL,
            pattern TEXT NOT NULL,
            first_seen BIGINT NOT NULL,
            last_seen BIGINT NOT NULL,
            first_revision BIGINT,
            waiting BIGINT NOT NULL,
            claimed BIGINT NOT NULL,
            resolved BIGINT NOT NULL,
            parked BIGINT NOT NULL,
            PRIMARY KEY (id)
        )
        """,
        "CREATE INDEX groups_by_last_seen ON groups (last_seen, id)",
        """
        CREATE TABLE jobs (
            id TEXT NOT NULL,
            state TEXT NOT NULL,
            options TEXT NOT NULL,
            query TEXT NOT NULL,
            requester TEXT NOT NULL,
            reason TEXT NOT NULL,
            created_at BIGINT NOT NULL,
            ended_at BIGINT,
            message TEXT,
            runner TEXT,
            leased_until BIGINT,
            PRIMARY KEY (id)
        )
        """,
        "CREATE INDEX jobs_by_state ON jobs (state, id)",
        """
        CREATE TABLE job_batches (
            job TEXT NOT NULL,
            batch BIGINT NOT NULL,
            total BIGINT NOT NULL,
            resolved BIGINT NOT NULL,
            failed BIGINT NOT NULL,
            skipped BIGINT NOT NULL,
            PRIMARY KEY (job, batch)
        )
        """,
        """
        CREATE TABLE job_letters (
            job TEXT NOT NULL,
            letter_id TEXT NOT NULL,
            batch BIGINT NOT NULL,
            state TEXT NOT NULL,
            runner TEXT,
            leased_until BIGINT,
            PRIMARY KEY (job, letter_id)
        )
        """,
        "CREATE INDEX job_letters_by_state ON job_letters (job, batch, state, letter_id)",
        "CREATE INDEX job_letters_claimed ON job_letters (job, leased_until) WHERE state = 'claimed'",
        """
        CREATE TABLE job_groups (
            group_id TEXT NOT NULL,
            job TEXT NOT NULL,
            PRIMARY KEY (group_id)
        )
        """,
        "CREATE INDEX job_groups_by_job ON job_groups (job)",
        """
        CREATE TABLE attempts (
            letter_id TEXT NOT NULL,
            number BIGINT NOT NULL,
            job TEXT NOT NULL,
            requester TEXT NOT NULL,
            started_at BIGINT NOT NULL,
            ended_at BIGINT,
            outcome TEXT NOT NULL,
            error TEXT,
            PRIMARY KEY (letter_id, number)
        )
        """,
        """
        CREATE TABLE edits (
            letter_id TEXT NOT NULL,
            number BIGINT NOT NULL,
            at BIGINT NOT NULL,
            requester TEXT NOT NULL,
            reason TEXT NOT NULL,
            input BYTEA NOT NULL,
            header TEXT,
            PRIMARY KEY (letter_id, number)
        )
        """,
        """
        CREATE TABLE audit (
            number BIGSERIAL NOT NULL,
            at BIGINT NOT NULL,
            requester TEXT NOT NULL,
            action TEXT NOT NULL,
            reason TEXT NOT NULL,
            query TEXT NOT NULL,
            job TEXT,
            count BIGINT NOT NULL,
            outcome TEXT NOT NULL,
            PRIMARY KEY (number)
        )
        """,
        "CREATE INDEX audit_by_job ON audit (job, number)",
        """
        CREATE TABLE copies (
            copy TEXT NOT NULL,
            letter_id TEXT NOT NULL,
            leased_until BIGINT,
            PRIMARY KEY (copy, letter_id)
        )
        """,
        "CREATE INDEX copies_by_letter ON copies (letter_id)",
        """
        CREATE FUNCTION audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'the audit is append-only'; END $$
        """,
        """
        CREATE TRIGGER audit_rejects_change BEFORE UPDATE OR DELETE OR TRUNCATE ON audit
        FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only()
        """,
    ],
    [
        "ALTER TABLE letters ADD COLUMN origin TEXT",
        """
        CREATE UNIQUE INDEX letters_by_origin ON letters (flow, origin)
        WHERE origin IS NOT NULL AND state != 'resolved'
        """,
    ],
]
"""The statements of each schema version. Released ones never change; new ones are appended.

All texts are compared byte by byte (`TEXT COLLATE "C"`, which is added to each): ids are in the same order everywhere.
"""


async def prepare(connection: PostgresConnection, schema: str, url: str, *, create: bool) -> None:
    """Migrate a database to the newest schema. Several processes may do so at the same time.

    Raises `StoreTooNew` if a newer Penstock wrote it, and `StoreMissing` if it has no table of letters and `create` is
    False.
    """
    current = await schema_version(connection)
    if current == 0 and not create:
        raise StoreMissing(url)
    if current == len(MIGRATIONS):  # needs no right to create anything
        return
    # Taken outside of the transaction: one that has begun before would not see the tables of another process.
    await connection.fetch("SELECT pg_advisory_lock($1)", LOCK)
    try:
        async with connection.transaction():
            await _migrate(connection, schema, url)
    finally:
        await connection.fetch("SELECT pg_advisory_unlock($1)", LOCK)


async def schema_version(connection: PostgresConnection) -> int:
    """Return the schema version of a database; 0 if it has no table of letters."""
    if not await connection.fetchval("SELECT to_regclass('letters_schema') IS NOT NULL"):
        return 0
    return int(await connection.fetchval("SELECT coalesce(max(version), 0) FROM letters_schema"))


async def _migrate(connection: PostgresConnection, schema: str, url: str) -> None:
    current = await schema_version(connection)  # another process may have migrated it meanwhile
    if current > len(MIGRATIONS):
        raise StoreTooNew(url, current, len(MIGRATIONS))

    if current == 0:
        quoted = schema.replace('"', '""')
        if not await connection.fetchval("SELECT to_regnamespace($1) IS NOT NULL", f'"{quoted}"'):
            await connection.execute(f'CREATE SCHEMA "{quoted}"')
        await connection.execute(
            "CREATE TABLE letters_schema (version INTEGER NOT NULL PRIMARY KEY, applied_at TIMESTAMPTZ NOT NULL)"
        )
    for version, statements in enumerate(MIGRATIONS[current:], start=current + 1):
        for statement in statements:
            await connection.execute(statement.replace(" TEXT", ' TEXT COLLATE "C"'))
        await connection.execute("INSERT INTO letters_schema VALUES ($1, now())", version)
