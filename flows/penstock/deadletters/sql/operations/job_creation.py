"""Creates a redrive job in steps: a set of a million letters would hold the lock of a SQLite file for 20 seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct
from sqlalchemy import Connection, case, delete, func, insert, literal, or_, select, update

from penstock.deadletters.dead_letter_queue import Job, JobOptions, Requester
from penstock.deadletters.sql import dialect
from penstock.deadletters.sql.dialect import among, clock
from penstock.deadletters.sql.operations.audit import record
from penstock.deadletters.sql.operations.documents import options_json
from penstock.deadletters.sql.operations.jobs import ENDED, load, lock
from penstock.deadletters.sql.operations.leases import release_expired
from penstock.deadletters.sql.queries import conditions, group_conditions, names_groups, query_json, selection
from penstock.deadletters.sql.table import GROUPS, JOB_BATCHES, JOB_GROUPS, JOB_LETTERS, JOBS, LETTERS
from penstock.deadletters.store import DeadLetterQuery
from penstock.errors import JobConflict, JobEnded, NoLetters
from penstock.support.ids import new_id

STEP_LETTERS = 10_000
"""Letters that one transaction checks. It takes 0.1 s on SQLite."""

SPAN_COST = 100
"""Letters that take as long as the statements for one span."""

CREATOR = "creation"
"""The runner of a job whose letters are being collected: no other one can take it meanwhile."""

CREATION_LEASE = 60_000_000
"""Microseconds after a step until the job of a process that was killed may be taken."""

MESSAGE = "its letters are being collected"
"""The message of a job until then. It is paused; most jobs are complete with the first step."""


class Span(Struct, frozen=True):
    """Letters which an index yields in the order of their ids."""

    conditions: tuple[Any, ...]
    of_group: bool = False
    """Whether they are those of one group which the query names."""


class JobCreation:
    """The creation of one job. `step` is called in one transaction after the other until it returns the job.

    A job that is not complete is paused. After an error, `undo` is called until it returns True.
    """

    def __init__(self, query: DeadLetterQuery, options: JobOptions, requester: Requester) -> None:
        self._id = new_id()
        self._query = query
        self._options = options
        self._requester = requester
        self._spans: list[Span] | None = None
        """The spans that are not collected yet."""
        self._after = ""
        """The last letter of the first span that was checked."""
        self._canary_end = ""
        """The last letter of the canary batches."""
        self._last = ""
        """The last letter of the store when the creation began: later ones do not belong to the job."""

    def step(self, connection: Connection) -> Job | None:
        """Add some letters. Raises `NoLetters`, `JobConflict`, and `JobEnded` if the job was cancelled meanwhile."""
        if self._spans is None:
            spans = self._begin(connection)
        else:
            spans = self._spans
            if (state := lock(connection, self._id).state) in ENDED:
                raise JobEnded(self._id, state)
        left, after = STEP_LETTERS, self._after
        while spans and left > 0:
            checked, after = self._collect(connection, spans[0], after, left)
            left -= max(checked, SPAN_COST)
            if not after:
                spans = spans[1:]
        job = None if spans else self._complete(connection)
        if job is None:
            self._extend_lease(connection)
        self._spans, self._after = spans, after
        return job

    def undo(self, connection: Connection) -> bool:
        """Delete an incomplete job with some of its letters; returns whether it is gone. Others stay as they are."""
        row = connection.execute(select(JOBS.c.state).where(JOBS.c.id == self._id).with_for_update()).first()
        if row is None or row.state != "paused":
            return True
        some = select(JOB_LETTERS.c.letter_id).where(JOB_LETTERS.c.job == self._id).limit(STEP_LETTERS)
        ids = list(connection.execute(some).scalars())
        of_job = JOB_LETTERS.c.job == self._id
        connection.execute(delete(JOB_LETTERS).where(of_job, among(JOB_LETTERS.c.letter_id, ids)))
        if len(ids) == STEP_LETTERS:
            return False
        for column in (JOB_BATCHES.c.job, JOB_GROUPS.c.job, JOBS.c.id):
            connection.execute(delete(column.table).where(column == self._id))
        return True

    def _begin(self, connection: Connection) -> list[Span]:
        """Create the job with its canary batches; returns the spans in which the rest is."""
        release_expired(connection)
        now = clock(connection)
        values = {
            "id": self._id,
            "state": "paused",
            "message": MESSAGE,
            "options": options_json(self._options),
            "query": query_json(self._query),
            "requester": self._requester.name,
            "reason": self._requester.reason,
            "created_at": now,
            "runner": CREATOR,
            "leased_until": now + CREATION_LEASE,
        }
        connection.execute(insert(JOBS), values)
        self._last = connection.execute(select(func.max(LETTERS.c.id))).scalar_one() or ""
        if size := sum(self._options.canary):
            matching = select(LETTERS.c.id).where(*selection(connection, self._query, ["waiting"]))
            first = list(connection.execute(matching.order_by(LETTERS.c.id).limit(size)).scalars())
            self._canary_end = first[-1] if first else self._last
            waiting = among(LETTERS.c.id, first), LETTERS.c.state == "waiting"
            self._add(connection, self._canaries(first), waiting)
            counted = select(JOB_LETTERS.c.batch, func.count()).where(JOB_LETTERS.c.job == self._id)
            rows = connection.execute(counted.group_by(JOB_LETTERS.c.batch)).all()
            self._count(connection, {row[0]: row[1] for row in rows})
        return self._find_spans(connection)

    def _canaries(self, ids: Sequence[str]) -> Any:
        """Return the batch of each of the first letters."""
        batch: Any = literal(0)
        ends = [sum(self._options.canary[: number + 1]) for number in range(len(self._options.canary))]
        lasts = [(number, ids[end - 1]) for number, end in enumerate(ends) if end <= len(ids)]
        cases = [(LETTERS.c.id <= last, number) for number, last in lasts]
        if cases:
            batch = case(*cases, else_=len(cases))
        return batch

    def _find_spans(self, connection: Connection) -> list[Span]:
        query = self._query
        if query.state not in (None, "waiting"):
            return []
        if query.ids is not None:
            return [Span((among(LETTERS.c.id, query.ids),))]
        if query.run is not None:
            return [Span((LETTERS.c.run == query.run,))]
        waiting = LETTERS.c.state == "waiting"
        if not names_groups(query):
            return [Span((waiting,))]
        groups = select(GROUPS.c.id).where(*group_conditions(query), GROUPS.c.waiting > 0).order_by(GROUPS.c.id)
        ids = connection.execute(groups).scalars()
        return [Span((LETTERS.c.group_id == id, waiting), of_group=True) for id in ids]

    def _collect(self, connection: Connection, span: Span, after: str, count: int) -> tuple[int, str]:
        """Add those of the next letters of a span that match.

        Returns how many were checked, and the last one; "" at the end of the span.
        """
        start = max(after, self._canary_end)
        rest = select(LETTERS.c.id).where(*span.conditions, LETTERS.c.id > start, LETTERS.c.id <= self._last)
        following = rest.order_by(LETTERS.c.id).limit(count).subquery()
        checked, end = connection.execute(select(func.count(), func.max(following.c.id))).one()
        if checked:
            matching = [*span.conditions, LETTERS.c.id > start, LETTERS.c.id <= end, LETTERS.c.state == "waiting"]
            matching += conditions(self._query, rows_only=span.of_group)
            number = len(self._options.canary)
            added = self._add(connection, literal(number), matching)
            self._count(connection, {number: added})
        return checked, end if checked == count else ""

    def _add(self, connection: Connection, batch: Any, matching: Sequence[Any]) -> int:
        """Add letters to the job, and reserve their groups; returns how many."""
        self._reserve_groups(connection, matching)
        reserved = select(JOB_GROUPS.c.group_id).where(JOB_GROUPS.c.job == self._id)
        letters = select(literal(self._id), LETTERS.c.id, batch, literal("open")).where(
            *matching, or_(LETTERS.c.group_id.in_(reserved), LETTERS.c.group_id.is_(None))
        )
        columns = ["job", "letter_id", "batch", "state"]
        return connection.execute(insert(JOB_LETTERS).from_select(columns, letters)).rowcount

    def _reserve_groups(self, connection: Connection, matching: Sequence[Any]) -> None:
        distinct = select(LETTERS.c.group_id).where(*matching, LETTERS.c.group_id.is_not(None)).distinct()
        groups = sorted(connection.execute(distinct).scalars())
        if not groups:
            return
        statement = dialect.insert(connection, JOB_GROUPS).on_conflict_do_nothing()
        connection.execute(statement, [{"group_id": group, "job": self._id} for group in groups])
        others = select(JOB_GROUPS.c.job, JOB_GROUPS.c.group_id).where(
            among(JOB_GROUPS.c.group_id, groups), JOB_GROUPS.c.job != self._id
        )
        conflict = connection.execute(others.order_by(JOB_GROUPS.c.group_id).limit(1)).first()
        if conflict is not None:
            raise JobConflict(conflict.job, conflict.group_id)

    def _count(self, connection: Connection, totals: Mapping[int, int]) -> None:
        """Count letters in their batches."""
        rows = [
            {"job": self._id, "batch": number, "total": total, "resolved": 0, "failed": 0, "skipped": 0}
            for number, total in totals.items()
            if total
        ]
        if rows:
            statement = dialect.insert(connection, JOB_BATCHES)
            total = JOB_BATCHES.c.total + statement.excluded.total
            keys = [JOB_BATCHES.c.job, JOB_BATCHES.c.batch]
            connection.execute(statement.on_conflict_do_update(index_elements=keys, set_={"total": total}), rows)

    def _extend_lease(self, connection: Connection) -> None:
        """Keep other runners away until the next step."""
        until = clock(connection) + CREATION_LEASE
        connection.execute(update(JOBS).where(JOBS.c.id == self._id).values(runner=CREATOR, leased_until=until))

    def _complete(self, connection: Connection) -> Job:
        """Let the job run, unless its state was changed meanwhile."""
        count = load(connection, self._id).counts.total
        if not count:
            raise NoLetters
        state = case((JOBS.c.message == MESSAGE, "running"), else_=JOBS.c.state)
        values = {"state": state, "message": None, "runner": None, "leased_until": None}
        connection.execute(update(JOBS).where(JOBS.c.id == self._id).values(values))
        query = query_json(self._query)
        record(connection, "redrive", self._requester, query, job=self._id, count=count, outcome="created")
        return load(connection, self._id)
