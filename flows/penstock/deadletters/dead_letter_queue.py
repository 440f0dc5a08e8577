"""The protocol of stores whose letters can be worked with: grouped, edited, marked, claimed and redriven.

Databases and the store in memory implement it. Logs (`LogStore`) do not: their records cannot be changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, Protocol

from msgspec import Struct

from penstock.deadletters.dead_letter import DeadLetter
from penstock.deadletters.store import PAGE, DeadLetterQuery, DeadLetterStore

REDRIVE_LIMIT = 5
"""The default number of redrives after which a letter is parked."""

LEASE_SECONDS = 30.0
"""The minimum duration of a lease on a letter or a job."""

JobState = Literal["running", "paused", "stopped", "completed", "cancelled"]
"""`stopped`: more letters of a batch failed again than the job allows. A paused or stopped job can be resumed."""

AttemptOutcome = Literal["resolved", "failed", "cancelled", "unknown"]
"""How a redrive of one letter ended. `unknown`: it has not ended, or its process was killed."""

AuditAction = Literal[
    "redrive", "pause", "resume", "cancel", "rate", "park", "unpark", "edit", "purge", "import", "expire"
]
"""What was done to letters or to a job. `expire`: letters were deleted because of `keep`."""


class Requester(Struct, frozen=True):
    """Who does something to letters, and why."""

    name: str
    """The name of a token, or the user of the operating system."""
    reason: str = ""


class Group(Struct, frozen=True, kw_only=True):
    """Letters with the same flow, step, error type and message pattern."""

    id: str
    """The fingerprint: its version, a dash, and a hash, such as `1-5f0c6f6d1a2b`."""
    flow: str
    step: str
    type: str
    pattern: str
    """The message, with numbers, ids and quoted text removed."""
    counts: Mapping[str, int]
    """Letters by state, without states that have none."""
    first_seen: datetime
    last_seen: datetime
    """When the first and the last letter failed."""
    first_revision: int | None = None
    """The revision of the flow at the first letter."""
    sample: str
    """The id of one letter."""


class Attempt(Struct, frozen=True, kw_only=True):
    """One redrive of one letter. It is recorded before the work starts, so that a crash counts."""

    number: int
    """From 1."""
    job: str
    requester: str
    started_at: datetime
    ended_at: datetime | None = None
    outcome: AttemptOutcome = "unknown"
    error: str | None = None
    """The error type and message, if it failed."""


class Edit(Struct, frozen=True, kw_only=True):
    """One change of the input of a letter."""

    at: datetime
    requester: str
    reason: str
    input: bytes
    """The input before the change. The first edit of a letter has its original."""
    header: str | None = None
    """The CSV header before the change."""


class History(Struct, frozen=True):
    """What was done to one letter, oldest first."""

    attempts: Sequence[Attempt] = ()
    edits: Sequence[Edit] = ()


class JobOptions(Struct, frozen=True, kw_only=True):
    """How a redrive job runs."""

    flow: str | None = None
    """The flow to run the letters through; None: each letter's own."""
    canary: tuple[int, ...] = ()
    """The sizes of the first batches. One more batch has the rest of the letters."""
    stop_at: float | None = None
    """The job stops when more than this fraction of a batch fails again; None: it never stops by itself."""
    rate: float | None = None
    """Maximum letters per second; None: as fast as the services allow."""
    limit: int = REDRIVE_LIMIT
    """A letter that has failed in this many redrives is parked."""
    from_start: bool = False
    """Call all services again, also those whose results are kept with the letter."""


class BatchCounts(Struct, frozen=True, kw_only=True):
    """Letters of one batch of a job, by outcome."""

    total: int = 0
    resolved: int = 0
    failed: int = 0
    """Failed again, including those that were parked then."""
    skipped: int = 0
    """Were deleted, parked or resolved by others before they could be claimed."""

    @property
    def open(self) -> int:
        """Letters without an outcome."""
        return self.total - self.resolved - self.failed - self.skipped


class Job(Struct, frozen=True, kw_only=True):
    """A redrive of a fixed set of letters."""

    id: str
    """A UUID of version 7."""
    state: JobState
    options: JobOptions
    query: Mapping[str, Any]
    """The query that selected the letters, as a JSON document."""
    requester: str
    reason: str
    created_at: datetime
    ended_at: datetime | None = None
    batches: Sequence[BatchCounts] = ()
    """One for each canary batch and one for the rest."""
    message: str | None = None
    """Why the job stopped, or which service it waits for."""
    runner: str | None = None
    """The process that works on it, while its lease lasts."""

    @property
    def counts(self) -> BatchCounts:
        """Return the counts of all batches."""
        return BatchCounts(
            total=sum(each.total for each in self.batches),
            resolved=sum(each.resolved for each in self.batches),
            failed=sum(each.failed for each in self.batches),
            skipped=sum(each.skipped for each in self.batches),
        )


class FailedAgain(Struct, frozen=True, kw_only=True):
    """Why a letter failed again: the fields that replace those of the letter."""

    step: str
    type: str
    message: str
    attempts: int = 1
    cause: str | None = None
    partial_results: dict[str, Any] | None = None
    revision: int | None = None


class Settlement(Struct, frozen=True):
    """The outcome of one claimed letter.

    `error` is None for a letter that is resolved or whose redrive was cancelled. A cancelled one waits again, and the
    attempt does not count towards the limit.
    """

    id: str
    outcome: Literal["resolved", "failed", "cancelled"]
    error: FailedAgain | None = None


class Settled(Struct, frozen=True):
    """What a call of `settle` recorded."""

    job: Job
    ids: frozenset[str]
    """The letters whose outcomes were recorded."""


class AuditRecord(Struct, frozen=True, kw_only=True):
    """One action, as it is kept for ever."""

    number: int
    """Numbers grow, and are never used twice."""
    at: datetime
    requester: str
    action: AuditAction
    reason: str
    query: Mapping[str, Any]
    """The letters that were selected, as a JSON document."""
    job: str | None = None
    count: int = 0
    """The number of letters concerned."""
    outcome: str = "done"


class DeadLetterQueue(DeadLetterStore, Protocol):
    """A store whose letters can be worked with. Several processes may use one queue at the same time.

    Every method is one transaction, except where its docstring says otherwise, and may raise `StoreError`. Methods with
    a `requester` write an audit record in the same transaction.
    """

    async def groups(self, query: DeadLetterQuery, *, after: str | None = None, limit: int = PAGE) -> list[Group]:
        """Return groups, the ones with the most recent letters first. Uses `flow`, `step`, `type` and `group`.

        With `state`, only groups that have letters in that state are returned; a group without letters never is.
        `after` is the id of the last group of the previous page.
        """
        ...

    async def history(self, id: str) -> History:
        """Return what was done to a letter; empty if there is no such letter."""
        ...

    async def edit(
        self,
        changes: Mapping[str, bytes],
        requester: Requester,
        *,
        query: Mapping[str, Any] | None = None,
        expected: Mapping[str, bytes] | None = None,
    ) -> list[str]:
        """Replace the inputs of waiting or parked letters, by id; returns the ids of those that were changed.

        The old inputs stay in the history. The header of an edited letter is removed: the new input is JSON. `query` is
        what selected the letters, for the audit; by default the ids. `expected` has the inputs that were read: a letter
        whose input is another one now is not changed.
        """
        ...

    async def mark(self, query: DeadLetterQuery, state: Literal["waiting", "parked"], requester: Requester) -> int:
        """Park waiting letters, or make parked letters wait, in several transactions; returns how many.

        Letters in other states stay.
        """
        ...

    async def purge(self, query: DeadLetterQuery, requester: Requester) -> int:
        """Delete letters that are not claimed, with their histories, in several transactions; returns how many.

        The audit says how many of them a copy of the store did not have yet.
        """
        ...

    async def expire(self, keep: Mapping[str, float], *, max: int | None = None, flow: str | None = None) -> int:
        """Delete letters whose age in their state exceeds `keep` (seconds by state), and the oldest above `max`.

        Resolved letters are deleted first, then parked, then waiting ones. Claimed ones stay, and those that a copy of
        the store does not have yet. Returns how many. Works in several transactions, and writes an audit record if
        letters were deleted.
        """
        ...

    async def import_letters(self, letters: Sequence[DeadLetter], requester: Requester) -> int:
        """Store letters; returns how many were new. A letter whose id is already stored is skipped."""
        ...

    async def create_job(self, query: DeadLetterQuery, options: JobOptions, requester: Requester) -> Job:
        """Create a running job for the waiting letters that match now. Later letters do not belong to it.

        Works in several transactions if there are many letters. The job is paused until the last one; if the process is
        killed before, it stays so, and can be cancelled.

        Raises `NoLetters` if none match, and `JobConflict` if a running, paused or stopped job has letters of one of
        the same groups.
        """
        ...

    async def jobs(self, *, state: JobState | None = None, after: str | None = None, limit: int = PAGE) -> list[Job]:
        """Return jobs, newest first, starting after an id."""
        ...

    async def job(self, id: str) -> Job | None:
        """Return the job with this id, or None."""
        ...

    async def change_job(
        self,
        id: str,
        requester: Requester | None,
        *,
        state: JobState | None = None,
        rate: float | Literal["keep"] | None = "keep",
        message: str | None = None,
    ) -> Job:
        """Change the state or the rate of a job. Ends its groups' reservation when it is completed or cancelled.

        `message` says why the state changes. Without a state it says what a running job waits for; "" removes that.

        A requester of None is the job itself. Raises `JobNotFound`, and `JobEnded` if it is completed or cancelled.
        """
        ...

    async def acquire_job(self, id: str, runner: str, lease: float = LEASE_SECONDS) -> Job | None:
        """Take or extend the lease on a running or paused job for `lease` seconds.

        Also extends the leases of the letters that this runner has claimed for it, whatever the state of the job: it
        finishes them. Returns the job as it is now, or None if another runner holds it, or it is neither running nor
        paused. With 0 seconds it gives up the job, but no letter: those that it could not settle stay leased.
        """
        ...

    async def claim(
        self, id: str, runner: str, batch: int, count: int, lease: float = LEASE_SECONDS
    ) -> list[DeadLetter]:
        """Claim up to `count` letters of one batch of a job; record and count an attempt for each.

        Takes letters that wait, and letters of the job whose lease has expired (their earlier attempt counts, and stays
        `unknown`). Letters that reached the limit by that are parked and count as failed; letters that are gone, parked
        or resolved count as skipped. Returns an empty list if no letter can be claimed now: the batch may still be open
        because letters are leased.
        """
        ...

    async def settle(self, id: str, runner: str, settlements: Sequence[Settlement]) -> Settled:
        """Record the outcomes of claimed letters: resolved, waiting again, or parked at the limit.

        A letter that failed keeps its id and gets the new error, and moves to the group of that error. Outcomes of
        letters whose lease was lost to another runner are ignored.
        """
        ...

    async def release_expired(self) -> int:
        """Let letters of paused and ended jobs wait again when their lease has expired; returns how many there were.

        Their runner was killed. Those that reached the limit are parked. Also deletes some of the sets of ended jobs.
        Cheap if there is nothing to do; works in several transactions. Does nothing in a store that is read only.
        """
        ...

    async def audit(self, *, job: str | None = None, after: int | None = None, limit: int = PAGE) -> list[AuditRecord]:
        """Return audit records, newest first, starting after a number."""
        ...

    async def oldest_waiting(self) -> Mapping[str, datetime]:
        """Return when the oldest waiting letter of each flow failed."""
        ...
