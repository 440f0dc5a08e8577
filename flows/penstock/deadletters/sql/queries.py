"""Conditions of queries, and which index finds the letters that match."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from msgspec import to_builtins
from sqlalchemy import ColumnElement, Connection, Select, func, or_, select, union_all

from penstock.deadletters.sql.dialect import among
from penstock.deadletters.sql.rows import COLUMNS, to_microseconds
from penstock.deadletters.sql.table import GROUPS, LETTERS
from penstock.deadletters.store import STATES, DeadLetterQuery, GroupField
from penstock.support.ids import CLOCK_SLACK, id_at
from penstock.support.json_encoding import encode_json

RANGES = 64
"""Ranges of the index by group and state that are merged into one page. With more, a page is found by a scan."""

GROUP_IDS = 10_000
"""Groups in one condition. With more, letters are compared by their own columns."""

ROW = [LETTERS.c[name] for name in COLUMNS]
"""The columns of a letter, in the order of its fields."""

_GROUP_FIELDS = ("flow", "step", "type")


def select_letter(id: str) -> Select[Any]:
    """Select one letter."""
    return select(*ROW).where(LETTERS.c.id == id)


def select_letters(ids: Sequence[str]) -> Select[Any]:
    """Select letters by their ids."""
    return select(*ROW).where(among(LETTERS.c.id, ids))


def select_page(query: DeadLetterQuery, after: str | None, limit: int) -> Select[Any]:
    """Select letters in the order of their ids. An index yields that order, so nothing is sorted."""
    return select(*ROW).where(*conditions(query, after)).order_by(LETTERS.c.id).limit(limit)


def select_ranges(
    query: DeadLetterQuery,
    ranges: Sequence[tuple[str, str]],
    after: str | None,
    limit: int,
    *more: ColumnElement[bool],
) -> Select[Any]:
    """Select the ids of letters of some groups and states in order: the first of each range, merged.

    `more` are further conditions for letters.
    """
    rest = [*conditions(query, after, rows_only=True), *more]
    parts = [
        select(
            select(LETTERS.c.id)
            .where(LETTERS.c.group_id == group, LETTERS.c.state == state, *rest)
            .order_by(LETTERS.c.id)
            .limit(limit)
            .subquery()
        )
        for group, state in ranges
    ]
    merged = union_all(*parts).subquery()
    return select(merged.c.id).order_by(merged.c.id).limit(limit)


def select_counts(query: DeadLetterQuery, by: Sequence[GroupField]) -> Select[Any]:
    """Select the number of letters for each combination of some fields; the number is the last column."""
    fields = [LETTERS.c[name] for name in by]
    return select(*fields, func.count()).select_from(LETTERS).where(*conditions(query)).group_by(*fields)


def conditions(
    query: DeadLetterQuery, after: str | None = None, *, rows_only: bool = False
) -> list[ColumnElement[bool]]:
    """Return the conditions for letters. With `rows_only`, without those of groups and of the state."""
    found: list[ColumnElement[bool]] = []
    start = after or ""
    if query.since is not None:
        # SQLite uses one lower bound of an index only, so it gets the later of the two. `until` gives no bound: an id
        # is never older than the time of its letter, but may be newer if the clock was set back.
        start = max(start, id_at(query.since, slack=CLOCK_SLACK))
        found.append(LETTERS.c.failed_at >= to_microseconds(query.since))
    if query.until is not None:
        found.append(LETTERS.c.failed_at < to_microseconds(query.until))
    if start:
        found.append(LETTERS.c.id > start)
    if query.ids is not None:
        found.append(among(LETTERS.c.id, query.ids))
    if query.min_seq is not None:
        found.append(LETTERS.c.seq >= query.min_seq)
    if query.key is not None:
        found.append(or_(*(LETTERS.c.key == text for text in key_texts(query.key))))
    if query.run is not None:
        found.append(LETTERS.c.run == query.run)
    if not rows_only:
        found += [LETTERS.c[name] == value for name in _GROUP_FIELDS if (value := getattr(query, name)) is not None]
        if query.state is not None:
            found.append(LETTERS.c.state == query.state)
        if query.group is not None:
            found.append(LETTERS.c.group_id == query.group)
    return found


def key_texts(key: str | float) -> list[str]:
    """Return the JSON of the keys that a key matches: a text matches a number that is written so, too."""
    encoded = encode_json(key).decode()
    return [encoded, key] if isinstance(key, str) and key != encoded else [encoded]


def group_conditions(query: DeadLetterQuery) -> list[ColumnElement[bool]]:
    """Return the conditions for groups: those of `flow`, `step`, `type` and `group`."""
    found = [GROUPS.c[name] == value for name in _GROUP_FIELDS if (value := getattr(query, name)) is not None]
    if query.group is not None:
        found.append(GROUPS.c.id == query.group)
    return found


def names_groups(query: DeadLetterQuery) -> bool:
    """Check whether a query is about letters of some groups, which other conditions do not find faster."""
    if query.run is not None or query.ids is not None:
        return False
    return query.group is not None or any(getattr(query, name) is not None for name in _GROUP_FIELDS)


def find_ranges(connection: Connection, query: DeadLetterQuery) -> list[tuple[str, str]] | None:
    """Return the groups and states in which matching letters are; None if a query is not about few groups."""
    if not names_groups(query):
        return None
    states = STATES if query.state is None else (query.state,)
    counts = [GROUPS.c[state] for state in states]
    statement = select(GROUPS.c.id, *counts).where(*group_conditions(query), or_(*(count > 0 for count in counts)))
    ranges = [
        (id, state)
        for id, *numbers in connection.execute(statement.limit(RANGES + 1))
        for state, number in zip(states, numbers, strict=True)
        if number
    ]
    return ranges if len(ranges) <= RANGES else None


def find_groups(connection: Connection, query: DeadLetterQuery) -> list[str] | None:
    """Return the ids of the groups that a query names; None if it names none, or too many."""
    if not names_groups(query):
        return None
    statement = select(GROUPS.c.id).where(*group_conditions(query)).limit(GROUP_IDS + 1)
    ids = list(connection.execute(statement).scalars())
    return ids if len(ids) <= GROUP_IDS else None


def selection(connection: Connection, query: DeadLetterQuery, states: Sequence[str]) -> list[ColumnElement[bool]]:
    """Return the conditions for the letters in some states that match, for changes of any number of letters."""
    if query.state is not None:
        states = [state for state in states if state == query.state]
    groups = find_groups(connection, query)
    found = conditions(query) if groups is None else conditions(query, rows_only=True)
    if groups is not None:
        found.append(among(LETTERS.c.group_id, groups))
    return [*found, LETTERS.c.state.in_(states)]


def query_json(query: DeadLetterQuery) -> str:
    """Encode a query as a JSON document, for jobs and for the audit."""
    return json.dumps({name: value for name, value in to_builtins(query).items() if value is not None})
