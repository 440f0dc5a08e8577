"""The desk: everything that commands and HTTP routes do with dead letters.

`LocalDesk` works on the stores of this process, `RemoteDesk` on those of a service, over HTTP.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Mapping, Sequence
from typing import Literal, Protocol

from penstock.deadletters.dead_letter import DeadLetter
from penstock.deadletters.dead_letter_queue import Group, History, Job, JobOptions, JobState, Requester
from penstock.deadletters.store import PAGE, DeadLetterQuery, Page
from penstock.redrive.records import AuditPage, Change, EditReport, ImportReport, LogReport, Plan, TryResult

SHOWN_CHANGES = 5
"""Letters whose input is shown before and after an edit, before the edit is confirmed."""


class Desk(Protocol):
    """Reads, marks, edits and redrives dead letters.

    Every method may raise `StoreError`, and `NotSupportedByStore` for letters in a log, which can only be listed,
    exported and redriven. Methods that change something are recorded in the audit under the name of the requester.
    """

    def places(self) -> Sequence[str]:
        """Return the URLs of the stores, or of the service, for messages."""
        ...

    async def groups(self, query: DeadLetterQuery, *, after: str | None = None, limit: int = PAGE) -> list[Group]:
        """Return groups, the ones with the most recent letters first, starting after the group with the id `after`."""
        ...

    async def total(self, query: DeadLetterQuery) -> Mapping[str, int]:
        """Count letters by state. States without letters are missing."""
        ...

    async def page(self, query: DeadLetterQuery, *, after: str | None = None, limit: int = PAGE) -> Page:
        """Return letters, oldest first. `after` is the `next` of the previous page."""
        ...

    async def show(self, id: str) -> tuple[DeadLetter, History] | None:
        """Return a letter with what was done to it, or None."""
        ...

    async def plan(self, query: DeadLetterQuery, options: JobOptions) -> Plan:
        """Return what a redrive would do. Nothing is changed. Raises `NoLetters`."""
        ...

    async def try_letters(self, query: DeadLetterQuery, options: JobOptions, count: int) -> list[TryResult]:
        """Run `count` letters with real services and without sinks. Nothing is changed. Raises `NoLetters`."""
        ...

    async def redrive(self, query: DeadLetterQuery, options: JobOptions, requester: Requester) -> Job | LogReport:
        """Create a job for the waiting letters that match now. `progress` follows it.

        A log has no jobs: its letters are redriven before this returns. Raises `NoLetters`, `JobConflict`,
        `FlowNotLoaded`, and `SeveralStores` if the letters are in several stores.
        """
        ...

    async def jobs(self, *, state: JobState | None = None, after: str | None = None, limit: int = PAGE) -> list[Job]:
        """Return jobs, newest first, starting after the job with the id `after`."""
        ...

    async def job(self, id: str) -> Job:
        """Return a job. Raises `JobNotFound`."""
        ...

    async def change_job(
        self,
        id: str,
        requester: Requester,
        *,
        state: Literal["running", "paused", "cancelled"] | None = None,
        rate: float | Literal["keep"] | None = "keep",
    ) -> Job:
        """Pause, resume or cancel a job, or change its rate. Raises `JobNotFound` or `JobEnded`."""
        ...

    def progress(self, id: str) -> AsyncIterator[Job]:
        """Yield a job now and after changes, until it is no longer running. The last one has the final counts.

        Raises `JobNotFound`.
        """
        ...

    async def park(self, query: DeadLetterQuery, requester: Requester) -> int:
        """Park waiting letters; returns how many."""
        ...

    async def unpark(self, query: DeadLetterQuery, requester: Requester) -> int:
        """Make parked letters wait; returns how many."""
        ...

    async def purge(self, query: DeadLetterQuery, requester: Requester) -> int:
        """Delete letters that are not claimed; returns how many."""
        ...

    async def edit(self, id: str, input: bytes, requester: Requester) -> DeadLetter:
        """Replace the input of a waiting or parked letter by JSON. Returns the new letter. Raises `RedriveError`."""
        ...

    async def preview(
        self, query: DeadLetterQuery, assignments: Sequence[str], *, count: int = SHOWN_CHANGES
    ) -> list[Change]:
        """Return what `apply` would change in the first letters. An assignment is `FIELD=EXPRESSION`.

        Raises `RedriveError` or `InvalidExpression` for an invalid assignment.
        """
        ...

    async def apply(self, query: DeadLetterQuery, assignments: Sequence[str], requester: Requester) -> EditReport:
        """Change the inputs of all waiting and parked letters that match. Raises as `preview` does."""
        ...

    def export(self, query: DeadLetterQuery) -> AsyncIterator[DeadLetter]:
        """Yield all letters that match."""
        ...

    async def import_letters(self, letters: AsyncIterable[DeadLetter], requester: Requester) -> ImportReport:
        """Store letters. One whose id is already stored is skipped."""
        ...

    async def audit(self, *, job: str | None = None, after: str | None = None, limit: int = PAGE) -> AuditPage:
        """Return audit records, newest first. `after` is the `next` of the previous page."""
        ...
