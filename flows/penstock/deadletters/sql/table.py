"""The `letters` table and its queries in SQLAlchemy Core, for all SQL databases.

Importing SQLAlchemy takes 150 ms, so stores import this module with the first query.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Delete,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Select,
    Table,
    Text,
    Update,
    delete,
    func,
    select,
    update,
)

from penstock.deadletters.sql.rows import COLUMNS, to_microseconds
from penstock.deadletters.store import DeadLetterQuery, GroupField
from penstock.support.ids import CLOCK_SLACK, id_at

_INTEGERS = {"seq", "part", "attempts", "input_size", "started_at", "failed_at", "revision", "redrives"}
_OPTIONAL = {"part", "key", "cause", "found", "revision", "group_id", "header"}

LETTERS = Table(
    "letters",
    MetaData(),
    *(
        Column(
            name,
            LargeBinary() if name == "input" else Integer() if name in _INTEGERS else Text(),
            primary_key=name == "id",
            nullable=name in _OPTIONAL,
        )
        for name in COLUMNS
    ),
)
"""SQLite creates this table by migrations; a test compares the two."""

# Each further index costs a letter a fifth of its time; `migrations.py` has the measurements.
Index("letters_by_type", LETTERS.c.type, LETTERS.c.id)
Index("letters_by_run", LETTERS.c.run, LETTERS.c.id)


def select_letter(id: str) -> Select[Any]:
    """Select one letter."""
    return select(LETTERS).where(LETTERS.c.id == id)


def select_page(query: DeadLetterQuery, after: str | None, limit: int) -> Select[Any]:
    """Select letters in the order of their ids. An index yields that order, so nothing is sorted."""
    return select(LETTERS).where(*_conditions(query, after)).order_by(LETTERS.c.id).limit(limit)


def select_counts(query: DeadLetterQuery, by: Sequence[GroupField]) -> Select[Any]:
    """Select the number of letters for each combination of some fields; the number is the last column."""
    fields = [LETTERS.c[name] for name in by]
    return select(*fields, func.count()).select_from(LETTERS).where(*_conditions(query)).group_by(*fields)


def update_state(ids: Sequence[str], state: str) -> Update:
    """Set the state of letters."""
    return update(LETTERS).where(LETTERS.c.id.in_(ids)).values(state=state)


def delete_letters(query: DeadLetterQuery, limit: int) -> Delete:
    """Delete the oldest letters that match, up to a limit."""
    ids = select(LETTERS.c.id).where(*_conditions(query)).order_by(LETTERS.c.id).limit(limit)
    return delete(LETTERS).where(LETTERS.c.id.in_(ids))


def _conditions(query: DeadLetterQuery, after: str | None = None) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    start = after or ""
    if query.since is not None:
        # SQLite uses one lower bound of an index only, so it gets the later of the two. `until` gives no bound: an id
        # is never older than the time of its letter, but may be newer if the clock was set back.
        start = max(start, id_at(query.since, slack=CLOCK_SLACK))
        conditions.append(LETTERS.c.failed_at >= to_microseconds(query.since))
    if query.until is not None:
        conditions.append(LETTERS.c.failed_at < to_microseconds(query.until))
    if start:
        conditions.append(LETTERS.c.id > start)
    if query.min_seq is not None:
        conditions.append(LETTERS.c.seq >= query.min_seq)
    for name in ("flow", "run", "step", "type", "state"):
        value = getattr(query, name)
        if value is not None:
            conditions.append(LETTERS.c[name] == value)
    return conditions
