"""Merges letters that many callers store at the same time into few durable commits, one after the other."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from penstock.deadletters.sql.rows import Columns
from penstock.deadletters.sqlite.errors import concerns_store
from penstock.deadletters.sqlite.writer import GROUP, WriterStatistics
from penstock.deadletters.store import Problem
from penstock.errors import StoreError, describe
from penstock.support.logger import get_logger

log = get_logger()

Batch = TypeVar("Batch")

OnDone = Callable[[list[Exception | None] | Exception], None]
"""Receives the result for each caller of a group: None, or why its letters were not stored; or one error for all.

For a check without letters, receives the result of the check.
"""


class WriterBackend(Protocol[Batch]):
    """A writer that runs outside the event loop, one group at a time."""

    @property
    def statistics(self) -> WriterStatistics:
        """The counters of the writer."""
        ...

    @property
    def timeout(self) -> float | None:
        """Seconds after which a group may be abandoned to close the database; None if it cannot be."""
        ...

    def serialize(self, columns: Columns) -> Batch:
        """Convert the letters of one caller to the form in which they are submitted."""
        ...

    async def open(self) -> None:
        """Open the database. Raises what a `Writer` raises."""
        ...

    def submit(self, batches: list[Batch], *, refresh: bool, on_done: OnDone) -> None:
        """Check the file and the counts, if `refresh` is set, then store a group. The event loop calls `on_done`."""
        ...

    async def aclose(self) -> None:
        """Close the database. The last group has ended."""
        ...

    def kill(self) -> None:
        """Abandon the current group, if possible."""
        ...

    def close_detached(self) -> None:
        """Close the database without waiting, because the event loop of the current group was closed."""
        ...


@dataclass(slots=True, eq=False)
class PendingAdd(Generic[Batch]):
    """The letters of one caller, and the future that it awaits."""

    batch: Batch
    count: int
    done: asyncio.Future[None]


class GroupCommitter(Generic[Batch]):
    """Groups concurrent `add` calls: those that arrive during a commit share the next one.

    A commit is one hop to the backend and one back, and callers resume in the next iteration of the event loop: a task
    here, or a second hop, would each cost one more iteration of a busy loop.
    """

    def __init__(
        self,
        backend: WriterBackend[Batch],
        to_store_error: Callable[[Exception], StoreError],
        concerns_store: Callable[[Exception], bool] = concerns_store,
    ) -> None:
        self._backend = backend
        self._to_store_error = to_store_error
        self._concerns_store = concerns_store
        self._pending: deque[PendingAdd[Batch]] = deque()
        self._refresh = False
        self._checks: list[asyncio.Future[None]] = []
        """Callers that wait for the result of the next check."""
        self.problem: Problem | None = None
        """Why the last group or check failed."""
        self._busy = False
        self._idle = asyncio.Event()
        self._open = False

    @property
    def statistics(self) -> WriterStatistics:
        """The counters of the writer."""
        return self._backend.statistics

    async def open(self) -> None:
        """Open the database."""
        self._open, self.problem = True, None
        await self._backend.open()

    def add(self, columns: Columns, count: int) -> asyncio.Future[None]:
        """Store letters, all or none. The commit continues when the caller is cancelled."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if not count:
            done.set_result(None)
            return done

        try:
            batch = self._backend.serialize(columns)  # now, so that it does not delay the commit later
        except Exception as error:
            done.set_exception(self._to_store_error(error))
        else:
            self._add(PendingAdd(batch, count, done))
        return done

    def add_serialized(self, batch: Batch, count: int) -> asyncio.Future[None]:
        """Store letters that were serialized before, all or none."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._add(PendingAdd(batch, count, done))
        return done

    def check(self) -> asyncio.Future[None]:
        """Check the store before the next group. Raises why letters cannot be stored now."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._checks.append(done)
        self._start_next()
        return done

    def refresh_counts(self) -> None:
        """Check the store soon, and count the letters again if another process has changed the database."""
        self._refresh = True
        self._start_next()

    async def aclose(self) -> None:
        """Complete pending calls, then close the database."""
        if not self._open:
            return
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._backend.timeout):
                    while self._busy:
                        self._idle.clear()
                        await self._idle.wait()
            self._open = False
            await self._backend.aclose()
        except asyncio.CancelledError:  # the caller has no more time
            self._open = False
            self._backend.kill()
            raise
        finally:
            for done in (*(pending.done for pending in self._pending), *self._checks):  # nothing was started for them
                done.cancel()

    def close_detached(self) -> None:
        """Close the database without waiting, because the event loop of all callers was closed."""
        self._open = False
        self._backend.close_detached()

    def _add(self, pending: PendingAdd[Batch]) -> None:
        self._pending.append(pending)
        self._start_next()

    def _start_next(self) -> None:
        if self._busy or not self._open:
            return
        if not self._pending and not self._refresh and not self._checks:
            self._idle.set()
            return
        self._busy = True
        if self._checks:
            checks, self._checks, self._refresh = self._checks, [], False
            self._backend.submit([], refresh=True, on_done=lambda outcome: self._end_checks(checks, outcome))
            return
        refresh, self._refresh = self._refresh, False
        group = self._next_group()
        self._backend.submit(
            [pending.batch for pending in group], refresh=refresh, on_done=lambda outcome: self._end(group, outcome)
        )

    def _next_group(self) -> list[PendingAdd[Batch]]:
        group: list[PendingAdd[Batch]] = []
        size = 0
        while self._pending and (not group or size + self._pending[0].count <= GROUP):
            size += self._pending[0].count
            group.append(self._pending.popleft())
        return group

    def _end(self, group: list[PendingAdd[Batch]], outcome: list[Exception | None] | Exception) -> None:
        self._busy = False
        errors = [outcome] * max(1, len(group)) if isinstance(outcome, Exception) else outcome
        self._note_problem(errors)
        for pending, error in zip(group, errors, strict=bool(group)):
            if pending.done.done():
                continue
            if error is None:
                pending.done.set_result(None)
            else:
                pending.done.set_exception(self._to_store_error(error))
        self._start_next()

    def _end_checks(self, checks: list[asyncio.Future[None]], outcome: list[Exception | None] | Exception) -> None:
        error = outcome if isinstance(outcome, Exception) else outcome[0]
        for done in checks:
            if done.done():
                continue
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(self._to_store_error(error))
        self._end([], outcome)

    def _note_problem(self, errors: Sequence[Exception | None]) -> None:
        """Remember whether the store works, and log when that changes."""
        before, first = self.problem, errors[0]
        if None in errors or first is None:
            self.problem = None
            if before is not None:
                log.info("store.recovered", failed_seconds=round(time.monotonic() - before.since, 3))
        elif self._concerns_store(first):
            error = self._to_store_error(first)
            self.problem = Problem(error, time.monotonic() if before is None else before.since)
            if before is None or error.permanent > before.error.permanent:
                log.error("store.unusable" if error.permanent else "store.failing", error=describe(error))
