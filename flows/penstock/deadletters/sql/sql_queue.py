"""The methods of a dead-letter queue in a SQL database: each one runs an operation in a transaction."""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from penstock.deadletters.dead_letter import DeadLetter
from penstock.deadletters.dead_letter_queue import (
    LEASE_SECONDS,
    AuditRecord,
    Group,
    History,
    Job,
    JobOptions,
    JobState,
    Requester,
    Settled,
    Settlement,
)
from penstock.deadletters.store import PAGE, DeadLetterQuery, GroupField, Page, check_state
from penstock.errors import StoreError
from penstock.support.tasks import complete

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from penstock.deadletters.sql import operations
    from penstock.deadletters.sql.operations import Progress
else:

    class _Operations:
        """Imports the operations when the first one runs: importing SQLAlchemy takes 150 ms."""

        def __getattr__(self, name: str) -> Any:
            return getattr(import_module("penstock.deadletters.sql.operations"), name)

    operations = _Operations()

T = TypeVar("T")


class SqlQueue(ABC):
    """Implements `DeadLetterQueue`, except for the methods that depend on how a database is connected and written."""

    editable = True

    copies: tuple[str, ...]
    """The names of the copies that new letters are recorded for. It may be replaced at any time."""

    _step_pause = 0.0
    """Seconds between two steps of a long operation."""

    _read_only: bool

    @abstractmethod
    async def _read(self, operation: Callable[[Connection], T]) -> T:
        """Run an operation that changes nothing. Raises `StoreError` for errors of the database."""

    @abstractmethod
    async def _write(self, operation: Callable[[Connection], T]) -> T:
        """Run an operation in a transaction."""

    async def _write_all(self, operation: Callable[[Connection, Progress], Progress]) -> int:
        """Run an operation in as many transactions as it takes; returns how many letters it changed."""
        progress: Progress | None = None
        while progress is None or not progress.done:
            before = progress
            progress = await self._write(lambda connection: operation(connection, before or operations.Progress()))  # noqa: B023 - called at once
        return progress.count

    async def _repeat(self, step: Callable[[Connection], T | None]) -> T:
        """Run a step of an operation until it returns a result. Other processes can write between two steps."""
        while True:
            if result := await self._write(step):
                return result
            await asyncio.sleep(self._step_pause)

    async def get(self, id: str) -> DeadLetter | None:
        """Return the letter with this id, or None."""
        return await self._read(lambda connection: operations.get(connection, id))

    async def page(self, query: DeadLetterQuery, *, after: str | None = None, limit: int = PAGE) -> Page:
        """Return letters in the order of their ids, starting after an id."""
        return await self._read(lambda connection: operations.page(connection, query, after, limit))

    async def count(self, query: DeadLetterQuery, *, by: Sequence[GroupField] = ()) -> Mapping[tuple[str, ...], int]:
        """Count letters by the values of some fields. Without fields, the total is under the key `()`."""
        return await self._read(lambda connection: operations.count(connection, query, by))

    async def update(self, ids: Sequence[str], *, state: str) -> int:
        """Set the state of letters in one transaction; returns how many of the ids exist.

        Raises `ValueError` for an unknown state.
        """
        check_state(state)
        return await self._write(lambda connection: operations.update_state(connection, ids, state))

    async def delete(self, query: DeadLetterQuery) -> int:
        """Delete letters in several transactions, so that the writer can commit in between; returns how many."""
        return await self._write_all(lambda connection, so_far: operations.delete_letters(connection, query, so_far))

    async def groups(self, query: DeadLetterQuery, *, after: str | None = None, limit: int = PAGE) -> list[Group]:
        """Return groups, the ones with the most recent letters first."""
        return await self._read(lambda connection: operations.groups(connection, query, after, limit))

    async def history(self, id: str) -> History:
        """Return what was done to a letter."""
        return await self._read(lambda connection: operations.history(connection, id))

    async def edit(
        self,
        changes: Mapping[str, bytes],
        requester: Requester,
        *,
        query: Mapping[str, Any] | None = None,
        expected: Mapping[str, bytes] | None = None,
    ) -> list[str]:
        """Replace the inputs of waiting or parked letters that are as `expected`; returns the ids of those changed."""
        document = None if query is None else json.dumps(query, default=str)
        return await self._write(lambda connection: operations.edit(connection, changes, requester, document, expected))

    async def mark(self, query: DeadLetterQuery, state: Literal["waiting", "parked"], requester: Requester) -> int:
        """Park waiting letters, or make parked letters wait, in several transactions; returns how many."""
        return await self._write_all(
            lambda connection, so_far: operations.mark(connection, query, state, requester, so_far)
        )

    async def purge(self, query: DeadLetterQuery, requester: Requester) -> int:
        """Delete letters that are not claimed, in several transactions; returns how many."""
        return await self._write_all(
            lambda connection, so_far: operations.purge(connection, query, requester, self.copies, so_far)
        )

    async def expire(self, keep: Mapping[str, float], *, max: int | None = None, flow: str | None = None) -> int:
        """Delete letters that are older than `keep`, and the oldest above `max`; returns how many."""
        return await self._write_all(
            lambda connection, so_far: operations.expire(connection, keep, max, flow, self.copies, so_far)
        )

    async def import_letters(self, letters: Sequence[DeadLetter], requester: Requester) -> int:
        """Store letters; returns how many were new."""
        return await self._write(
            lambda connection: operations.import_letters(connection, letters, requester, self.copies)
        )

    async def create_job(self, query: DeadLetterQuery, options: JobOptions, requester: Requester) -> Job:
        """Create a running job for the waiting letters that match now."""
        creation = operations.JobCreation(query, options, requester)
        try:
            return await self._repeat(creation.step)
        except BaseException:
            with suppress(StoreError):  # the job stays paused then, and can be cancelled
                await complete(self._repeat(creation.undo), "undo the creation of a job")
            raise

    async def jobs(self, *, state: JobState | None = None, after: str | None = None, limit: int = PAGE) -> list[Job]:
        """Return jobs, newest first, starting after an id."""
        return await self._read(lambda connection: operations.list_jobs(connection, state, after, limit))

    async def job(self, id: str) -> Job | None:
        """Return the job with this id, or None."""
        return await self._read(lambda connection: operations.find_job(connection, id))

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
        return await self._write(
            lambda connection: operations.change_job(connection, id, requester, state=state, rate=rate, message=message)
        )

    async def acquire_job(self, id: str, runner: str, lease: float = LEASE_SECONDS) -> Job | None:
        """Take or extend the lease on a job, and on the letters that the runner has claimed for it."""
        return await self._write(lambda connection: operations.acquire_job(connection, id, runner, lease))

    async def claim(
        self, id: str, runner: str, batch: int, count: int, lease: float = LEASE_SECONDS
    ) -> list[DeadLetter]:
        """Claim up to `count` letters of one batch of a job."""
        return await self._write(lambda connection: operations.claim(connection, id, runner, batch, count, lease))

    async def settle(self, id: str, runner: str, settlements: Sequence[Settlement]) -> Settled:
        """Record the outcomes of claimed letters."""
        return await self._write(lambda connection: operations.settle(connection, id, runner, settlements))

    async def release_expired(self) -> int:
        """Let letters of paused and ended jobs wait again when their lease has expired; returns how many there were."""
        released = 0
        while not self._read_only and await self._read(operations.has_expired):  # writing locks a whole SQLite file
            count = await self._write(operations.release_expired)
            if not count:  # another process does it
                break
            released += count
        if not self._read_only and await self._read(operations.has_ended_jobs):
            await self._write(operations.forget_ended_jobs)
        return released

    async def audit(self, *, job: str | None = None, after: int | None = None, limit: int = PAGE) -> list[AuditRecord]:
        """Return audit records, newest first, starting after a number."""
        return await self._read(lambda connection: operations.read_audit(connection, job, after, limit))

    async def oldest_waiting(self) -> Mapping[str, datetime]:
        """Return when the oldest waiting letter of each flow failed."""
        return await self._read(lambda connection: operations.oldest_waiting(connection))

    async def take_uncopied(self, copy: str, count: int, lease: float) -> list[DeadLetter]:
        """Return letters that a copy needs, oldest first. No process gets them again for `lease` seconds."""
        return await self._write(lambda connection: operations.take_uncopied(connection, copy, count, lease))

    async def mark_copied(self, copy: str, ids: Sequence[str]) -> None:
        """Record that a copy has letters."""
        await self._write(lambda connection: operations.mark_copied(connection, copy, ids))

    async def postpone_uncopied(self, copy: str, ids: Sequence[str], seconds: float) -> None:
        """Change the lease of letters that a copy could not store: it ends in some seconds."""
        await self._write(lambda connection: operations.postpone_uncopied(connection, copy, ids, seconds))

    async def count_uncopied(self) -> Mapping[str, int]:
        """Return how many letters each copy needs."""
        return await self._read(lambda connection: operations.count_uncopied(connection))
