"""The calls that one step of one run makes to a service: those that wait, and the results to deliver."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import copy_context
from functools import partial
from typing import Any, Protocol, TypeAlias

from msgspec import Struct

from penstock.core.context import DurationHistogram
from penstock.core.deadlines import Deadlines, ExpiryTimer
from penstock.core.element import NEVER
from penstock.errors import DeadlineExceeded

BEFORE_CALL = "passed before it was called"
DURING_CALL = "passed while it was called"
BEFORE_RETRY = "passes before it can be called again"
"""When a deadline passed, for the message."""

CHECK_SECONDS = 1e-6
"""Seconds between two checks of waiting calls, for each of them: checking takes time."""

EXPIRED_SHARE = 1024
"""Calls of a queue that fail in one iteration of the event loop because they have waited for too long.

Each takes 10 µs in all steps.
"""


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

    __slots__ = ("cancelled", "durations", "errors", "ok", "ok_started_at", "retries", "timeouts")
    # no Struct: its attributes are slower to set

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
        self.durations = {result: DurationHistogram() for result in ("ok", "error", "timeout", "cancelled")}
        """How long attempts took, by outcome."""


class Pool(Protocol):
    """Makes the calls of all queues of a service."""

    name: str
    """The name of the service."""
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
        "_expired",
        "_expiry",
        "_held",
        "_iteration_began",
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
        "immediate_errors",
        "iteration",
        "loop",
        "notification_pending",
        "pending",
        "results",
        "started",
        "waited_since",
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
        self.waited_since: list[float] = []
        """When those of the successful calls in `completed` started that have waited."""
        self.immediate_errors = 0
        """Attempts that failed in this iteration without having waited."""
        self._iteration_began = 0.0
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
        self.deadlines: Deadlines | None = None
        """The deadlines of the run; None if its calls have none."""
        self._split: Split | None = None
        self._expired: deque[tuple[Any, Callable[[], Exception]]] = deque()
        """Calls that have waited for too long and have no result yet, each with a function that makes its error."""
        self._expiry = ExpiryTimer(self.loop, self._expire_waiting)

    def watch_deadlines(self, deadlines: Deadlines | None, split: Split | None = None) -> None:
        """Fail calls at their deadlines. `split` is for calls of several elements, which have a deadline each."""
        self.deadlines = deadlines
        self._split = split

    @property
    def waiting(self) -> int:
        """Number of calls that wait for their start or for their next attempt."""
        return len(self.pending) + len(self._timers)

    @property
    def awaited_service(self) -> str | None:
        """The name of the service if calls wait because its circuit breaker is not closed, else None."""
        return self._pool.name if self._held is not None and self.waiting else None

    def submit(self, calls: Sequence[Any]) -> None:
        """Add calls to make."""
        if calls and not self.closed:
            was_empty = not self.pending
            if self._held is not None:
                self._held.add(len(calls), len(self.pending), self._clock())
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
        held, pending, waiting = self._held, self.pending, len(self.pending)
        while held is not None and (since := held.since(len(pending))) is not None and since <= before:
            make_error = partial(error, since)
            for _ in range(held.count_oldest(len(pending))):
                self._expired.append((pending.popleft(), make_error))
        if waiting and not pending:
            self._pool.withdraw(self)
        self._fail_expired()
        return waiting - len(pending)

    def close(self) -> list[asyncio.Future[Any]]:
        """Drop waiting calls and cancel those in flight. Return the futures to wait for."""
        self.closed = True
        self.pending.clear()
        self._expiry.stop()
        self._expired.clear()
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        now = self._clock()
        self._record_durations(now)
        self._count_results(self.completed, now)
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

    def deadline_exceeded(
        self, call: Call | RetriedCall, when: str = BEFORE_CALL, cause: Exception | None = None
    ) -> DeadlineExceeded:
        """Return the error of a call whose deadline passes. `cause` is the error of its last attempt."""
        assert self.deadlines is not None
        error = DeadlineExceeded(self._pool.name, self.deadlines.seconds_of(call.deadline), when)
        error.__cause__ = cause or (call.error if isinstance(call, RetriedCall) else None)
        if error.__cause__ is not None:
            error.__cause__.__traceback__ = None  # it refers to the frames of the call
        return error

    def expire_elements(self, call: Call | RetriedCall, now: float) -> float:
        """Fail the elements of a batch whose deadlines have passed. Return the earliest deadline of a call."""
        if self._split is None:
            return call.deadline
        original, attempts, cause = (
            (call.call, call.attempt - 1, call.error) if isinstance(call, RetriedCall) else (call, 0, None)
        )
        expired, earliest = self._split(original, now)
        if expired is not None:
            self.add_result(expired, CallFailed(self.deadline_exceeded(expired, BEFORE_CALL, cause), attempts))
            self.failed += 1
        return earliest

    def _expire_waiting(self, now: float) -> float:
        """Fail waiting calls whose deadlines have passed. Return when to check again."""
        deadlines = [self.expire_elements(call, now) for call in self.pending]
        waiting = list(self.pending)
        self.pending.clear()
        for call in waiting:
            if call.deadline > now:
                self.pending.append(call)
            else:
                self._expired.append((call, partial(self.deadline_exceeded, call)))
        if waiting and not self.pending:
            self._pool.withdraw(self)
        self._fail_expired()
        earliest = min((deadline for deadline in deadlines if deadline > now), default=NEVER)
        return max(earliest, now + len(deadlines) * CHECK_SECONDS)

    def _fail_expired(self) -> None:
        """Fail calls that have waited for too long, so many in each iteration of the event loop."""
        for _ in range(min(len(self._expired), EXPIRED_SHARE)):
            call, make_error = self._expired.popleft()
            attempts = call.attempt - 1 if type(call) is RetriedCall else 0
            self.add_result(call, CallFailed(make_error(), attempts))
            self.failed += 1
        if self._expired:
            self.loop.call_soon(self._fail_expired)

    def notify_next_iteration(self) -> None:
        """Schedule one callback at the end of this loop iteration, for all calls that started in it.

        A callback for each call cost a tenth more per order when services wait for a millisecond.
        """
        self.notification_pending = True
        self._iteration_began = self._clock()
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
        self._record_durations(now)
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
        if calls and (ok := len(calls) - self.failed):  # `failed` is still set while results are delivered
            self._counts.ok += ok
            if self._pool.is_limited:
                self._pool.record_ok(ok, now)

    def _record_durations(self, now: float) -> None:
        """Record how long the attempts of this iteration took, except those that failed after they had waited.

        The time is exact to an iteration of the event loop. Calls that did not wait share the time of the iteration:
        reading the clock for each would cost more than most of them take.
        """
        durations, waited = self._counts.durations, self.waited_since
        succeeded = len(self.completed) - self.failed - len(waited) if self.completed else 0
        if immediate := succeeded + self.immediate_errors:
            each = (now - self._iteration_began) / immediate
            durations["ok"].add(each, succeeded)
            if self.immediate_errors:
                durations["error"].add(each, self.immediate_errors)
                self.immediate_errors = 0
        if waited:
            since, count = waited[0], 0
            for started_at in waited:  # those that started in one iteration have one start time
                if started_at != since:
                    durations["ok"].add(now - since, count)
                    since, count = started_at, 0
                count += 1
            durations["ok"].add(now - since, count)
            waited.clear()

    def report_fault(self, error: BaseException) -> None:
        """Report a fault of the step, or of the service, that is not the failure of one element."""
        if self._on_fault is not None:
            self._on_fault(error)
        if self._on_fault is None or isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise error


def _ignore_results(calls: Sequence[Any], results: Sequence[Any]) -> None:
    """Receive the results of a closed queue."""
