"""The calls that one step of one run makes to a service: those that wait, and the results to deliver."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import copy_context
from typing import Any, Protocol, TypeAlias

from msgspec import Struct

from penstock.core.deadlines import Deadlines, ExpiryTimer
from penstock.core.element import NEVER
from penstock.errors import DeadlineExceeded

BEFORE_CALL = "passed before it was called"
DURING_CALL = "passed while it was called"
BEFORE_RETRY = "passes before it can be called again"
"""When a deadline passed, for the message."""

CHECK_SECONDS = 1e-6
"""Seconds between two checks of waiting calls, for each of them: checking takes time."""


class Call(Protocol):
    """One call to make: an element, or a batch of elements. `value` is the argument."""

    value: Any

    @property
    def deadline(self) -> float:
        """When it must be finished, on the clock of the event loop. For a batch it is the latest of its elements."""
        ...


Split: TypeAlias = Callable[[Any, float], tuple[Any, float]]
"""Removes from a batch the elements whose deadlines have passed at a time, if not all have. Returns a batch of those,
or None, and the earliest deadline of the others."""


class RetriedCall(Struct, eq=False):
    """A call whose last attempt failed and that will be attempted again."""

    call: Any
    attempt: int
    """Number of the next attempt, from 2."""
    error: Exception | None = None
    """Why the last attempt failed, if the call has a deadline."""

    @property
    def value(self) -> Any:
        return self.call.value

    @property
    def deadline(self) -> float:
        return float(self.call.deadline)


class CallFailed(Struct, frozen=True, eq=False):
    """The result of a call that failed and is not retried."""

    error: Exception
    attempts: int


ResultCallback: TypeAlias = Callable[[Sequence[Any], Sequence[Any]], None]
"""Receives calls and, in the same order, their results (`CallFailed` for failed calls)."""


class CallCounts:
    """Counters of one service, over all its queues. Attempts are counted by outcome."""

    __slots__ = ("cancelled", "errors", "ok", "retries", "timeouts")  # no Struct: its attributes are slower to set

    def __init__(self) -> None:
        self.ok = 0
        self.errors = 0
        self.timeouts = 0
        self.cancelled = 0
        """Attempts whose run ended before they did."""
        self.retries = 0
        """Attempts after the first one of a call."""


class Pool(Protocol):
    """The tasks that make the calls of all queues of a service."""

    name: str

    def enqueue(self, queue: CallQueue) -> None:
        """Make the calls of a queue that was empty until now."""
        ...

    def dequeue(self, queue: CallQueue) -> None:
        """Note that a queue has become empty, although no call of it has started."""
        ...

    def close_queue(self, queue: CallQueue) -> list[asyncio.Future[Any]]:
        """Cancel the calls of a queue. Return the futures to wait for."""
        ...


class StartedTask(Protocol):
    """A task that has started a call. `started_at` is when, on the clock of the event loop."""

    started_at: float


class CallQueue:
    """The calls of one step of one run. Contains at most as many as the window of the run.

    Results are collected during one iteration of the event loop and delivered together: to `on_results`, in the context
    of the run. `on_fault` receives what `on_results` raised, and exceptions of the service other than `Exception`.
    """

    __slots__ = (
        "_clock",
        "_counts",
        "_expiry",
        "_on_fault",
        "_on_results",
        "_pool",
        "_split",
        "_timers",
        "closed",
        "completed",
        "context",
        "deadlines",
        "failed",
        "has_retries",
        "iteration",
        "loop",
        "notification_pending",
        "pending",
        "results",
        "started",
    )

    def __init__(
        self,
        pool: Pool,
        counts: CallCounts,
        clock: Callable[[], float],
        on_results: ResultCallback,
        on_fault: Callable[[BaseException], None] | None = None,
    ) -> None:
        self.pending: deque[Any] = deque()
        """Calls that have not started."""
        self.closed = False
        self.failed = 0
        """How many of the results are `CallFailed`. Still set while they are delivered."""
        self.has_retries = False
        self.completed: list[Any] = []
        """Calls that ended in this iteration of the event loop; `results` has their results."""
        self.results: list[Any] = []
        self.iteration = 0
        """Counts iterations of the event loop in which calls started. A call has waited if this changed meanwhile."""
        self.notification_pending = False
        """True while `_on_next_iteration` is scheduled."""
        self.started: list[StartedTask] = []
        """Tasks that started calls in this iteration."""
        self._pool = pool
        self._counts = counts
        self._clock = clock
        self._on_results = on_results
        self._on_fault = on_fault
        self.loop = asyncio.get_running_loop()
        self.context = copy_context()
        """The context of the run. Results are delivered in it; the context of the task belongs to no run."""
        self._timers: dict[int, asyncio.TimerHandle] = {}
        self.deadlines: Deadlines | None = None
        """The deadlines of the run; None if its calls have none."""
        self._split: Split | None = None
        self._expiry = ExpiryTimer(self.loop, self._expire_waiting)

    def watch_deadlines(self, deadlines: Deadlines | None, split: Split | None = None) -> None:
        """Fail calls at their deadlines. `split` is for calls of several elements, which have a deadline each."""
        self.deadlines = deadlines
        self._split = split

    @property
    def waiting(self) -> int:
        """Number of calls that wait for a task or for their next attempt."""
        return len(self.pending) + len(self._timers)

    def submit(self, calls: Sequence[Any]) -> None:
        """Add calls to make."""
        if calls and not self.closed:
            was_empty = not self.pending
            self.pending.extend(calls)
            if was_empty:
                self._pool.enqueue(self)
            if self.deadlines is not None:
                now = self._clock()
                self._expiry.watch(min([self.expire_elements(call, now) for call in calls]))

    def add_result(self, call: Call | RetriedCall, result: Any) -> None:
        """Add the result of a call that has waited. It is delivered with the others of this iteration."""
        if not self.notification_pending:
            self.notify_next_iteration()
        self.completed.append(call)
        self.results.append(result)

    def retry_later(self, call: RetriedCall, seconds: float) -> None:
        """Make another attempt after a wait, which occupies no task of the pool."""
        if self.closed:
            return
        self.has_retries = True
        self._timers[id(call)] = self.loop.call_later(seconds, self._retry, call)

    def close(self) -> list[asyncio.Future[Any]]:
        """Drop waiting calls and cancel those in flight. Return the futures to wait for."""
        self.closed = True
        self.pending.clear()
        self._expiry.stop()
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._count_results(self.completed)
        self.failed = 0
        self.completed, self.results, self.started = [], [], []
        # The callbacks refer to this queue: see `RunContext._drop_references`.
        self._on_results, self._on_fault = _ignore_results, None
        return self._pool.close_queue(self)

    async def aclose(self) -> None:
        """Close, and wait until calls in flight have ended."""
        if waits := self.close():
            await asyncio.wait(waits)
        else:
            await asyncio.sleep(0)  # idle tasks end in this iteration

    def _retry(self, call: RetriedCall) -> None:
        del self._timers[id(call)]
        self.submit((call,))

    def expired(
        self, call: Call | RetriedCall, attempts: int = 0, when: str = BEFORE_CALL, cause: Exception | None = None
    ) -> CallFailed:
        """Return the result of a call whose deadline has passed, after so many attempts."""
        assert self.deadlines is not None
        error = DeadlineExceeded(self._pool.name, self.deadlines.seconds_of(call.deadline), when)
        error.__cause__ = cause
        if cause is not None:
            cause.__traceback__ = None  # it refers to the frames of the call
        return CallFailed(error, attempts)

    def expire_elements(self, call: Call | RetriedCall, now: float) -> float:
        """Fail the elements of a batch whose deadlines have passed. Return the earliest deadline of a call."""
        if self._split is None:
            return call.deadline
        expired, earliest = self._split(call.call if isinstance(call, RetriedCall) else call, now)
        if expired is not None:
            self._fail_expired(expired, call)
        return earliest

    def _fail_expired(self, expired: Call | RetriedCall, call: Call | RetriedCall) -> None:
        """Fail a waiting call, or some elements of it."""
        attempts, cause = (call.attempt - 1, call.error) if isinstance(call, RetriedCall) else (0, None)
        self.failed += 1
        self.add_result(expired, self.expired(expired, attempts, BEFORE_CALL, cause))

    def _expire_waiting(self, now: float) -> float:
        """Fail waiting calls whose deadlines have passed. Return when to check again."""
        kept: list[Any] = []
        earliest = NEVER
        for call in self.pending:
            deadline = self.expire_elements(call, now)
            if call.deadline > now:
                kept.append(call)
                earliest = min(earliest, deadline)
            else:
                self._fail_expired(call, call)
        if len(kept) < len(self.pending):
            self.pending.clear()
            self.pending.extend(kept)
            if not kept:
                self._pool.dequeue(self)
        return max(earliest, now + len(kept) * CHECK_SECONDS)

    def notify_next_iteration(self) -> None:
        """Schedule one callback at the end of this loop iteration, for all calls that started in it.

        A callback for each call cost a tenth more per order when services wait for a millisecond.
        """
        self.notification_pending = True
        self.loop.call_soon(self._on_next_iteration, context=self.context)

    def _on_next_iteration(self) -> None:
        """Deliver the results of the iteration that ended, and correct the start times of calls that wait.

        A call that waits started in that iteration after others that did not wait; their time must not count as its
        own. Reading the clock before each call would cost more than most calls do.
        """
        self.notification_pending = False
        self.iteration += 1
        now = self._clock()
        for task in self.started:
            if task.started_at < now:  # a task that waits for the rate limit starts its call later
                task.started_at = now
        self.started.clear()
        if not self.completed:
            return
        calls, results = self.completed, self.results
        self.completed, self.results = [], []
        self._count_results(calls)
        if self.closed:
            self.failed = 0
            return
        if self.has_retries:
            calls = [call.call if type(call) is RetriedCall else call for call in calls]
        try:
            self._on_results(calls, results)
        except BaseException as error:
            self.report_fault(error)
        finally:
            self.failed = 0

    def _count_results(self, calls: Sequence[Any]) -> None:
        """Count successful calls, delivered or not. Failed ones were counted when they failed."""
        if calls:
            self._counts.ok += len(calls) - self.failed

    def report_fault(self, error: BaseException) -> None:
        """Report a fault of the step, or of the service, that is not the failure of one element."""
        if self._on_fault is not None:
            self._on_fault(error)
        if self._on_fault is None or isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise error


def _ignore_results(calls: Sequence[Any], results: Sequence[Any]) -> None:
    """Receive the results of a closed queue."""
