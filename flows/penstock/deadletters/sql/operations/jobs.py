"""Reads and changes redrive jobs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from msgspec.structs import replace
from sqlalchemy import Connection, delete, select, update

from penstock.deadletters.dead_letter_queue import AuditAction, BatchCounts, Job, JobState, Requester
from penstock.deadletters.sql.dialect import SERVER_CLOCK, among, clock
from penstock.deadletters.sql.operations.audit import record
from penstock.deadletters.sql.operations.documents import job_of, options_json, options_of
from penstock.deadletters.sql.table import IS_CLAIMED, JOB_BATCHES, JOB_GROUPS, JOB_LETTERS, JOBS
from penstock.errors import JobEnded, JobNotFound

ENDED = ("completed", "cancelled")

_ACTIONS: dict[JobState, AuditAction] = {"paused": "pause", "running": "resume", "cancelled": "cancel"}


def find_job(connection: Connection, id: str) -> Job | None:
    """Return the job with this id, or None."""
    row = connection.execute(select(JOBS).where(JOBS.c.id == id)).first()
    return None if row is None else job_of(row, _batches(connection, [id]).get(id, []), clock(connection))


def load(connection: Connection, id: str) -> Job:
    """Return the job with this id. Raises `JobNotFound`."""
    job = find_job(connection, id)
    if job is None:
        raise JobNotFound(id)
    return job


def lock(connection: Connection, id: str) -> Any:
    """Return the row of a job, locked until the end of the transaction. Raises `JobNotFound`."""
    return _found(id, connection.execute(select(JOBS).where(JOBS.c.id == id).with_for_update()).first())


def hold(connection: Connection, id: str) -> tuple[Any, int]:
    """Return the row of a job, locked until the end of the transaction, and the time.

    Claims and settlements of one job run at the same time. Raises `JobNotFound`.
    """
    held = select(JOBS).where(JOBS.c.id == id).with_for_update(read=True)
    if connection.dialect.name == "sqlite":
        return _found(id, connection.execute(held).first()), clock(connection)
    row = _found(id, connection.execute(held.add_columns(SERVER_CLOCK.label("now"))).first())
    return row, row.now


def _found(id: str, row: Any) -> Any:
    if row is None:
        raise JobNotFound(id)
    return row


def list_jobs(connection: Connection, state: JobState | None, after: str | None, limit: int) -> list[Job]:
    """Return jobs, newest first, starting after an id."""
    statement = select(JOBS).order_by(JOBS.c.id.desc()).limit(limit)
    if state is not None:
        statement = statement.where(JOBS.c.state == state)
    if after is not None:
        statement = statement.where(JOBS.c.id < after)
    rows = connection.execute(statement).all()
    batches, now = _batches(connection, [row.id for row in rows]), clock(connection)
    return [job_of(row, batches.get(row.id, []), now) for row in rows]


def _batches(connection: Connection, ids: Sequence[str]) -> dict[str, list[BatchCounts]]:
    found: dict[str, list[BatchCounts]] = {}
    statement = select(JOB_BATCHES).where(among(JOB_BATCHES.c.job, ids))
    for row in connection.execute(statement.order_by(JOB_BATCHES.c.job, JOB_BATCHES.c.batch)):
        counts = BatchCounts(total=row.total, resolved=row.resolved, failed=row.failed, skipped=row.skipped)
        found.setdefault(row.job, []).append(counts)
    return found


def change_job(
    connection: Connection,
    id: str,
    requester: Requester | None,
    *,
    state: JobState | None = None,
    rate: float | Literal["keep"] | None = "keep",
    message: str | None = None,
) -> Job:
    """Change the state or the rate of a job. Without a requester, the job itself does it."""
    row = lock(connection, id)
    if row.state in ENDED:
        raise JobEnded(id, row.state)
    values: dict[str, Any] = {}
    if rate != "keep":
        values["options"] = options_json(replace(options_of(row.options), rate=rate))
    if state is not None:
        values |= {"state": state, "message": message}
    elif message is not None and row.state == "running":
        values["message"] = message or None
    if state in ENDED:
        values |= {"ended_at": clock(connection), "runner": None, "leased_until": None}
        connection.execute(delete(JOB_GROUPS).where(JOB_GROUPS.c.job == id))
    if values:
        connection.execute(update(JOBS).where(JOBS.c.id == id).values(values))
    job = load(connection, id)
    _record_change(connection, row, job, requester, rate_changed=rate != "keep", state=state)
    return job


def _record_change(
    connection: Connection,
    row: Any,
    job: Job,
    requester: Requester | None,
    *,
    rate_changed: bool,
    state: JobState | None,
) -> None:
    count = job.counts.total
    if requester is None:
        if state in ("stopped", "completed"):  # the end of the redrive that its requester began
            outcome = f"{state}: {job.counts.resolved} resolved, {job.counts.failed} failed"
            owner = Requester(row.requester, row.reason)
            record(connection, "redrive", owner, row.query, job=job.id, count=count, outcome=outcome)
        return
    if rate_changed:
        outcome = "no limit" if job.options.rate is None else f"{job.options.rate:g}/s"
        record(connection, "rate", requester, row.query, job=job.id, count=count, outcome=outcome)
    if state in _ACTIONS and state != row.state:
        record(connection, _ACTIONS[state], requester, row.query, job=job.id, count=count)


def acquire_job(connection: Connection, id: str, runner: str, lease: float) -> Job | None:
    """Take or extend the lease on a job, and extend the leases of the letters that the runner has claimed for it.

    The letters are extended whatever the state of the job, and never shortened. A lease of 0 gives up the job, also one
    that was stopped.
    """
    row = connection.execute(select(JOBS).where(JOBS.c.id == id).with_for_update()).first()
    if row is None:
        return None
    now = clock(connection)
    until = now + int(lease * 1_000_000)
    connection.execute(
        update(JOB_LETTERS)
        .where(JOB_LETTERS.c.job == id, IS_CLAIMED, JOB_LETTERS.c.runner == runner, JOB_LETTERS.c.leased_until < until)
        .values(leased_until=until)
    )
    is_free = row.runner in (None, runner) or row.leased_until <= now
    is_given_up = lease == 0 and row.runner == runner
    if not is_given_up and (row.state not in ("running", "paused") or not is_free):
        return None
    connection.execute(update(JOBS).where(JOBS.c.id == id).values(runner=runner, leased_until=until))
    return load(connection, id)
