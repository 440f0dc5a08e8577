"""A dead-letter store in memory, for tests and for flows whose failures need not outlive the process."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Literal

from msgspec.structs import replace

from penstock.deadletters.dead_letter import DeadLetter
from penstock.deadletters.dead_letter_queue import (
    LEASE_SECONDS,
    AuditRecord,
    Edit,
    Group,
    History,
    Job,
    JobOptions,
    JobState,
    Requester,
    Settled,
    Settlement,
)
from penstock.deadletters.memory_jobs import MemoryJobs, oldest
from penstock.deadletters.memory_state import CLAIMED, PARKED, RESOLVED, WAITING, MemoryLetters
from penstock.deadletters.store import (
    PAGE,
    DeadLetterQuery,
    GroupField,
    Page,
    PageBuilder,
    Problem,
    StoreStatistics,
    check_state,
)
from penstock.errors import StoreError
from penstock.support.ids import now

CAPACITY = 100_000
"""The default maximum number of letters."""


class MemoryStore:
    """Keeps a bounded number of letters in memory. When it is full, `add` raises `StoreError`.

    It is a `DeadLetterQueue`. Its leases follow the clock of the event loop. Of the audit it keeps the last 100,000
    records, and of the jobs that ended the last 1,000.
    """

    editable = True

    def __init__(self, capacity: int = CAPACITY) -> None:
        self.url = "memory:"
        self.timeout = 1.0
        self._commits = 0
        self._capacity = capacity
        self._letters = MemoryLetters()
        self._jobs = MemoryJobs(self._letters)
        self._problem: Problem | None = None

    async def open(self) -> None:
        """Do nothing."""

    async def add(self, letters: Sequence[DeadLetter]) -> None:
        """Store letters, all or none. A letter whose id is already stored is skipped."""
        self._add(letters)

    def _add(self, letters: Sequence[DeadLetter]) -> int:
        """Store letters; returns how many were new."""
        known = self._letters.by_id
        fresh = {letter.id: letter for letter in letters if letter.id not in known}
        if len(known) + len(fresh) > self._capacity:
            error = StoreError(
                f"dead letters in memory: the limit of {self._capacity} letters is reached; keep them in a database "
                "instead: --dead-letters sqlite:///penstock.db"
            )
            error.permanent = True
            self._problem = Problem(error, time.monotonic())
            raise error
        self._problem = None
        self._commits += 1
        return self._letters.add(fresh.values())

    async def get(self, id: str) -> DeadLetter | None:
        """Return the letter with this id, or None."""
        return self._letters.by_id.get(id)

    async def page(self, query: DeadLetterQuery, *, after: str | None = None, limit: int = PAGE) -> Page:
        """Return letters in the order of their ids, starting after an id."""
        page = PageBuilder(limit)
        for letter in self._letters.matching(query, after):
            if not page.add(letter):
                return page.page(more=True)
        return page.page(more=False)

    async def count(self, query: DeadLetterQuery, *, by: Sequence[GroupField] = ()) -> Mapping[tuple[str, ...], int]:
        """Count letters by the values of some fields. Without fields, the total is under the key `()`."""
        counts = Counter(tuple(str(getattr(letter, name)) for name in by) for letter in self._letters.matching(query))
        return dict(counts) if by else {(): counts[()]}

    async def update(self, ids: Sequence[str], *, state: str) -> int:
        """Set the state of letters that are not claimed; returns how many. Raises `ValueError` for an unknown state."""
        check_state(state)
        letters = self._letters.by_id
        known = {id for id in ids if id in letters and letters[id].state != CLAIMED}
        for id in known:
            self._letters.set_state(id, state)
        return len(known)

    async def delete(self, query: DeadLetterQuery) -> int:
        """Delete letters that are not claimed; returns how many."""
        return self._remove([letter.id for letter in self._letters.matching(query) if letter.state != CLAIMED])

    async def groups(self, query: DeadLetterQuery, *, after: str | None = None, limit: int = PAGE) -> list[Group]:
        """Return groups, the ones with the most recent letters first."""
        shown = DeadLetterQuery(flow=query.flow, step=query.step, type=query.type, group=query.group)
        groups = self._letters.groups(shown)
        if query.state is not None:
            groups = [group for group in groups if group.counts.get(query.state)]
        start = 1 + next((place for place, group in enumerate(groups) if group.id == after), -1)
        return groups[start : start + limit]

    async def history(self, id: str) -> History:
        """Return what was done to a letter; empty if there is no such letter."""
        history = self._letters.histories.get(id)
        return History() if history is None else History(tuple(history.attempts), tuple(history.edits))

    async def edit(
        self,
        changes: Mapping[str, bytes],
        requester: Requester,
        *,
        query: Mapping[str, Any] | None = None,
        expected: Mapping[str, bytes] | None = None,
    ) -> list[str]:
        """Replace the inputs of waiting or parked letters that are as `expected`; returns the ids of those changed."""
        edited: list[str] = []
        for id, changed in changes.items():
            letter = self._letters.by_id.get(id)
            if letter is None or letter.state not in (WAITING, PARKED):
                continue
            if expected is not None and letter.input != expected.get(id):
                continue
            before = Edit(
                at=now(),
                requester=requester.name,
                reason=requester.reason,
                input=letter.input,
                header=letter.header,
            )
            self._letters.history(id).edits.append(before)
            self._letters.by_id[id] = replace(letter, input=changed, input_size=len(changed), header=None)
            edited.append(id)
        self._letters.record("edit", requester, {"ids": list(changes)} if query is None else query, len(edited))
        return edited

    async def mark(self, query: DeadLetterQuery, state: Literal["waiting", "parked"], requester: Requester) -> int:
        """Park waiting letters, or make parked letters wait; returns how many."""
        before = PARKED if state == WAITING else WAITING
        marked = [letter.id for letter in self._letters.matching(query) if letter.state == before]
        for id in marked:
            self._letters.set_state(id, state)
        self._letters.record("park" if state == PARKED else "unpark", requester, query, len(marked))
        return len(marked)

    async def purge(self, query: DeadLetterQuery, requester: Requester) -> int:
        """Delete letters that are not claimed, with their histories; returns how many."""
        self._jobs.release_expired()
        doomed = [letter.id for letter in self._letters.matching(query) if letter.state != CLAIMED]
        uncopied = sum(self._is_needed(id) for id in doomed)
        outcome = f"done, {uncopied} before they were copied" if uncopied else "done"
        self._letters.record("purge", requester, query, len(doomed), outcome=outcome)
        return self._remove(doomed)

    async def expire(self, keep: Mapping[str, float], *, max: int | None = None, flow: str | None = None) -> int:
        """Delete letters whose age in their state exceeds `keep` (seconds by state), and the oldest above `max`."""
        self._jobs.release_expired()
        letters = list(self._letters.matching(DeadLetterQuery(flow=flow)))
        time = now()
        doomed = {
            letter.id
            for letter in letters
            if letter.state != CLAIMED
            and not self._is_needed(letter.id)
            and letter.state in keep
            and time - self._letters.since(letter) > timedelta(seconds=keep[letter.state])
        }
        left = [letter for letter in letters if letter.id not in doomed]
        if max is not None and len(left) > max:
            unneeded = [letter for letter in left if not self._is_needed(letter.id)]
            states = (RESOLVED, PARKED, WAITING)
            by_state = (letter.id for state in states for letter in unneeded if letter.state == state)
            doomed.update(islice(by_state, len(left) - max))
        if doomed:
            self._letters.record("expire", Requester("retention"), DeadLetterQuery(flow=flow), len(doomed))
        return self._remove(doomed)

    async def import_letters(self, letters: Sequence[DeadLetter], requester: Requester) -> int:
        """Store letters; returns how many were new. A claimed letter waits: its job belongs to another store."""
        added = self._add([replace(letter, state=WAITING) if letter.state == CLAIMED else letter for letter in letters])
        self._letters.record("import", requester, {}, added)
        return added

    async def create_job(self, query: DeadLetterQuery, options: JobOptions, requester: Requester) -> Job:
        """Create a running job for the waiting letters that match now."""
        return self._jobs.create(query, options, requester)

    async def jobs(self, *, state: JobState | None = None, after: str | None = None, limit: int = PAGE) -> list[Job]:
        """Return jobs, newest first, starting after an id."""
        return self._jobs.page(state, after, limit)

    async def job(self, id: str) -> Job | None:
        """Return the job with this id, or None."""
        return self._jobs.get(id)

    async def change_job(
        self,
        id: str,
        requester: Requester | None,
        *,
        state: JobState | None = None,
        rate: float | Literal["keep"] | None = "keep",
        message: str | None = None,
    ) -> Job:
        """Change the state or the rate of a job."""
        return self._jobs.change(id, requester, state, rate, message)

    async def acquire_job(self, id: str, runner: str, lease: float = LEASE_SECONDS) -> Job | None:
        """Take or extend the lease on a running or paused job, and those on its letters that this runner claimed."""
        return self._jobs.acquire(id, runner, lease)

    async def claim(
        self, id: str, runner: str, batch: int, count: int, lease: float = LEASE_SECONDS
    ) -> list[DeadLetter]:
        """Claim up to `count` letters of one batch of a job; record and count an attempt for each."""
        return self._jobs.claim(id, runner, batch, count, lease)

    async def settle(self, id: str, runner: str, settlements: Sequence[Settlement]) -> Settled:
        """Record the outcomes of claimed letters."""
        return self._jobs.settle(id, runner, settlements)

    async def release_expired(self) -> int:
        """Let letters of paused and ended jobs wait again when their lease has expired; returns how many there were."""
        return self._jobs.release_expired()

    async def audit(self, *, job: str | None = None, after: int | None = None, limit: int = PAGE) -> list[AuditRecord]:
        """Return audit records, newest first, starting after a number."""
        records = (
            record
            for record in reversed(self._letters.audit)
            if (job is None or record.job == job) and (after is None or record.number < after)
        )
        return list(islice(records, limit))

    async def oldest_waiting(self) -> Mapping[str, datetime]:
        """Return when the oldest waiting letter of each flow failed."""
        return oldest(self._letters)

    def statistics(self) -> StoreStatistics:
        """Return the counters."""
        counts = Counter(letter.state for letter in self._letters.by_id.values())
        return StoreStatistics(counts, commits=self._commits)

    def problem(self) -> Problem | None:
        """Return that the store is full, if letters were rejected."""
        return self._problem

    async def aclose(self) -> None:
        """Do nothing: the letters stay."""

    def _is_needed(self, id: str) -> bool:  # noqa: ARG002 - a subclass needs it
        """Return whether a copy does not have a letter yet. This store has no copies."""
        return False

    def _remove(self, ids: Sequence[str] | set[str]) -> int:
        removed = self._letters.remove(ids)
        if removed:
            self._problem = None
        return removed
