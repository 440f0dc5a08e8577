"""Claims letters of a job for a runner."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import BigInteger, Connection, Integer, Text, bindparam, func, insert, literal, select, update

from penstock.deadletters.dead_letter import DeadLetter
from penstock.deadletters.sql.dialect import among_texts, texts
from penstock.deadletters.sql.operations.counts import Moves
from penstock.deadletters.sql.operations.documents import options_of
from penstock.deadletters.sql.operations.jobs import hold
from penstock.deadletters.sql.operations.leases import close_letters, count_outcomes, give_back, park_at_limit
from penstock.deadletters.sql.queries import ROW
from penstock.deadletters.sql.rows import from_row
from penstock.deadletters.sql.table import ATTEMPTS, IS_CLAIMED, JOB_BATCHES, JOB_LETTERS, LETTERS
from penstock.deadletters.store import PAGE_BYTES


def claim(connection: Connection, id: str, runner: str, batch: int, count: int, lease: float) -> list[DeadLetter]:
    """Claim up to `count` letters of one batch; fewer if they are large. None while another runner has the job."""
    job, now = hold(connection, id)
    if job.state != "running" or (job.runner not in (None, runner) and job.leased_until > now):
        return []
    _reopen_expired(connection, id, batch, now, options_of(job.options).limit)
    while ids := _open_letters(connection, id, batch, count):
        found = connection.execute(_WAITING, {"p_ids": texts(ids)}).all()
        waiting = {row.id for row in found}
        gone = [each for each in ids if each not in waiting]
        if gone:
            close_letters(connection, id, gone, "skipped")
            count_outcomes(connection, id, [(batch, "skipped")] * len(gone))
        if found:
            until = now + int(lease * 1_000_000)
            return _claim(connection, job, _within_bytes(found), runner, now, until)
    return []


def _reopen_expired(connection: Connection, job: str, batch: int, now: int, limit: int) -> None:
    """Make letters whose lease has expired open again, or park those that reached the limit."""
    statement = select(JOB_LETTERS).where(
        JOB_LETTERS.c.job == job, IS_CLAIMED, JOB_LETTERS.c.leased_until <= now, JOB_LETTERS.c.batch == batch
    )
    rows = connection.execute(statement.with_for_update(skip_locked=True)).all()
    if rows:
        # Like a settlement, which may run at the same time: first the counts of the batch, then those of groups.
        connection.execute(_BATCH, {"p_job": job, "p_batch": batch})
        parked = park_at_limit(connection, job, list(rows), limit)
        give_back(connection, job, [row.letter_id for row in rows if row.letter_id not in parked])


def _open_letters(connection: Connection, job: str, batch: int, count: int) -> list[str]:
    rows = connection.execute(_OPEN, {"p_job": job, "p_batch": batch, "p_count": count}).all()
    return [row[0] for row in rows]


def _within_bytes(rows: Sequence[Any]) -> list[str]:
    """Return the ids of the first letters that are small enough together, and at least one."""
    ids: list[str] = []
    size = 0
    for row in rows:
        size += row.size
        if ids and size > PAGE_BYTES:
            break
        ids.append(row.id)
    return ids


def _claim(connection: Connection, job: Any, ids: list[str], runner: str, now: int, until: int) -> list[DeadLetter]:
    parameters = {"p_ids": texts(ids), "p_now": now}
    connection.execute(_CLAIM_LETTERS, parameters)
    connection.execute(_ADD_ATTEMPTS, parameters | {"p_job": job.id, "p_requester": job.requester})
    connection.execute(_LEASE, {"p_ids": texts(ids), "p_job": job.id, "p_runner": runner, "p_until": until})
    letters = sorted(
        map(from_row, connection.execute(_LETTERS, {"p_ids": texts(ids)}).all()), key=lambda letter: letter.id
    )
    moves = Moves()
    moves.move([letter.group for letter in letters], "waiting", "claimed")
    moves.apply(connection)
    return letters


_BATCH = (
    select(JOB_BATCHES.c.batch)
    .where(JOB_BATCHES.c.job == bindparam("p_job"), JOB_BATCHES.c.batch == bindparam("p_batch"))
    .with_for_update()
)

_WAITING = (
    select(
        LETTERS.c.id,
        (func.length(LETTERS.c.input) + func.coalesce(func.length(LETTERS.c.found), 0)).label("size"),
    )
    .where(among_texts(LETTERS.c.id, "p_ids"), LETTERS.c.state == "waiting")
    .order_by(LETTERS.c.id)
    .with_for_update()
)

_OPEN = (
    select(JOB_LETTERS.c.letter_id)
    .where(JOB_LETTERS.c.job == bindparam("p_job"), JOB_LETTERS.c.batch == bindparam("p_batch"))
    .where(JOB_LETTERS.c.state == "open")
    .order_by(JOB_LETTERS.c.letter_id)
    .limit(bindparam("p_count", type_=Integer()))
    .with_for_update(skip_locked=True)
)

_CLAIM_LETTERS = (
    update(LETTERS)
    .where(among_texts(LETTERS.c.id, "p_ids"))
    .values(state="claimed", redrives=LETTERS.c.redrives + 1, changed_at=bindparam("p_now"))
)

_others = ATTEMPTS.alias()
_ADD_ATTEMPTS = insert(ATTEMPTS).from_select(
    ["letter_id", "number", "job", "requester", "started_at", "outcome"],
    select(
        LETTERS.c.id,
        func.coalesce(
            select(func.max(_others.c.number)).where(_others.c.letter_id == LETTERS.c.id).scalar_subquery(), 0
        )
        + 1,
        bindparam("p_job", type_=Text()),
        bindparam("p_requester", type_=Text()),
        bindparam("p_now", type_=BigInteger()),
        literal("unknown", Text()),
    ).where(among_texts(LETTERS.c.id, "p_ids")),
)

_LEASE = (
    update(JOB_LETTERS)
    .where(JOB_LETTERS.c.job == bindparam("p_job"), among_texts(JOB_LETTERS.c.letter_id, "p_ids"))
    .values(state="claimed", runner=bindparam("p_runner"), leased_until=bindparam("p_until"))
)

_LETTERS = select(*ROW).where(among_texts(LETTERS.c.id, "p_ids"))
