"""The tasks of a bulkhead: each makes calls one after another. A call is cancelled without ending its task."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, cast

from msgspec import Struct

from penstock.core.deadlines import CALL_DEADLINE
from penstock.core.element import NEVER
from penstock.services.attempt_errors import NO_RESULT, RETRY_NOW, AttemptErrors, CancelReason, DeadlinePassed
from penstock.services.breaker_guard import BreakerGuard
from penstock.services.call_queue import Call, CallCounts, CallFailed, CallQueue, RetriedCall
from penstock.services.pacing import Pacer
from penstock.services.retry import RateLimiter, RetryPolicy
from penstock.services.timeout_sweeper import TimeoutSweeper

QUEUE_SHARE = 16
"""Calls in a row that one task makes for one queue while other queues have calls too, if none of them waits.

Results are delivered when the loop iteration ends, so switching after each call would deliver none of them sooner, and
it costs: with four requests side by side an order took 2.4 times the CPU of one alone. Shares of 16 cost no more than
larger ones, and 64 runs have theirs within one iteration (`bulkhead.ITERATION_SHARE`).
"""


class CallSpec(Struct, frozen=True, eq=False):
    """How the calls of a service are made."""

    service: str
    function: Callable[[Any], Awaitable[Any]]
    timeout: float
    """Seconds that one attempt may take."""
    retry: RetryPolicy
    rate_limiter: RateLimiter | None = None
    pacer: Pacer | None = None
    """Makes calls wait as the responses of the service ask."""


class CallTask:
    """One task of a bulkhead, and the call that it makes.

    `ready` are the queues that have calls to make. `wake_next` wakes another task, if one is idle or may be started.
    `errors` decides what follows an attempt that raised.
    """

    __slots__ = (
        "_clock",
        "_counts",
        "_errors",
        "_guard",
        "_ready",
        "_sleep",
        "_spec",
        "_sweeper",
        "_wake_next",
        "cancel_reason",
        "cancels",
        "deadline",
        "ended",
        "free",
        "overdue",
        "queue",
        "started_at",
        "task",
        "waited",
    )

    def __init__(
        self,
        spec: CallSpec,
        ready: deque[CallQueue],
        counts: CallCounts,
        sweeper: TimeoutSweeper,
        clock: Callable[[], float],
        wake_next: Callable[[], None],
        errors: AttemptErrors,
        guard: BreakerGuard | None,
    ) -> None:
        self._errors = errors
        self._guard = guard
        self._spec = spec
        self._ready = ready
        self._counts = counts
        self._sweeper = sweeper
        self._clock = clock
        self._wake_next = wake_next
        self.task: asyncio.Task[None] = cast("asyncio.Task[None]", None)
        self.queue: CallQueue | None = None
        """The queue of the current call; None while there is none."""
        self.started_at = 0.0
        self.deadline = NEVER
        """When the current call must have ended, beside its timeout."""
        self.cancel_reason: CancelReason | None = None
        self.waited = False
        """Whether the last call waited, so that other tasks could run since it started."""
        self.cancels = 0
        """How often the current call was cancelled."""
        self.overdue = 0.0
        """Seconds that the current call had taken when `started_at` was last moved, because of its timeout."""
        self.ended = False
        self.free = asyncio.Event()
        """Set when a cancelled call has ended."""
        self._sleep: asyncio.Future[None] | None = None

    def sleep(self, loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
        """Return a future that `wake` resolves."""
        self._sleep = loop.create_future()
        return self._sleep

    def wake(self) -> None:
        """Resolve the future of `sleep`: there may be calls to make, or the task is to end."""
        if self._sleep is not None and not self._sleep.done():
            self._sleep.set_result(None)

    async def run_calls(self, limit: int) -> int:
        """Make up to `limit` calls of the next queue. Return how many were made. This is the hot path of every element.

        While calls do not wait, no time passes and no other task runs, so the next calls are made at once.
        """
        spec, ready = self._spec, self._ready
        function = spec.function
        self.queue = queue = ready[0]
        pending, next_call = queue.pending, queue.pending.popleft
        if len(ready) > 1:
            ready.rotate(-1)
            limit = min(limit, QUEUE_SHARE)
        call = next_call()
        if not pending:
            ready.remove(queue)
        if ready:
            self._wake_next()
        self.started_at = self._clock()
        if self._sweeper.timer is None:
            self._sweeper.watch(self.started_at, queue.loop)
        self.waited = False
        has_deadlines = queue.deadlines is not None
        if self.deadline != NEVER:
            self._set_deadline(NEVER)
        if not queue.notification_pending:
            queue.notify_next_iteration()
        queue.started.append(self)
        # The notification is queued before the call can yield, and runs before this task continues. So another
        # iteration number then means that the call has waited.
        iteration = queue.iteration
        add_call, add_result = queue.completed.append, queue.results.append
        left = limit = min(limit, len(pending) + 1)
        attempt, pause, failed = 1, 0.0, 0
        row = last_failed = 0  # calls of this method that failed one after another; `left` at the last one
        result: Any = None
        raised: BaseException | None = None
        while True:
            try:
                if has_deadlines:
                    self._check_deadline(queue, call, pause)
                if pause:
                    await asyncio.sleep(pause)
                result = await function(call.value)
            except BaseException as error:
                raised = error
            else:
                if attempt == 1 and queue.iteration == iteration:  # the usual case, and the only one for most orders
                    add_call(call)
                    add_result(result)
                    left -= 1
                    if not left:
                        self._counts.ok_started_at = self.started_at
                        return limit
                    call = next_call()
                    if not pending:
                        ready.remove(queue)
                    continue
            if raised is not None and left + failed < limit:  # calls before this one succeeded
                self._counts.ok_started_at = max(self._counts.ok_started_at, self.started_at)
            if raised is not None:  # outside the handler: in it, an error of the next attempt would name this one
                if attempt == 1:
                    row = row + 1 if left == last_failed - 1 else 1
                    last_failed = left
                at_once = row if queue.iteration == iteration else 0
                result = self._handle_error(queue, call, attempt, raised, at_once)
                raised = None  # it refers to this frame through its traceback
                if result is RETRY_NOW:
                    attempt += 1
                    pause = 0.0 if spec.rate_limiter is None else spec.rate_limiter.reserve(self._clock())
                    self.started_at = self._clock() + pause
                    continue
                failed += 1
                if self._guard is not None and self._guard.circuit.is_limiting:
                    left = 1  # the others are held
            if queue.iteration != iteration:
                self.waited = True
                since = self.started_at - self.overdue
                if self.cancel_reason is not None or self.task.cancelling():  # the call suppressed its cancellation
                    self.clear_cancellation()
                if result is not NO_RESULT:
                    queue.add_result(call, result)
                    if type(result) is not CallFailed:
                        queue.waited_since.append(since)
                        if self.started_at > self._counts.ok_started_at:
                            self._counts.ok_started_at = self.started_at
                return limit - left + 1
            if result is not NO_RESULT:
                add_call(call)
                add_result(result)
            left -= 1
            if not left:
                return limit
            call = next_call()
            attempt, pause = 1, 0.0
            if not pending:
                ready.remove(queue)

    def cancel(self, reason: CancelReason) -> None:
        """Cancel the current call, but not this task."""
        self.free.clear()
        self.task.cancel()
        self.cancels += 1
        self.cancel_reason = reason

    def time_out(self, reason: CancelReason = CancelReason.TIMED_OUT) -> None:
        """Cancel the current call because it takes too long. A call that was cancelled before is cancelled again."""
        self.cancel(self.cancel_reason or reason)

    @property
    def next_deadline(self) -> float:
        """The deadline of the current call, if it was not cancelled."""
        return self.deadline if self.cancel_reason is None else NEVER

    def _check_deadline(self, queue: CallQueue, call: Call | RetriedCall, pause: float) -> None:
        """Raise `DeadlinePassed` if the next attempt, after a pause, could not start in time. Limit it otherwise.

        A batch is called without the elements whose deadlines have passed, and may take until the latest deadline of
        the others: one element must not fail others.
        """
        start = self._clock() + pause
        queue.expire_elements(call, start)
        if call.deadline <= start:
            raise DeadlinePassed
        if call.deadline != self.deadline:  # elements that were emitted together have the same
            self._set_deadline(call.deadline)
        self._sweeper.watch_deadline(call.deadline, queue.loop)

    def _set_deadline(self, deadline: float) -> None:
        self.deadline = deadline
        CALL_DEADLINE.set(None if deadline == NEVER else (deadline, self._clock))

    def clear_cancellation(self) -> CancelReason | None:
        """Undo the cancellation of the current call and return its reason. Re-raises on loop shutdown.

        On loop shutdown all tasks are cancelled. If only this one is, the call has cancelled its own task, and the
        next call must not be affected.
        """
        reason, self.cancel_reason = self.cancel_reason, None
        self.free.set()
        for _ in range(self.cancels):
            self.task.uncancel()
        self.cancels, self.overdue = 0, 0.0
        if self.task.cancelling():
            if all(task.cancelling() for task in asyncio.all_tasks()):
                raise asyncio.CancelledError
            while self.task.uncancel():
                pass
        return reason

    def _handle_error(
        self, queue: CallQueue, call: Call | RetriedCall, attempt: int, error: BaseException, at_once: int
    ) -> Any:
        """Return what follows an attempt that raised; see `AttemptErrors.result`."""
        since = self.started_at - self.overdue
        reason: CancelReason | None = None
        if self.cancel_reason is not None or isinstance(error, asyncio.CancelledError):
            reason = self.clear_cancellation()
        return self._errors.result(queue, call, self, error, reason, since=since, attempt=attempt, at_once=at_once)
