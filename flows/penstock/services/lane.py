"""The way into a service for one step of one run: its calls in line, and its answers on their way back."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from msgspec import Struct

if TYPE_CHECKING:
    from penstock.services.bulkhead import Bulkhead
    from penstock.services.caller import Caller


class Job(Protocol):
    """What a call is made for: an element, or a group of them."""

    value: Any


class Again(Struct, eq=False):
    """A job whose last attempt failed."""

    element: Any
    attempt: int

    @property
    def value(self) -> Any:
        return self.element.value


class Failed(Struct, frozen=True, eq=False):
    """The answer of a call that failed for good."""

    error: Exception
    attempts: int


Done: TypeAlias = Callable[[Sequence[Any], Sequence[Any]], None]
"""Is told jobs and, in the same order, their answers (`Failed` for those that failed)."""


class Lane:
    """Calls of one step of one run. Holds no more than the run's window."""

    __slots__ = (
        "_bulkhead",
        "_done",
        "_fault",
        "_timers",
        "answers",
        "began",
        "calls",
        "closed",
        "context",
        "failed",
        "jobs",
        "loop",
        "retried",
        "turn",
        "turning",
    )

    def __init__(self, bulkhead: Bulkhead, done: Done, fault: Callable[[BaseException], None] | None = None) -> None:
        self.calls: deque[Any] = deque()
        self.closed = False
        self.failed = 0
        """How many of the answers are `Failed`; still there while they are handed on."""
        self.retried = False
        self.jobs: list[Any] = []
        """Jobs answered in this turn of the event loop, and in `answers` their answers."""
        self.answers: list[Any] = []
        self.turn = 0
        """Counts the turns of the event loop that were heard of. A call that ends at another count than it began at has
        waited."""
        self.turning = False
        """Whether `_turned` is queued."""
        self.began: list[Caller] = []
        """Who began to make calls in this turn."""
        self._bulkhead = bulkhead
        self._done = done
        self._fault = fault
        self.loop = asyncio.get_running_loop()
        self.context = copy_context()
        """Of the run: answers are told in it, not in that of a caller, which is nobody's."""
        self._timers: dict[int, asyncio.TimerHandle] = {}

    @property
    def waiting(self) -> int:
        """Calls that wait for their turn or their next attempt."""
        return len(self.calls) + len(self._timers)

    def submit(self, jobs: Sequence[Any]) -> None:
        """Have calls made for jobs."""
        if jobs and not self.closed:
            fresh = not self.calls
            self.calls.extend(jobs)
            if fresh:
                self._bulkhead.ready(self)

    def answer(self, job: Job | Again, answer: Any) -> None:
        """Take an answer that came after a wait; it is handed on with those of the same turn of the event loop."""
        if not self.turning:
            self.hear_turn()
        self.jobs.append(job)
        self.answers.append(answer)

    def again(self, job: Again, seconds: float) -> None:
        """Have one more attempt made after a wait, which holds no place in the bulkhead."""
        if self.closed:
            return
        self.retried = True
        self._timers[id(job)] = self.loop.call_later(seconds, self._due, job)

    def close(self) -> list[asyncio.Future[Any]]:
        """Forget what is in line and cancel what is under way; returns what is to be waited for."""
        self.closed = True
        self.calls.clear()
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._count(self.jobs)
        self.failed = 0
        self.jobs, self.answers, self.began = [], [], []
        self._done, self._fault = _nobody, None  # who waits for answers refers to this lane: see Scope._let_go
        return self._bulkhead.leave(self)

    async def aclose(self) -> None:
        """Close, and wait for the end of what was under way."""
        if waits := self.close():
            await asyncio.wait(waits)
        else:
            await asyncio.sleep(0)  # in which idle callers end

    def _due(self, job: Again) -> None:
        del self._timers[id(job)]
        self.submit((job,))

    def hear_turn(self) -> None:
        """Hear of the end of this turn of the event loop, once for all calls that began in it.

        (A handle for each call made orders whose services wait for a millisecond a tenth dearer.)
        """
        self.turning = True
        self.loop.call_soon(self._turned, context=self.context)

    def _turned(self) -> None:
        """The event loop has turned: tell the step the answers that came before.

        A call that waits began in this turn, behind others that did not wait: their time is not its own. Asking for the
        time before each call would cost more than most calls do.
        """
        self.turning = False
        self.turn += 1
        now = self._bulkhead.clock()
        for caller in self.began:
            if caller.since < now:  # one that waits for its moment begins later
                caller.since = now
        self.began.clear()
        if not self.jobs:
            return
        jobs, answers = self.jobs, self.answers
        self.jobs, self.answers = [], []
        self._count(jobs)
        if self.closed:
            self.failed = 0
            return
        if self.retried:
            jobs = [job.element if type(job) is Again else job for job in jobs]
        try:
            self._done(jobs, answers)
        except BaseException as error:
            self.fault(error)
        finally:
            self.failed = 0

    def _count(self, jobs: Sequence[Any]) -> None:
        """Count answers that came, whoever is left to hear them; those that are `Failed` are counted already."""
        if jobs:
            self._bulkhead.succeeded += len(jobs) - self.failed

    def fault(self, error: BaseException) -> None:
        """The step broke, or its service in a way that is no failure of an element."""
        if self._fault is not None:
            self._fault(error)
        if self._fault is None or isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise error


def _nobody(jobs: Sequence[Any], answers: Sequence[Any]) -> None:
    """Who waits for the answers of a closed lane."""
