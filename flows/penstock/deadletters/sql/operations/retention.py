"""Deletes letters by their age and number, and what ended jobs no longer need."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, delete, func, select

from penstock.deadletters.dead_letter_queue import Requester
from penstock.deadletters.sql.dialect import among, clock
from penstock.deadletters.sql.operations.audit import Progress, record
from penstock.deadletters.sql.operations.jobs import ENDED
from penstock.deadletters.sql.operations.leases import release_expired
from penstock.deadletters.sql.operations.letters import CHANGE_LETTERS, remove
from penstock.deadletters.sql.rows import from_microseconds
from penstock.deadletters.sql.table import GROUPS, JOB_LETTERS, JOBS, LETTERS
from penstock.deadletters.store import STATES
from penstock.support.ids import id_at

RETENTION = Requester("retention")
"""Who deletes letters because of `keep`, in the audit."""

LOCK = 0x72657461696E6564
"""The key of the advisory lock of PostgreSQL that is held while letters are deleted: "retained" in ASCII."""

EXPIRED = ("resolved", "parked", "waiting")
"""The states in which letters are deleted, in this order."""


def expire(
    connection: Connection, keep: Mapping[str, float], max: int | None, flow: str | None, progress: Progress
) -> Progress:
    """Delete some letters whose age in their state exceeds `keep`, or then the oldest ones above `max`.

    `after` is the number of the state in `EXPIRED` and the last id that was checked. Each call checks a bounded number.
    """
    _wait_for_other_processes(connection)
    release_expired(connection)
    _forget_ended_jobs(connection)
    number, _, start = (progress.after or "0:").partition(":")
    state_number = int(number)
    if state_number < len(EXPIRED):
        state = EXPIRED[state_number]
        checked: Sequence[Any] = _oldest(connection, state, start, keep[state]) if state in keep else []
        rows: Sequence[Any] = [row for row in checked if row.expired and flow in (None, row.flow)]
        complete = len(checked) < CHANGE_LETTERS
        now = Progress(
            progress.count + len(rows), f"{state_number + 1}:" if complete else f"{state_number}:{checked[-1].id}"
        )
    else:
        rows = [] if max is None else _surplus(connection, max, flow)
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


def _oldest(connection: Connection, state: str, after: str, seconds: float) -> Sequence[Any]:
    """Return the next letters in a state that are older than a number of seconds, and whether the state is as old."""
    limit = clock(connection) - int(seconds * 1_000_000)
    expired = func.coalesce(LETTERS.c.changed_at, LETTERS.c.failed_at) < limit
    statement = (
        select(LETTERS.c.id, LETTERS.c.group_id, LETTERS.c.state, LETTERS.c.flow, expired.label("expired"))
        .where(LETTERS.c.state == state, LETTERS.c.id > after, LETTERS.c.id < id_at(from_microseconds(limit)))
        .order_by(LETTERS.c.id)
        .limit(CHANGE_LETTERS)
    )
    return connection.execute(statement.with_for_update(skip_locked=True)).all()


def _surplus(connection: Connection, max: int, flow: str | None) -> Sequence[Any]:
    """Return the oldest letters above a number, those of the first state that has some."""
    totals = select(*(func.coalesce(func.sum(GROUPS.c[state]), 0) for state in STATES))
    if flow is not None:
        totals = totals.where(GROUPS.c.flow == flow)
    surplus = int(sum(connection.execute(totals).one())) - max
    for state in EXPIRED if surplus > 0 else ():
        statement = select(LETTERS.c.id, LETTERS.c.group_id, LETTERS.c.state).where(LETTERS.c.state == state)
        if flow is not None:
            statement = statement.where(LETTERS.c.flow == flow)
        statement = statement.order_by(LETTERS.c.id).limit(min(surplus, CHANGE_LETTERS))
        if rows := connection.execute(statement.with_for_update(skip_locked=True)).all():
            return rows
    return []


def _forget_ended_jobs(connection: Connection) -> None:
    """Delete some letters of the sets of ended jobs. Their counts and the attempts stay."""
    ended = select(JOBS.c.id).where(JOBS.c.state.in_(ENDED))
    some = select(JOB_LETTERS.c.job, JOB_LETTERS.c.letter_id).where(
        JOB_LETTERS.c.job.in_(ended), JOB_LETTERS.c.state != "claimed"
    )
    rows = connection.execute(some.limit(CHANGE_LETTERS)).all()
    for job in sorted({row.job for row in rows}):
        ids = [row.letter_id for row in rows if row.job == job]
        connection.execute(delete(JOB_LETTERS).where(JOB_LETTERS.c.job == job, among(JOB_LETTERS.c.letter_id, ids)))
