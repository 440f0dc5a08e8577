"""Settles the claimed letters of a job: resolved, failed again, or cancelled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, func, select, update

from penstock.deadletters.dead_letter_queue import FailedAgain, Settled, Settlement
from penstock.deadletters.groups import pattern_in
from penstock.deadletters.sql.dialect import among_texts, texts
from penstock.deadletters.sql.grouping import GroupChange
from penstock.deadletters.sql.operations import group_limit
from penstock.deadletters.sql.operations.counts import Moves
from penstock.deadletters.sql.operations.documents import options_of
from penstock.deadletters.sql.operations.jobs import hold, load
from penstock.deadletters.sql.operations.leases import close_letters, count_outcomes
from penstock.deadletters.sql.table import ATTEMPTS, IS_CLAIMED, JOB_LETTERS, LETTERS
from penstock.support.json_encoding import encode_json
from penstock.support.text import sanitize


def settle(connection: Connection, id: str, runner: str, settlements: Sequence[Settlement]) -> Settled:
    """Record the outcomes of claimed letters. Those whose lease was lost to another runner are ignored."""
    job, now = hold(connection, id)
    outcomes = {settlement.id: settlement for settlement in settlements}
    rows = connection.execute(_CLAIMED, {"p_job": id, "p_runner": runner, "p_ids": texts(outcomes)}).all()
    if rows:
        _Settling(connection, job, now).settle([(row, outcomes[row.letter_id]) for row in rows])
    return Settled(load(connection, id), frozenset(row.letter_id for row in rows))


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
        """Record the end of the last attempt of each letter. Letters without an error take one statement."""
        same = {"p_now": self._now, "p_outcome": outcome}
        failed = [(row.letter_id, settlement.error) for row, settlement in pairs if settlement.error is not None]
        if failed:
            rows = [same | {"p_letter": id, "p_error": describe(error)} for id, error in failed]
            self._connection.execute(_END_ATTEMPT, rows)
        if others := [row.letter_id for row, settlement in pairs if settlement.error is None]:
            self._connection.execute(_END_ATTEMPTS, same | {"p_ids": texts(others), "p_error": None})

    def _resolved(self, pairs: list[tuple[Any, Settlement]]) -> None:
        self._set_state(pairs, "resolved")
        self._close(pairs, "resolved")
        self._moves.move([row.group_id for row, _ in pairs], "claimed", "resolved")

    def _cancelled(self, pairs: list[tuple[Any, Settlement]]) -> None:
        self._set_state(pairs, "waiting", uncounted=1)
        close_letters(self._connection, self._job.id, [row.letter_id for row, _ in pairs], "open")
        self._moves.move([row.group_id for row, _ in pairs], "claimed", "waiting")

    def _failed(self, pairs: list[tuple[Any, Settlement]]) -> None:
        changes: list[dict[str, Any]] = []
        errors = [None if settlement.error is None else _stored(settlement.error) for _, settlement in pairs]
        groups = self._groups([(row.flow, error) for (row, _), error in zip(pairs, errors, strict=True) if error])
        for (row, settlement), error in zip(pairs, errors, strict=True):
            state = "parked" if row.redrives >= self._limit else "waiting"
            group = row.group_id
            if error is None:
                self._set_state([(row, settlement)], state)
            else:
                group = next(groups)
                changes.append(_error_values(row.letter_id, error, group, state, self._now))
            if group == row.group_id:
                self._moves.move([group], "claimed", state)
            elif error is not None:
                self._moves.move([row.group_id], "claimed", None)
                self._join(group, row.flow, error, state)
        if changes:
            self._connection.execute(_FAIL_AGAIN, changes)
        self._close(pairs, "failed")

    def _groups(self, failures: list[tuple[str, FailedAgain]]) -> Iterator[str]:
        """Return the group of each failure."""
        if not failures:
            return iter(())
        flows = [flow for flow, _ in failures]
        fields = ([getattr(error, name) for _, error in failures] for name in ("step", "type", "message"))
        return iter(group_limit.assign(self._connection, flows, *fields))

    def _join(self, group: str, flow: str, error: FailedAgain, state: str) -> None:
        pattern = pattern_in(group, flow, error.step, error.type, error.message)
        times = (self._now, self._now, error.revision)
        change = GroupChange(group, flow, error.step, error.type, pattern, *times, {state: 1})
        if (known := self._changes.setdefault(group, change)) is not change:
            known.add(change)

    def _set_state(self, pairs: list[tuple[Any, Settlement]], state: str, *, uncounted: int = 0) -> None:
        ids = texts(row.letter_id for row, _ in pairs)
        parameters = {"p_ids": ids, "p_state": state, "p_now": self._now, "p_uncounted": uncounted}
        self._connection.execute(_SET_STATE, parameters)

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


_NEW_VALUES: dict[str, Any] = {
    **{name: bindparam(f"new_{name}") for name in ("step", "type", "message", "attempts", "cause", "found")},
    "revision": bindparam("new_revision"),
    "group_id": bindparam("new_group"),
    "state": bindparam("new_state"),
    "changed_at": bindparam("now"),
}

_FAIL_AGAIN = update(LETTERS).where(LETTERS.c.id == bindparam("letter")).values(_NEW_VALUES)


_CLAIMED = (
    select(JOB_LETTERS.c.letter_id, JOB_LETTERS.c.batch, LETTERS.c.group_id, LETTERS.c.flow, LETTERS.c.redrives)
    .join(LETTERS, LETTERS.c.id == JOB_LETTERS.c.letter_id)
    .where(JOB_LETTERS.c.job == bindparam("p_job"), among_texts(JOB_LETTERS.c.letter_id, "p_ids"))
    .where(IS_CLAIMED, JOB_LETTERS.c.runner == bindparam("p_runner"), LETTERS.c.state == "claimed")
    .with_for_update()
)

_SET_STATE = (
    update(LETTERS)
    .where(among_texts(LETTERS.c.id, "p_ids"))
    .values(
        state=bindparam("p_state"),
        changed_at=bindparam("p_now"),
        redrives=LETTERS.c.redrives - bindparam("p_uncounted"),
    )
)

_others = ATTEMPTS.alias()

_last_attempt = (
    update(ATTEMPTS)
    .where(
        ATTEMPTS.c.number
        == select(func.max(_others.c.number)).where(_others.c.letter_id == ATTEMPTS.c.letter_id).scalar_subquery()
    )
    .values(ended_at=bindparam("p_now"), outcome=bindparam("p_outcome"), error=bindparam("p_error"))
)
_END_ATTEMPT = _last_attempt.where(ATTEMPTS.c.letter_id == bindparam("p_letter"))
_END_ATTEMPTS = _last_attempt.where(among_texts(ATTEMPTS.c.letter_id, "p_ids"))
