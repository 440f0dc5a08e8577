"""Deletes letters by their age and number, and what ended jobs no longer need."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, delete, func, select

from penstock.deadletters.dead_letter_queue import Requester
from penstock.deadletters.sql.dialect import among, clock
from penstock.deadletters.sql.operations.audit import Progress, record
from penstock.deadletters.sql.operations.jobs import ENDED
from penstock.deadletters.sql.operations.leases import release_expired
from penstock.deadletters.sql.operations.letters import CHANGE_LETTERS, is_needed, remove
from penstock.deadletters.sql.queries import find_ranges, select_ranges
from penstock.deadletters.sql.rows import from_microseconds
from penstock.deadletters.sql.table import GROUPS, JOB_LETTERS, JOBS, LETTERS
from penstock.deadletters.store import STATES, DeadLetterQuery
from penstock.support.ids import id_at

RETENTION = Requester("retention")
"""Who deletes letters because of `keep`, in the audit."""

LOCK = 0x72657461696E6564
"""The key of the advisory lock of PostgreSQL that is held while letters are deleted: "retained" in ASCII."""

GROUP_COST = 20
"""Letters that take as long as the statement for one group."""

END = "~"
"""A text that is larger than all ids."""

EXPIRED = ("resolved", "parked", "waiting")
"""The states in which letters are deleted, in this order."""


def expire(
    connection: Connection,
    keep: Mapping[str, float],
    max: int | None,
    flow: str | None,
    copies: Sequence[str],
    progress: Progress,
) -> Progress:
    """Delete some letters whose age in their state exceeds `keep`, or then the oldest ones above `max`.

    Letters that one of some copies does not have yet stay. `after` is the number of the state in `EXPIRED` and where
    the search goes on in it. Each call checks a bounded number of letters.
    """
    _wait_for_other_processes(connection)
    release_expired(connection)
    forget_ended_jobs(connection)
    number, _, place = (progress.after or "0:").partition(":")
    state_number = int(number)
    if state_number < len(EXPIRED):
        state = EXPIRED[state_number]
        checked: Sequence[Any] = []
        if state in keep:
            checked, place = _check(connection, state, place, keep[state], flow, copies)
        rows: Sequence[Any] = [row for row in checked if row.expired]
        now = Progress(progress.count + len(rows), f"{state_number}:{place}" if place else f"{state_number + 1}:")
    else:
        rows = [] if max is None else _surplus(connection, max, flow, copies)
        now = Progress(progress.count + len(rows), progress.after, done=not rows)

    remove(connection, rows)
    if now.done and now.count:
        query = {"keep": dict(keep)} | ({} if max is None else {"max": max}) | ({} if flow is None else {"flow": flow})
        record(connection, "expire", RETENTION, json.dumps(query), count=now.count)
    return now


def _wait_for_other_processes(connection: Connection) -> None:
    """Let one process at a time delete letters: two that see the same surplus would delete it twice."""
    if connection.dialect.name != "sqlite":  # which has locked the whole file
        connection.execute(select(func.pg_advisory_xact_lock(LOCK)))


def _check(
    connection: Connection, state: str, place: str, seconds: float, flow: str | None, copies: Sequence[str]
) -> tuple[Sequence[Any], str]:
    """Return the next old letters in a state, and where the search goes on; "" if there are no more.

    The letters of a flow are found group by group: most letters of a database may belong to other flows.
    """
    if flow is None:
        rows = _oldest(connection, [], state, place, seconds, copies, CHANGE_LETTERS)
        return rows, rows[-1].id if len(rows) == CHANGE_LETTERS else ""
    last_group, _, last_id = place.partition("/")
    groups = select(GROUPS.c.id).where(GROUPS.c.flow == flow, GROUPS.c[state] > 0, GROUPS.c.id >= last_group)
    found: list[Any] = []
    left = CHANGE_LETTERS
    for group in connection.execute(groups.order_by(GROUPS.c.id)).scalars().all():
        after = last_id if group == last_group else ""
        rows = _oldest(connection, [LETTERS.c.group_id == group], state, after, seconds, copies, left)
        found += rows
        if len(rows) == left:
            return found, f"{group}/{rows[-1].id}"
        left -= len(rows) + GROUP_COST
        if left <= 0:
            return found, f"{group}/{END}"
    return found, ""


def _oldest(
    connection: Connection,
    conditions: Sequence[ColumnElement[bool]],
    state: str,
    after: str,
    seconds: float,
    copies: Sequence[str],
    count: int,
) -> Sequence[Any]:
    """Return the next letters in a state that are older than a number of seconds, and whether they are to be deleted:
    whether they are in the state as long, and all copies have them.
    """
    limit = clock(connection) - int(seconds * 1_000_000)
    expired = func.coalesce(LETTERS.c.changed_at, LETTERS.c.failed_at) < limit
    if copies:
        expired = and_(expired, ~is_needed(copies))
    statement = (
        select(LETTERS.c.id, LETTERS.c.group_id, LETTERS.c.state, expired.label("expired"))
        .where(*conditions, LETTERS.c.state == state)
        .where(LETTERS.c.id > after, LETTERS.c.id < id_at(from_microseconds(limit)))
        .order_by(LETTERS.c.id)
        .limit(count)
    )
    return connection.execute(statement.with_for_update(skip_locked=True, of=LETTERS)).all()


def _surplus(connection: Connection, max: int, flow: str | None, copies: Sequence[str]) -> Sequence[Any]:
    """Return the oldest letters above a number, those of the first state that has some."""
    totals = select(*(func.coalesce(func.sum(GROUPS.c[state]), 0) for state in STATES))
    if flow is not None:
        totals = totals.where(GROUPS.c.flow == flow)
    surplus = int(sum(connection.execute(totals).one())) - max
    conditions = [~is_needed(copies)] if copies else []
    for state in EXPIRED if surplus > 0 else ():
        ids = _first_ids(connection, state, flow, min(surplus, CHANGE_LETTERS), conditions)
        statement = select(LETTERS.c.id, LETTERS.c.group_id, LETTERS.c.state)
        statement = statement.where(among(LETTERS.c.id, ids), LETTERS.c.state == state)
        if ids and (rows := connection.execute(statement.with_for_update(skip_locked=True)).all()):
            return rows
    return []


def _first_ids(
    connection: Connection, state: str, flow: str | None, count: int, conditions: Sequence[ColumnElement[bool]]
) -> Sequence[str]:
    """Return the ids of the oldest letters in a state, of a flow or of all."""
    statement: Any = select(LETTERS.c.id).where(LETTERS.c.state == state, *conditions)
    if flow is not None:
        ranges = find_ranges(connection, DeadLetterQuery(flow=flow, state=state))
        if ranges is not None:
            found = select_ranges(DeadLetterQuery(), ranges, None, count, *conditions) if ranges else None
            return [] if found is None else connection.execute(found).scalars().all()
        statement = statement.where(LETTERS.c.group_id.in_(select(GROUPS.c.id).where(GROUPS.c.flow == flow)))
    return connection.execute(statement.order_by(LETTERS.c.id).limit(count)).scalars().all()


def has_ended_jobs(connection: Connection) -> bool:
    """Check whether there are letters of the sets of ended jobs."""
    return connection.execute(_of_ended_jobs().limit(1)).first() is not None


def forget_ended_jobs(connection: Connection) -> None:
    """Delete some letters of the sets of ended jobs. Their counts and the attempts stay."""
    rows = connection.execute(_of_ended_jobs().limit(CHANGE_LETTERS)).all()
    for job in sorted({row.job for row in rows}):
        ids = [row.letter_id for row in rows if row.job == job]
        connection.execute(delete(JOB_LETTERS).where(JOB_LETTERS.c.job == job, among(JOB_LETTERS.c.letter_id, ids)))


def _of_ended_jobs() -> Any:
    ended = select(JOBS.c.id).where(JOBS.c.state.in_(ENDED))
    return select(JOB_LETTERS.c.job, JOB_LETTERS.c.letter_id).where(
        JOB_LETTERS.c.job.in_(ended), JOB_LETTERS.c.state != "claimed"
    )
