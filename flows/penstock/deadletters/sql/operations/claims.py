"""Claims letters of a job for a runner, and settles them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, func, insert, literal, select, update

from penstock.deadletters.dead_letter import DeadLetter
from penstock.deadletters.groups import fingerprint, pattern_of
from penstock.deadletters.queue import FailedAgain, Job, Settlement
from penstock.deadletters.sql.dialect import among, clock
from penstock.deadletters.sql.grouping import GroupChange
from penstock.deadletters.sql.operations.counts import Moves
from penstock.deadletters.sql.operations.documents import options_of
from penstock.deadletters.sql.operations.jobs import load, lock
from penstock.deadletters.sql.operations.leases import close_letters, count_outcomes, give_back, park_at_limit
from penstock.deadletters.sql.queries import select_letters
from penstock.deadletters.sql.rows import from_row
from penstock.deadletters.sql.table import ATTEMPTS, IS_CLAIMED, JOB_LETTERS, LETTERS
from penstock.deadletters.store import PAGE_BYTES
from penstock.support.json_encoding import encode_json
from penstock.support.text import sanitize


def claim(connection: Connection, id: str, runner: str, batch: int, count: int, lease: float) -> list[DeadLetter]:
    """Claim up to `count` letters of one batch; fewer if they are large. None while another runner has the job."""
    job, now = lock(connection, id), clock(connection)
    if job.state != "running" or (job.runner not in (None, runner) and job.leased_until > now):
        return []
    _reopen_expired(connection, id, batch, now, options_of(job.options).limit)
    while ids := _open_letters(connection, id, batch, count):
        found = connection.execute(
            select(LETTERS.c.id, (LETTERS.c.input_size + func.length(LETTERS.c.input)).label("size"))
            .where(among(LETTERS.c.id, ids), LETTERS.c.state == "waiting")
            .order_by(LETTERS.c.id)
            .with_for_update()
        ).all()
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
        parked = park_at_limit(connection, job, list(rows), limit)
        give_back(connection, job, [row.letter_id for row in rows if row.letter_id not in parked])


def _open_letters(connection: Connection, job: str, batch: int, count: int) -> list[str]:
    statement = (
        select(JOB_LETTERS.c.letter_id)
        .where(JOB_LETTERS.c.job == job, JOB_LETTERS.c.batch == batch, JOB_LETTERS.c.state == "open")
        .order_by(JOB_LETTERS.c.letter_id)
        .limit(count)
    )
    return list(connection.execute(statement.with_for_update(skip_locked=True)).scalars())


def _within_bytes(rows: Sequence[Any]) -> list[str]:
    """Return the ids of the first letters that are small enough together, and at least one."""
    ids: list[str] = []
    size = 0
    for row in rows:
        size += row.size
        if ids and size > 2 * PAGE_BYTES:
            break
        ids.append(row.id)
    return ids


def _claim(connection: Connection, job: Any, ids: list[str], runner: str, now: int, until: int) -> list[DeadLetter]:
    mine = among(LETTERS.c.id, ids)
    connection.execute(
        update(LETTERS).where(mine).values(state="claimed", redrives=LETTERS.c.redrives + 1, changed_at=now)
    )
    last = func.coalesce(
        select(func.max(ATTEMPTS.c.number)).where(ATTEMPTS.c.letter_id == LETTERS.c.id).scalar_subquery(), 0
    )
    attempts = select(
        LETTERS.c.id, last + 1, literal(job.id), literal(job.requester), literal(now), literal("unknown")
    ).where(mine)
    connection.execute(
        insert(ATTEMPTS).from_select(["letter_id", "number", "job", "requester", "started_at", "outcome"], attempts)
    )
    connection.execute(
        update(JOB_LETTERS)
        .where(JOB_LETTERS.c.job == job.id, among(JOB_LETTERS.c.letter_id, ids))
        .values(state="claimed", runner=runner, leased_until=until)
    )
    letters = sorted(map(from_row, connection.execute(select_letters(ids)).all()), key=lambda letter: letter.id)
    moves = Moves()
    moves.move([letter.group for letter in letters], "waiting", "claimed")
    moves.apply(connection)
    return letters


def settle(connection: Connection, id: str, runner: str, settlements: Sequence[Settlement]) -> Job:
    """Record the outcomes of claimed letters. Those whose lease was lost to another runner are ignored."""
    job, now = lock(connection, id), clock(connection)
    outcomes = {settlement.id: settlement for settlement in settlements}
    claimed = (
        select(JOB_LETTERS.c.letter_id, JOB_LETTERS.c.batch, LETTERS.c.group_id, LETTERS.c.flow, LETTERS.c.redrives)
        .join(LETTERS, LETTERS.c.id == JOB_LETTERS.c.letter_id)
        .where(JOB_LETTERS.c.job == id, among(JOB_LETTERS.c.letter_id, outcomes))
        .where(IS_CLAIMED, JOB_LETTERS.c.runner == runner, LETTERS.c.state == "claimed")
        .with_for_update()
    )
    rows = connection.execute(claimed).all()
    if rows:
        _Settling(connection, job, now).settle([(row, outcomes[row.letter_id]) for row in rows])
    return load(connection, id)


class _Settling:
    """The changes of one call of `settle`."""

    def __init__(self, connection: Connection, job: Any, now: int) -> None:
        self._connection = connection
        self._job = job
        self._now = now
        self._limit = options_of(job.options).limit
        self._moves = Moves()
        self._changes: dict[str, GroupChange] = {}

    def settle(self, pairs: list[tuple[Any, Settlement]]) -> None:
        by_outcome: dict[str, list[tuple[Any, Settlement]]] = {"resolved": [], "failed": [], "cancelled": []}
        for pair in pairs:
            by_outcome[pair[1].outcome].append(pair)
        for outcome, some in by_outcome.items():
            if not some:
                continue
            if outcome == "resolved":
                self._resolved(some)
            elif outcome == "failed":
                self._failed(some)
            else:
                self._cancelled(some)
            self._end_attempts(outcome, some)
        self._moves.apply(self._connection, sorted(self._changes.values(), key=lambda change: change.id))

    def _end_attempts(self, outcome: str, pairs: list[tuple[Any, Settlement]]) -> None:
        """Record the end of the last attempt of each letter. Most letters that fail have one of few errors."""
        by_error: dict[str | None, list[str]] = {}
        for row, settlement in pairs:
            error = None if settlement.error is None else describe(settlement.error)
            by_error.setdefault(error, []).append(row.letter_id)
        others = ATTEMPTS.alias()
        last = select(func.max(others.c.number)).where(others.c.letter_id == ATTEMPTS.c.letter_id).scalar_subquery()
        for error, ids in by_error.items():
            self._connection.execute(
                update(ATTEMPTS)
                .where(among(ATTEMPTS.c.letter_id, ids), ATTEMPTS.c.number == last)
                .values(ended_at=self._now, outcome=outcome, error=error)
            )

    def _resolved(self, pairs: list[tuple[Any, Settlement]]) -> None:
        self._set(pairs, state="resolved")
        self._close(pairs, "resolved")
        self._moves.move([row.group_id for row, _ in pairs], "claimed", "resolved")

    def _cancelled(self, pairs: list[tuple[Any, Settlement]]) -> None:
        self._set(pairs, state="waiting", redrives=LETTERS.c.redrives - 1)
        close_letters(self._connection, self._job.id, [row.letter_id for row, _ in pairs], "open")
        self._moves.move([row.group_id for row, _ in pairs], "claimed", "waiting")

    def _failed(self, pairs: list[tuple[Any, Settlement]]) -> None:
        changes: list[dict[str, Any]] = []
        for row, settlement in pairs:
            state = "parked" if row.redrives >= self._limit else "waiting"
            error, group = settlement.error, row.group_id
            if error is None:
                self._set([(row, settlement)], state=state)
            else:
                error = _stored(error)
                group = fingerprint(row.flow, error.step, error.type, error.message)
                changes.append(_error_values(row.letter_id, error, group, state, self._now))
            if group == row.group_id:
                self._moves.move([group], "claimed", state)
            elif error is not None:
                self._moves.move([row.group_id], "claimed", None)
                self._join(group, row.flow, error, state)
        if changes:
            self._connection.execute(_FAIL_AGAIN, changes)
        self._close(pairs, "failed")

    def _join(self, group: str, flow: str, error: FailedAgain, state: str) -> None:
        pattern = pattern_of(error.message)
        times = (self._now, self._now, error.revision)
        change = GroupChange(group, flow, error.step, error.type, pattern, *times, {state: 1})
        if (known := self._changes.setdefault(group, change)) is not change:
            known.add(change)

    def _set(self, pairs: list[tuple[Any, Settlement]], **values: Any) -> None:
        ids = [row.letter_id for row, _ in pairs]
        self._connection.execute(update(LETTERS).where(among(LETTERS.c.id, ids)).values(changed_at=self._now, **values))

    def _close(self, pairs: list[tuple[Any, Settlement]], outcome: str) -> None:
        close_letters(self._connection, self._job.id, [row.letter_id for row, _ in pairs], outcome)
        count_outcomes(self._connection, self._job.id, [(row.batch, outcome) for row, _ in pairs])


def describe(error: FailedAgain) -> str:
    """Return the type and the message of an error, for the history."""
    return sanitize(f"{error.type}: {error.message}")


def _stored(error: FailedAgain) -> FailedAgain:
    """Return an error whose texts can be stored, so that its group is that of the stored letter."""
    return FailedAgain(
        step=sanitize(error.step),
        type=error.type,
        message=sanitize(error.message),
        attempts=error.attempts,
        cause=error.cause and sanitize(error.cause),
        partial_results=error.partial_results,
        revision=error.revision,
    )


def _error_values(id: str, error: FailedAgain, group: str, state: str, now: int) -> dict[str, Any]:
    results = error.partial_results
    return {
        "letter": id,
        "new_step": error.step,
        "new_type": error.type,
        "new_message": error.message,
        "new_attempts": error.attempts,
        "new_cause": error.cause,
        "new_found": None if results is None else encode_json(results).decode(),
        "new_revision": error.revision,
        "new_group": group,
        "new_state": state,
        "now": now,
    }


_FAIL_AGAIN = (
    update(LETTERS)
    .where(LETTERS.c.id == bindparam("letter"))
    .values(
        {name: bindparam(f"new_{name}") for name in ("step", "type", "message", "attempts", "cause", "found")}
        | {"revision": bindparam("new_revision"), "group_id": bindparam("new_group")}
        | {"state": bindparam("new_state"), "changed_at": bindparam("now")}
    )
)
