"""End the leases of letters whose job is not running: no runner would claim these letters again."""

from __future__ import annotations

from collections import Counter
from typing import Any

from sqlalchemy import Connection, bindparam, select, update

from penstock.deadletters.sql.dialect import among, among_texts, clock, texts
from penstock.deadletters.sql.operations.counts import Moves
from penstock.deadletters.sql.operations.documents import options_of
from penstock.deadletters.sql.table import IS_CLAIMED, JOB_BATCHES, JOB_LETTERS, JOBS, LETTERS

RELEASED = 1000
"""Letters released at once. A runner has far fewer."""


def release_expired(connection: Connection) -> int:
    """Let letters of paused and ended jobs wait again when their lease has expired: their runner was killed.

    Letters of running jobs are claimed again by the next runner. Returns how many letters there were.
    """
    statement = _expired(connection, JOB_LETTERS, JOBS.c.options).limit(RELEASED)
    rows = connection.execute(statement.with_for_update(skip_locked=True, of=JOB_LETTERS)).all()
    for job in sorted({row.job for row in rows}):
        of_job = [row for row in rows if row.job == job]
        parked = park_at_limit(connection, job, of_job, options_of(of_job[0].options).limit)
        give_back(connection, job, [row.letter_id for row in of_job if row.letter_id not in parked])
    return len(rows)


def has_expired(connection: Connection) -> bool:
    """Check whether there are letters to release."""
    return connection.execute(_expired(connection, JOB_LETTERS.c.job).limit(1)).first() is not None


def _expired(connection: Connection, *columns: Any) -> Any:
    return (
        select(*columns)
        .join_from(JOB_LETTERS, JOBS, JOBS.c.id == JOB_LETTERS.c.job)
        .where(IS_CLAIMED, JOB_LETTERS.c.leased_until <= clock(connection), JOBS.c.state != "running")
    )


def park_at_limit(connection: Connection, job: str, rows: list[Any], limit: int) -> set[str]:
    """Park claimed letters (rows of `job_letters`) that were redriven too often; they count as failed.

    Returns their ids.
    """
    reached = select(LETTERS.c.id, LETTERS.c.group_id).where(
        among(LETTERS.c.id, [row.letter_id for row in rows]),
        LETTERS.c.state == "claimed",
        LETTERS.c.redrives >= limit,
    )
    letters = connection.execute(reached.with_for_update()).all()
    if not letters:
        return set()
    ids = [letter.id for letter in letters]
    connection.execute(
        update(LETTERS).where(among(LETTERS.c.id, ids)).values(state="parked", changed_at=clock(connection))
    )
    close_letters(connection, job, ids, "failed")
    batches = {row.letter_id: row.batch for row in rows}
    count_outcomes(connection, job, [(batches[id], "failed") for id in ids])
    moves = Moves()
    moves.move([letter.group_id for letter in letters], "claimed", "parked")
    moves.apply(connection)
    return set(ids)


def give_back(connection: Connection, job: str, ids: list[str]) -> None:
    """Let claimed letters of a job wait, and be open in the job."""
    if not ids:
        return
    claimed = among(LETTERS.c.id, ids), LETTERS.c.state == "claimed"
    groups = connection.execute(select(LETTERS.c.group_id).where(*claimed).with_for_update()).scalars().all()
    connection.execute(update(LETTERS).where(*claimed).values(state="waiting", changed_at=clock(connection)))
    close_letters(connection, job, ids, "open")
    moves = Moves()
    moves.move(groups, "claimed", "waiting")
    moves.apply(connection)


def close_letters(connection: Connection, job: str, ids: list[str], state: str) -> None:
    """Set the state of letters within their job, and end their leases."""
    connection.execute(_CLOSE_LETTERS, {"p_job": job, "p_ids": texts(ids), "p_state": state})


_CLOSE_LETTERS = (
    update(JOB_LETTERS)
    .where(JOB_LETTERS.c.job == bindparam("p_job"), among_texts(JOB_LETTERS.c.letter_id, "p_ids"))
    .values(state=bindparam("p_state"), runner=None, leased_until=None)
)


def count_outcomes(connection: Connection, job: str, outcomes: list[tuple[int, str]]) -> None:
    """Add outcomes (`resolved`, `failed`, `skipped`) to the counts of their batches."""
    counts = Counter(outcomes)
    for batch in sorted({batch for batch, _ in outcomes}):
        added = {f"p_{name}": counts[batch, name] for name in _OUTCOMES}
        connection.execute(_COUNT_OUTCOMES, {"p_job": job, "p_batch": batch} | added)


_OUTCOMES = ("resolved", "failed", "skipped")
_COUNT_OUTCOMES = (
    update(JOB_BATCHES)
    .where(JOB_BATCHES.c.job == bindparam("p_job"), JOB_BATCHES.c.batch == bindparam("p_batch"))
    .values({name: JOB_BATCHES.c[name] + bindparam(f"p_{name}") for name in _OUTCOMES})
)
