"""The calls that one step of one run makes to a service: those that wait, and the results to deliver."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import copy_context
from typing import Any, Protocol, TypeAlias

from msgspec import Struct


class Call(Protocol):
    """One call to make: an element, or a batch of elements. `value` is the argument."""

    value: Any


class RetriedCall(Struct, eq=False):
    """A call whose last attempt failed and that will be attempted again."""

    call: Any
    attempt: int
    """Number of the next attempt, from 2."""

    @property
    def value(self) -> Any:
        return self.call.value


class CallFailed(Struct, frozen=True, eq=False):
    """The result of a call that failed and is not retried."""

    error: Exception
    attempts: int


ResultCallback: TypeAlias = Callable[[Sequence[Any], Sequence[Any]], None]
"""Receives calls and, in the same order, their results (`CallFailed` for failed calls)."""


class CallCounts:
    """Counters of one service, over all its queues. Attempts are counted by outcome."""

    __slots__ = ("cancelled", "errors", "ok", "ok_started_at", "retries", "timeouts")  # no Struct: slower to set

    def __init__(self) -> None:
        self.ok = 0
        self.ok_started_at = float("-inf")
        """When the latest of the calls that succeeded started, on the clock of the event loop."""
        self.errors = 0
        self.timeouts = 0
        self.cancelled = 0
        """Attempts whose run ended before they did."""
        self.retries = 0
        """Attempts after the first one of a call."""


class Pool(Protocol):
    """The tasks that make the calls of all queues of a service."""

    is_limited: bool
    """Whether fewer calls may be in flight now than usual."""

    def withdraw(self, queue: CallQueue) -> None:
        """Make no calls of a queue, which has none left."""
        ...

    def record_ok(self, count: int, now: float) -> None:
        """Count calls that succeeded, while `is_limited`."""
        ...

    def enqueue(self, queue: CallQueue) -> None:
        """Make the calls of a queue that was empty until now."""
        ...

    def close_queue(self, queue: CallQueue) -> list[asyncio.Future[Any]]:
        """Cancel the calls of a queue. Return the futures to wait for."""
        ...


class StartedTask(Protocol):
    """A task that has started a call. `started_at` is when, on the clock of the event loop."""

    started_at: float


class HeldCalls:
    """When the waiting calls of a queue were submitted, while an open circuit breaker holds them. Pure.

    Calls leave the queue at its front, so how many wait tells which ones those are.
    """

    __slots__ = ("_batches", "_submitted")

    def __init__(self, waiting: int, now: float) -> None:
        self._batches: deque[tuple[int, float]] = deque()
        """How many calls were submitted up to a time."""
        self._submitted = 0
        self.add(waiting, 0, now)

    def add(self, count: int, waiting: int, now: float) -> None:
        """Note calls that are submitted while others wait."""
        self._drop_left(waiting)
        self._submitted += count
        if count:
            self._batches.append((self._submitted, now))

    def since(self, waiting: int) -> float | None:
        """Return when the oldest of the waiting calls was submitted."""
        self._drop_left(waiting)
        return self._batches[0][1] if self._batches else None

    def count_oldest(self, waiting: int) -> int:
        """Return how many of the waiting calls were submitted then."""
        return self._batches[0][0] - (self._submitted - waiting) if self._batches else 0

    def _drop_left(self, waiting: int) -> None:
        while self._batches and self._batches[0][0] <= self._submitted - waiting:
            self._batches.popleft()


class CallQueue:
    """The calls of one step of one run. Contains at most as many as the window of the run.

    Results are collected during one iteration of the event loop and delivered together: to `on_results`, in the context
    of the run. `on_fault` receives what `on_results` raised, and exceptions of the service other than `Exception`.
    """

    __slots__ = (
        "_clock",
        "_counts",
        "_held",
        "_on_fault",
        "_on_results",
        "_pool",
        "_timers",
        "closed",
        "completed",
        "context",
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
        self._held: HeldCalls | None = None

    @property
    def waiting(self) -> int:
        """Number of calls that wait for a task or for their next attempt."""
        return len(self.pending) + len(self._timers)

    def submit(self, calls: Sequence[Any]) -> None:
        """Add calls to make."""
        if calls and not self.closed:
            was_empty = not self.pending
            if self._held is not None:
                self._held.add(len(calls), len(self.pending), self._clock())
            self.pending.extend(calls)
            if was_empty:
                self._pool.enqueue(self)

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

    def hold(self, now: float | None) -> None:
        """Note since when waiting calls are held, or that they are not held any more."""
        self._held = None if now is None else HeldCalls(len(self.pending), now)

    def held_since(self) -> float | None:
        """Return since when the oldest waiting call is held; None if none is."""
        return None if self._held is None else self._held.since(len(self.pending))

    def expire_held(self, before: float, error: Callable[[float], Exception]) -> int:
        """Fail the waiting calls that are held since `before`, and return how many.

        `error` makes the error from the time since when a call is held.
        """
        held, waiting = self._held, len(self.pending)
        while held is not None and (since := held.since(len(self.pending))) is not None and since <= before:
            oldest = held.count_oldest(len(self.pending))
            self._fail_waiting([error(since) if index < oldest else None for index in range(len(self.pending))])
        return waiting - len(self.pending)

    def expire(self, error_of: Callable[[Any], Exception | None]) -> None:
        """Fail those of the waiting calls for which `error_of` returns an error, without an attempt.

        Calls that wait for their next attempt are not among them until then.
        """
        self._fail_waiting([error_of(call) for call in self.pending])

    def _fail_waiting(self, errors: Sequence[Exception | None]) -> None:
        """Fail the waiting calls that have an error, each with its own."""
        waiting = list(self.pending)
        self.pending.clear()
        self.pending.extend(call for call, error in zip(waiting, errors, strict=True) if error is None)
        for call, error in zip(waiting, errors, strict=True):
            if error is not None:
                self.add_result(call, CallFailed(error, call.attempt - 1 if type(call) is RetriedCall else 0))
                self.failed += 1
        if waiting and not self.pending:
            self._pool.withdraw(self)

    def close(self) -> list[asyncio.Future[Any]]:
        """Drop waiting calls and cancel those in flight. Return the futures to wait for."""
        self.closed = True
        self.pending.clear()
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._count_results(self.completed, self._clock())
        self.failed = 0
        self._held = None
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
        self._count_results(calls, now)
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

    def _count_results(self, calls: Sequence[Any], now: float) -> None:
        """Count successful calls, delivered or not. Failed ones were counted when they failed."""
        if ok := len(calls) - self.failed:
            self._counts.ok += ok
            if self._pool.is_limited:
                self._pool.record_ok(ok, now)

    def report_fault(self, error: BaseException) -> None:
        """Report a fault of the step, or of the service, that is not the failure of one element."""
        if self._on_fault is not None:
            self._on_fault(error)
        if self._on_fault is None or isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise error


def _ignore_results(calls: Sequence[Any], results: Sequence[Any]) -> None:
    """Receive the results of a closed queue."""
