"""The redrive jobs of a store in memory: their letters, leases and counts."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import partial
from itertools import islice
from typing import Literal

from msgspec import Struct, field
from msgspec.structs import replace

from penstock.deadletters.dead_letter import DeadLetter
from penstock.deadletters.dead_letter_queue import (
    Attempt,
    AuditAction,
    BatchCounts,
    FailedAgain,
    Job,
    JobOptions,
    JobState,
    Requester,
    Settled,
    Settlement,
)
from penstock.deadletters.groups import fingerprint
from penstock.deadletters.memory_state import (
    CLAIMED,
    PARKED,
    RESOLVED,
    WAITING,
    MemoryLetters,
    as_query_document,
)
from penstock.deadletters.store import PAGE_BYTES, DeadLetterQuery
from penstock.errors import JobConflict, JobEnded, JobNotFound, NoLetters
from penstock.support.ids import new_id, now

ENDED_JOBS = 1000
"""Maximum ended jobs in memory. The oldest are discarded."""

ENDED = ("completed", "cancelled")


class Claim(Struct, gc=False):
    """The right to work on one letter until a time of the event loop."""

    runner: str
    batch: int
    expires: float


class MemoryJob(Struct):
    """One job: its letters that were not claimed yet, by batch, and its claims."""

    job: Job
    groups: set[str]
    open: list[deque[str]]
    claims: dict[str, Claim] = field(default_factory=dict[str, Claim])
    expires: float = 0.0
    """When the lease of `job.runner` ends."""

    def count(self, batch: int, outcome: Literal["resolved", "failed", "skipped"]) -> None:
        """Count the outcome of one letter."""
        batches = list(self.job.batches)
        batches[batch] = replace(batches[batch], **{outcome: getattr(batches[batch], outcome) + 1})
        self.job = replace(self.job, batches=tuple(batches))

    def view(self, time: float) -> Job:
        """Return the job as it is at a time of the event loop."""
        return self.job if self.expires > time else replace(self.job, runner=None)


class MemoryJobs:
    """All jobs. The times of leases are those of the event loop."""

    def __init__(self, letters: MemoryLetters) -> None:
        self._letters = letters
        self._jobs: dict[str, MemoryJob] = {}

    def create(self, query: DeadLetterQuery, options: JobOptions, requester: Requester) -> Job:
        """Create a job for the waiting letters that match."""
        self.release_expired()
        waiting = [letter for letter in self._letters.matching(query) if letter.state == WAITING]
        if not waiting:
            raise NoLetters
        groups = {letter.group or "" for letter in waiting}
        for other in self._jobs.values():
            if other.job.state not in ENDED and (common := other.groups & groups):
                raise JobConflict(other.job.id, min(common))
        ids = iter([letter.id for letter in waiting])
        batches = [deque(islice(ids, size)) for size in options.canary]
        batches.append(deque(ids))
        batches = [batch for batch in batches if batch]
        job = Job(
            id=new_id(),
            state="running",
            options=options,
            query=as_query_document(query),
            requester=requester.name,
            reason=requester.reason,
            created_at=now(),
            batches=tuple(BatchCounts(total=len(batch)) for batch in batches),
        )
        self._jobs[job.id] = MemoryJob(job, groups, batches)
        self._letters.record("redrive", requester, query, len(waiting), job=job.id, outcome="created")
        self._forget_old()
        return job

    def page(self, state: JobState | None, after: str | None, limit: int) -> list[Job]:
        """Return jobs, newest first, starting after an id."""
        found = (self.get(id) for id in sorted(self._jobs, reverse=True) if after is None or id < after)
        return list(islice((job for job in found if job and state in (None, job.state)), limit))

    def get(self, id: str) -> Job | None:
        """Return the job with this id, or None."""
        job = self._jobs.get(id)
        return None if job is None else job.view(_time())

    def change(
        self,
        id: str,
        requester: Requester | None,
        state: JobState | None,
        rate: float | Literal["keep"] | None,
        message: str | None,
    ) -> Job:
        """Change the state, the rate or the message of a job."""
        held = self._held(id)
        if (before := held.job.state) in ENDED:
            raise JobEnded(id, before)
        if rate != "keep":
            held.job = replace(held.job, options=replace(held.job.options, rate=rate))
        if state is not None:
            held.job = replace(held.job, state=state, message=message, ended_at=now() if state in ENDED else None)
        elif message is not None and before == "running":
            held.job = replace(held.job, message=message or None)
        if state in ENDED:
            held.open.clear()
            held.expires = 0.0
            self.release_expired()
        changed = state if state != before else None
        self._record_change(held.job, requester, rate_changed=rate != "keep", state=changed)
        return held.view(_time())

    def acquire(self, id: str, runner: str, lease: float) -> Job | None:
        """Take or extend the lease on a job, and extend the claims of this runner. A lease of 0 gives up the job."""
        held, time = self._jobs.get(id), _time()
        if held is None:
            return None
        for claim in held.claims.values():
            if claim.runner == runner:
                claim.expires = max(claim.expires, time + lease)
        is_free = held.expires <= time or held.job.runner == runner
        is_given_up = lease == 0 and held.job.runner == runner
        if not is_given_up and (held.job.state not in ("running", "paused") or not is_free):
            return None
        held.job, held.expires = replace(held.job, runner=runner), time + lease
        return held.view(time)

    def claim(self, id: str, runner: str, batch: int, count: int, lease: float) -> list[DeadLetter]:
        """Claim letters of one batch: those that wait, and those whose lease has expired."""
        held = self._held(id)
        is_free = held.job.runner in (None, runner) or held.expires <= _time()
        if held.job.state != "running" or not is_free or batch >= len(held.open):
            return []
        claimed: list[DeadLetter] = []
        size = 0
        candidates = self._candidates(held, batch)
        while len(claimed) < count and size <= 2 * PAGE_BYTES and (letter_id := next(candidates, None)) is not None:
            held.claims[letter_id] = Claim(runner, batch, _time() + lease)
            letter = self._letters.by_id[letter_id]
            attempts = self._letters.history(letter_id).attempts
            attempts.append(Attempt(number=len(attempts) + 1, job=id, requester=held.job.requester, started_at=now()))
            size += letter.input_size + len(letter.input)
            claimed.append(self._letters.set_state(letter_id, CLAIMED, redrives=letter.redrives + 1))
        return claimed

    def settle(self, id: str, runner: str, settlements: Sequence[Settlement]) -> Settled:
        """Record the outcomes of claimed letters."""
        held = self._held(id)
        recorded: set[str] = set()
        for settlement in settlements:
            claim = held.claims.get(settlement.id)
            if claim is None or claim.runner != runner or settlement.id not in self._letters.by_id:
                continue
            del held.claims[settlement.id]
            self._settle(held, claim, settlement)
            recorded.add(settlement.id)
        return Settled(held.view(_time()), frozenset(recorded))

    def release_expired(self) -> int:
        """Let letters of paused and ended jobs wait again when their lease has expired: their runner was killed."""
        return sum([self._reopen_expired(held) for held in self._jobs.values() if held.job.state != "running"])

    def _reopen_expired(self, held: MemoryJob) -> int:
        """Make letters whose lease has expired open again, or park those that reached the limit; returns how many."""
        expired = [id for id, claim in held.claims.items() if claim.expires <= _time()]
        for id in expired:
            batch = held.claims.pop(id).batch
            letter = self._letters.by_id.get(id)
            if letter is None:
                held.count(batch, "skipped")
            elif letter.redrives >= held.job.options.limit:
                held.count(batch, "failed")
                self._letters.set_state(id, PARKED)
            else:
                self._letters.set_state(id, WAITING)
                if held.job.state not in ENDED:
                    held.open[batch].appendleft(id)
        return len(expired)

    def _candidates(self, held: MemoryJob, batch: int) -> Iterator[str]:
        """Return letters that can be claimed now. Count those that cannot any more as skipped."""
        self._reopen_expired(held)
        waiting = held.open[batch]
        while waiting:
            id = waiting.popleft()
            letter = self._letters.by_id.get(id)
            if letter is None or letter.state != WAITING:
                held.count(batch, "skipped")
            else:
                yield id

    def _record_change(
        self, job: Job, requester: Requester | None, *, rate_changed: bool, state: JobState | None
    ) -> None:
        record = partial(self._letters.record, query=job.query, count=job.counts.total, job=job.id)
        if requester is None:
            if state in ("stopped", "completed"):  # the end of the redrive that its requester began
                outcome = f"{state}: {job.counts.resolved} resolved, {job.counts.failed} failed"
                record("redrive", Requester(job.requester, job.reason), outcome=outcome)
            return
        if rate_changed:
            record("rate", requester, outcome="no limit" if job.options.rate is None else f"{job.options.rate:g}/s")
        if state is not None and (action := _ACTIONS.get(state)) is not None:
            record(action, requester)

    def _settle(self, held: MemoryJob, claim: Claim, settlement: Settlement) -> None:
        letter, error = self._letters.by_id[settlement.id], settlement.error
        attempts = self._letters.history(letter.id).attempts
        text = None if error is None else f"{error.type}: {error.message}"
        attempts[-1] = replace(attempts[-1], ended_at=now(), outcome=settlement.outcome, error=text)
        if settlement.outcome == "resolved":
            held.count(claim.batch, "resolved")
            self._letters.set_state(letter.id, RESOLVED)
        elif settlement.outcome == "failed":
            held.count(claim.batch, "failed")
            state = PARKED if letter.redrives >= held.job.options.limit else WAITING
            fields = replaced_fields(letter, error)
            if error is not None:
                fields["group"] = self._letters.group_of(letter.flow, error.step, error.type, error.message)
            self._letters.set_state(letter.id, state, **fields)
        else:
            self._letters.set_state(letter.id, WAITING, redrives=letter.redrives - 1)
            if held.job.state not in ENDED:
                held.open[claim.batch].append(letter.id)

    def _held(self, id: str) -> MemoryJob:
        if (held := self._jobs.get(id)) is None:
            raise JobNotFound(id)
        return held

    def _forget_old(self) -> None:
        ended = [id for id, held in self._jobs.items() if held.job.state in ENDED and not held.claims]
        for id in ended[: max(0, len(ended) - ENDED_JOBS)]:
            del self._jobs[id]


_ACTIONS: dict[JobState, AuditAction] = {"running": "resume", "paused": "pause", "cancelled": "cancel"}
"""The audited action that leads to a state."""


def replaced_fields(letter: DeadLetter, error: FailedAgain | None) -> dict[str, object]:
    """Return the fields of a letter that a new error replaces."""
    if error is None:
        return {}
    return {
        "step": error.step,
        "type": error.type,
        "message": error.message,
        "attempts": error.attempts,
        "cause": error.cause,
        "partial_results": error.partial_results,
        "revision": letter.revision if error.revision is None else error.revision,
        "group": fingerprint(letter.flow, error.step, error.type, error.message),
    }


def _time() -> float:
    return asyncio.get_running_loop().time()


def oldest(letters: MemoryLetters) -> dict[str, datetime]:
    """Return when the oldest waiting letter of each flow failed."""
    times: dict[str, datetime] = {}
    for letter in letters.by_id.values():
        if letter.state == WAITING:
            times[letter.flow] = min(times.get(letter.flow, letter.failed_at), letter.failed_at)
    return times
