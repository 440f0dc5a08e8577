"""Merges letters that many callers append at the same time, and keeps several appends in flight."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from penstock.deadletters.dead_letter import DeadLetter
from penstock.deadletters.store import Problem, StoreStatistics
from penstock.errors import StoreError, describe
from penstock.support.logger import get_logger

log = get_logger()

GROUP = 1000
"""Maximum number of letters in one append, unless one caller has more."""

GROUP_BYTES = 4 * 1024 * 1024
"""The size of inputs after which an append takes no further callers."""


@dataclass(slots=True, eq=False)
class PendingAppend:
    """The letters of one caller, and the future that it awaits."""

    letters: Sequence[DeadLetter]
    size: int
    done: asyncio.Future[None]


class LogAppender:
    """Appends letters with a function, at most `concurrency` times at once and for at most `timeout` seconds.

    Letters of callers that wait meanwhile share the next append. Cancelling a caller cancels no append.
    """

    def __init__(
        self,
        append: Callable[[list[DeadLetter]], Awaitable[None]],
        to_store_error: Callable[[Exception], StoreError],
        *,
        concurrency: int,
        timeout: float,
    ) -> None:
        self._append = append
        self._to_store_error = to_store_error
        self._concurrency = concurrency
        self._timeout = timeout
        self._pending: deque[PendingAppend] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._idle_tasks = 0
        """Tasks that were created and have not taken letters yet."""
        self.problem: Problem | None = None
        """Why the last append failed."""
        self.statistics = StoreStatistics()

    def add(self, letters: Sequence[DeadLetter]) -> asyncio.Future[None]:
        """Append letters. The future ends when all are durable, or with a `StoreError`."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if not letters:
            done.set_result(None)
            return done
        self._pending.append(PendingAppend(letters, sum(len(letter.input) for letter in letters), done))
        if len(self._tasks) < self._concurrency and not self._idle_tasks:
            self._idle_tasks += 1  # it starts in the next iteration, and takes what is added until then
            task = asyncio.get_running_loop().create_task(self._run(), name="dead letters: append")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return done

    async def aclose(self) -> None:
        """Wait for pending appends, at most for the timeout of one, then give up."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._timeout)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        while self._pending:
            self._pending.popleft().done.cancel()

    def note(self, error: StoreError | None) -> None:
        """Remember whether the log works, and write a log line when that changes."""
        before = self.problem
        if error is None:
            self.problem = None
            if before is not None:
                log.info("store.recovered", failed_seconds=round(time.monotonic() - before.since, 3))
            return
        self.problem = Problem(error, time.monotonic() if before is None else before.since)
        if before is None or error.permanent > before.error.permanent:
            log.error("store.unusable" if error.permanent else "store.failing", error=describe(error))

    async def _run(self) -> None:
        self._idle_tasks -= 1
        while self._pending:
            group = self._next_group()
            started = time.monotonic()
            try:
                async with asyncio.timeout(self._timeout):
                    await self._append([letter for pending in group for letter in pending.letters])
            except asyncio.CancelledError:
                for pending in group:
                    pending.done.cancel()
                raise
            except Exception as error:
                self._end(group, started, self._to_store_error(error))
            else:
                self._end(group, started, None)

    def _next_group(self) -> list[PendingAppend]:
        group: list[PendingAppend] = []
        count = size = 0
        while self._pending and (not group or (count + len(self._pending[0].letters) <= GROUP and size < GROUP_BYTES)):
            pending = self._pending.popleft()
            count += len(pending.letters)
            size += pending.size
            group.append(pending)
        return group

    def _end(self, group: list[PendingAppend], started: float, error: StoreError | None) -> None:
        seconds = time.monotonic() - started
        stored = 0 if error else sum(len(pending.letters) for pending in group)
        self.statistics += StoreStatistics(
            commits=0 if error else 1, failures=1 if error else 0, stored=stored, commit_seconds=seconds
        )
        self.note(error)
        for pending in group:
            if pending.done.done():
                continue
            if error is None:
                pending.done.set_result(None)
            else:
                pending.done.set_exception(error)
