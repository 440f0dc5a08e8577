"""Reads letters, groups and histories."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from msgspec.structs import replace
from sqlalchemy import Connection, func, select, tuple_

from penstock.deadletters.dead_letter import DeadLetter
from penstock.deadletters.dead_letter_queue import Attempt, Edit, Group, History
from penstock.deadletters.sql.queries import (
    find_ranges,
    group_conditions,
    select_counts,
    select_letter,
    select_letters,
    select_page,
    select_ranges,
)
from penstock.deadletters.sql.rows import from_microseconds, from_row
from penstock.deadletters.sql.table import ATTEMPTS, EDITS, GROUPS, LETTERS
from penstock.deadletters.store import STATES, DeadLetterQuery, GroupField, Page, PageBuilder

FETCH_ROWS = 32
"""Rows fetched at a time: a thousand letters may be a gigabyte."""


def get(connection: Connection, id: str) -> DeadLetter | None:
    """Return the letter with this id, or None."""
    row = connection.execute(select_letter(id)).first()
    return None if row is None else from_row(row)


def page(connection: Connection, query: DeadLetterQuery, after: str | None, limit: int) -> Page:
    """Return letters in the order of their ids, starting after an id."""
    builder = PageBuilder(limit)
    for letter in _matching(connection, query, after, limit + 1):
        if not builder.add(letter):
            return builder.page(more=True)
    return builder.page(more=False)


def _matching(connection: Connection, query: DeadLetterQuery, after: str | None, limit: int) -> Iterator[DeadLetter]:
    ranges = find_ranges(connection, query)
    if ranges is not None and len(ranges) == 1:
        query, ranges = replace(query, flow=None, step=None, type=None, group=ranges[0][0], state=ranges[0][1]), None
    if ranges is None:
        with connection.execute(select_page(query, after, limit)) as result:
            for rows in result.partitions(FETCH_ROWS):
                yield from map(from_row, rows)
    elif ranges:
        ids = list(connection.execute(select_ranges(query, ranges, after, limit)).scalars())
        for start in range(0, len(ids), FETCH_ROWS):
            chunk = ids[start : start + FETCH_ROWS]
            yield from sorted(
                map(from_row, connection.execute(select_letters(chunk)).all()), key=lambda letter: letter.id
            )


def count(connection: Connection, query: DeadLetterQuery, by: Sequence[GroupField]) -> Mapping[tuple[str, ...], int]:
    """Count letters by the values of some fields; from the table of groups if that has all of these fields."""
    if any(getattr(query, name) is not None for name in ("run", "key", "ids", "since", "until", "min_seq")):
        return _count_letters(connection, query, by)
    if "run" in by:
        return _count_letters(connection, query, by)

    states = STATES if query.state is None else (query.state,)
    fields = [name for name in by if name != "state"]
    columns = [GROUPS.c[name] for name in fields]
    totals = [func.sum(GROUPS.c[state]) for state in states]
    statement = select(*columns, *totals).where(*group_conditions(query)).group_by(*columns)
    counts: Counter[tuple[str, ...]] = Counter()
    for row in connection.execute(statement):
        for state, number in zip(states, row[len(fields) :], strict=True):
            values = dict(zip(fields, row, strict=False)) | {"state": state}
            counts[tuple(values[name] for name in by)] += int(number or 0)
    return {values: number for values, number in counts.items() if number or not by}


def _count_letters(
    connection: Connection, query: DeadLetterQuery, by: Sequence[GroupField]
) -> Mapping[tuple[str, ...], int]:
    return {tuple(fields): number for *fields, number in connection.execute(select_counts(query, by))}


def groups(connection: Connection, query: DeadLetterQuery, after: str | None, limit: int) -> list[Group]:
    """Return groups, the ones with the most recent letters first."""
    statement = select(GROUPS, *_samples()).where(*group_conditions(query))
    if query.state is not None:
        statement = statement.where(GROUPS.c[query.state] > 0)
    if after is not None:
        last = select(GROUPS.c.last_seen).where(GROUPS.c.id == after).scalar_subquery()
        statement = statement.where(tuple_(GROUPS.c.last_seen, GROUPS.c.id) < tuple_(last, after))
    statement = statement.order_by(GROUPS.c.last_seen.desc(), GROUPS.c.id.desc()).limit(limit)
    return [_group(row) for row in connection.execute(statement)]


def _samples() -> list[Any]:
    """Return the newest letter of a group in each state: each is one step in the index."""
    return [
        select(func.max(LETTERS.c.id))
        .where(LETTERS.c.group_id == GROUPS.c.id, LETTERS.c.state == state)
        .scalar_subquery()
        .label(f"sample_{state}")
        for state in STATES
    ]


def _group(row: Any) -> Group:
    return Group(
        id=row.id,
        flow=row.flow,
        step=row.step,
        type=row.type,
        pattern=row.pattern,
        counts={state: number for state in STATES if (number := getattr(row, state))},
        first_seen=from_microseconds(row.first_seen),
        last_seen=from_microseconds(row.last_seen),
        first_revision=row.first_revision,
        sample=next((id for state in STATES if (id := getattr(row, f"sample_{state}"))), ""),
    )


def history(connection: Connection, id: str) -> History:
    """Return what was done to a letter."""
    attempts = connection.execute(select(ATTEMPTS).where(ATTEMPTS.c.letter_id == id).order_by(ATTEMPTS.c.number))
    edits = connection.execute(select(EDITS).where(EDITS.c.letter_id == id).order_by(EDITS.c.number))
    return History(
        [
            Attempt(
                number=row.number,
                job=row.job,
                requester=row.requester,
                started_at=from_microseconds(row.started_at),
                ended_at=None if row.ended_at is None else from_microseconds(row.ended_at),
                outcome=row.outcome,
                error=row.error,
            )
            for row in attempts
        ],
        [Edit(at=from_microseconds(row.at), **_edit_fields(row)) for row in edits],
    )


def _edit_fields(row: Any) -> dict[str, Any]:
    return {"requester": row.requester, "reason": row.reason, "input": row.input, "header": row.header}


def oldest_waiting(connection: Connection) -> Mapping[str, datetime]:
    """Return when the oldest waiting letter of each flow failed: of each group, the one with the smallest id."""
    first = (
        select(func.min(LETTERS.c.id))
        .where(LETTERS.c.group_id == GROUPS.c.id, LETTERS.c.state == "waiting")
        .scalar_subquery()
    )
    oldest = select(GROUPS.c.flow, first.label("id")).where(GROUPS.c.waiting > 0).subquery()
    statement = select(oldest.c.flow, func.min(LETTERS.c.failed_at)).join(LETTERS, LETTERS.c.id == oldest.c.id)
    return {flow: from_microseconds(time) for flow, time in connection.execute(statement.group_by(oldest.c.flow))}
