"""The tables of a dead-letter queue in SQLAlchemy Core, for all SQL databases.

Importing SQLAlchemy takes 150 ms, so stores import this module with the first query. Times are microseconds since 1970.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    DDL,
    BigInteger,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    and_,
    event,
    literal_column,
)

from penstock.deadletters.sql.rows import COLUMNS

METADATA = MetaData()
"""All tables. SQLite creates them by migrations; a test compares the two."""

_INTEGERS = {"seq", "part", "attempts", "input_size", "started_at", "failed_at", "revision", "redrives"}
_OPTIONAL = {"part", "key", "cause", "found", "revision", "group_id", "header", "origin"}


def _text(name: str, **options: Any) -> Column[Any]:
    options.setdefault("nullable", False)
    return Column(name, Text(), **options)


def _integer(name: str, **options: Any) -> Column[Any]:
    options.setdefault("nullable", False)
    return Column(name, BigInteger().with_variant(Integer(), "sqlite"), **options)


LETTERS = Table(
    "letters",
    METADATA,
    *(
        Column(name, LargeBinary(), nullable=False)
        if name == "input"
        else (_integer if name in _INTEGERS else _text)(name, primary_key=name == "id", nullable=name in _OPTIONAL)
        for name in COLUMNS
    ),
    _integer("changed_at", nullable=True),
)
"""`changed_at`: the last change of the state; NULL if it never changed."""

# Each index costs a letter up to a fifth of its time; `migrations.py` has the measurements. Letters of a flow, step or
# type are found through their groups.
Index("letters_by_run", LETTERS.c.run, LETTERS.c.id)
Index("letters_by_state", LETTERS.c.state, LETTERS.c.id)
IS_OPEN_MESSAGE = and_(LETTERS.c.origin.is_not(None), LETTERS.c.state != literal_column("'resolved'"))
"""The condition of the index of origins: a message whose letter was resolved may fail again."""

Index("letters_by_group", LETTERS.c.group_id, LETTERS.c.state, LETTERS.c.id)

Index(
    "letters_by_origin",
    LETTERS.c.flow,
    LETTERS.c.origin,
    unique=True,
    sqlite_where=IS_OPEN_MESSAGE,
    postgresql_where=IS_OPEN_MESSAGE,
)

GROUPS = Table(
    "groups",
    METADATA,
    _text("id", primary_key=True),
    _text("flow"),
    _text("step"),
    _text("type"),
    _text("pattern"),
    _integer("first_seen"),
    _integer("last_seen"),
    _integer("first_revision", nullable=True),
    _integer("waiting"),
    _integer("claimed"),
    _integer("resolved"),
    _integer("parked"),
)
"""Every group that has letters, with their number in each state. Changed in the same transaction as the letters."""

Index("groups_by_last_seen", GROUPS.c.last_seen, GROUPS.c.id)

JOBS = Table(
    "jobs",
    METADATA,
    _text("id", primary_key=True),
    _text("state"),
    _text("options"),
    _text("query"),
    _text("requester"),
    _text("reason"),
    _integer("created_at"),
    _integer("ended_at", nullable=True),
    _text("message", nullable=True),
    _text("runner", nullable=True),
    _integer("leased_until", nullable=True),
)
"""Redrive jobs. `options` and `query` are JSON."""

Index("jobs_by_state", JOBS.c.state, JOBS.c.id)

JOB_BATCHES = Table(
    "job_batches",
    METADATA,
    _text("job", primary_key=True),
    _integer("batch", primary_key=True, autoincrement=False),
    _integer("total"),
    _integer("resolved"),
    _integer("failed"),
    _integer("skipped"),
)
"""The counts of each batch of a job."""

JOB_LETTERS = Table(
    "job_letters",
    METADATA,
    _text("job", primary_key=True),
    _text("letter_id", primary_key=True),
    _integer("batch"),
    _text("state"),
    _text("runner", nullable=True),
    _integer("leased_until", nullable=True),
    sqlite_with_rowid=False,
)
"""The fixed set of a job. Each letter is `open`, `claimed` until `leased_until`, `resolved`, `failed` or `skipped`."""

IS_CLAIMED = JOB_LETTERS.c.state == literal_column("'claimed'")
"""The condition of the index of claimed letters. A literal, because a parameter would not match the index."""

Index("job_letters_by_state", JOB_LETTERS.c.job, JOB_LETTERS.c.batch, JOB_LETTERS.c.state, JOB_LETTERS.c.letter_id)
Index(
    "job_letters_claimed",
    JOB_LETTERS.c.job,
    JOB_LETTERS.c.leased_until,
    sqlite_where=IS_CLAIMED,
    postgresql_where=IS_CLAIMED,
)

JOB_GROUPS = Table("job_groups", METADATA, _text("group_id", primary_key=True), _text("job"))
"""The groups that open jobs have reserved: one job for each group at a time."""

Index("job_groups_by_job", JOB_GROUPS.c.job)

ATTEMPTS = Table(
    "attempts",
    METADATA,
    _text("letter_id", primary_key=True),
    _integer("number", primary_key=True, autoincrement=False),
    _text("job"),
    _text("requester"),
    _integer("started_at"),
    _integer("ended_at", nullable=True),
    _text("outcome"),
    _text("error", nullable=True),
    sqlite_with_rowid=False,
)
"""Every redrive of every letter."""

EDITS = Table(
    "edits",
    METADATA,
    _text("letter_id", primary_key=True),
    _integer("number", primary_key=True, autoincrement=False),
    _integer("at"),
    _text("requester"),
    _text("reason"),
    Column("input", LargeBinary(), nullable=False),
    _text("header", nullable=True),
)
"""The inputs of letters before each change."""

AUDIT = Table(
    "audit",
    METADATA,
    _integer("number", primary_key=True, autoincrement=True),
    _integer("at"),
    _text("requester"),
    _text("action"),
    _text("reason"),
    _text("query"),
    _text("job", nullable=True),
    _integer("count"),
    _text("outcome"),
    sqlite_autoincrement=True,
)
"""Every action. The database rejects changes of its rows."""

Index("audit_by_job", AUDIT.c.job, AUDIT.c.number)

COPIES = Table(
    "copies",
    METADATA,
    _text("copy", primary_key=True),
    _text("letter_id", primary_key=True),
    _integer("leased_until", nullable=True),
    sqlite_with_rowid=False,
)
"""The outbox: letters that have not been copied yet, for each copy of the store."""

Index("copies_by_letter", COPIES.c.letter_id)

SQLITE_AUDIT_TRIGGERS = [
    f"CREATE TRIGGER audit_rejects_{action} BEFORE {action} ON audit "
    "BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END"
    for action in ("update", "delete")
]
POSTGRES_AUDIT_TRIGGERS = [
    "CREATE OR REPLACE FUNCTION audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS "
    "$$ BEGIN RAISE EXCEPTION 'the audit is append-only'; END $$",
    "CREATE TRIGGER audit_rejects_change BEFORE UPDATE OR DELETE OR TRUNCATE ON audit "
    "FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only()",
]
for _dialect, _statements in (("sqlite", SQLITE_AUDIT_TRIGGERS), ("postgresql", POSTGRES_AUDIT_TRIGGERS)):
    for _statement in _statements:
        event.listen(AUDIT, "after_create", DDL(_statement).execute_if(dialect=_dialect))  # type: ignore[no-untyped-call] # of SQLAlchemy
