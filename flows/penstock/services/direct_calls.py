"""Calls without a task, of functions that report their result by a callback.

An HTTP request is one write and one read. A task that waits for the response costs half as much again.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from contextvars import Context
from functools import partial
from typing import Any

from penstock.core.deadlines import CALL_DEADLINE
from penstock.core.element import NEVER
from penstock.services.attempt_errors import NO_RESULT, AttemptErrors, CancelReason, DeadlinePassed
from penstock.services.call_queue import Call, CallCounts, CallQueue, RetriedCall
from penstock.services.timeout_sweeper import TimeoutSweeper
from penstock.support.tasks import Cancellable, Report, reported

ITERATION_SHARE = 1024
"""Calls that are started in one iteration of the event loop. Each takes 40 µs."""

ITERATION_SECONDS = 0.01
"""Seconds after which no more calls are started in an iteration: making a large request may take a millisecond."""


class DirectFunction(ABC):
    """A function of a service that can be called without a task, and by a task as a coroutine function."""

    @abstractmethod
    def start(self, value: Any, on_result: Report[Any]) -> Cancellable | None:
        """Start a call, and return it, or None if it has ended.

        `on_result` is called once, perhaps before this method returns. An error that is raised here is one of the call.
        """

    async def __call__(self, value: Any) -> Any:
        """Make a call and return its result."""
        return await reported(partial(self.start, value))


class DirectCall:
    """A call in flight."""

    __slots__ = ("_calls", "call", "cancel_reason", "cancels", "deadline", "overdue", "queue", "started", "started_at")

    def __init__(self, calls: DirectCalls, queue: CallQueue, call: Call | RetriedCall, started_at: float) -> None:
        self._calls = calls
        self.queue = queue
        self.call = call
        self.started_at = started_at
        self.deadline = NEVER
        """When it must have ended, beside its timeout."""
        self.overdue = 0.0
        """Seconds that it had taken when `started_at` was last moved, because of its timeout."""
        self.cancel_reason: CancelReason | None = None
        self.cancels = 0
        """How often it was cancelled."""
        self.started: Cancellable | None = None

    @property
    def next_deadline(self) -> float:
        """Its deadline, if it was not cancelled."""
        return self.deadline if self.cancel_reason is None else NEVER

    def time_out(self, reason: CancelReason) -> None:
        """Cancel it because it takes too long."""
        self.cancel(self.cancel_reason or reason)

    def cancel(self, reason: CancelReason) -> asyncio.Future[Any] | None:
        """Cancel it. Return a future to wait for if it does not end at once."""
        self.cancels += 1
        self.cancel_reason = reason
        return None if self.started is None else self.started.cancel()

    def end(self, result: Any, error: BaseException | None) -> None:
        """Receive the result."""
        self._calls.end(self, result, error)


class DirectCalls:
    """Starts the calls of a service, and receives their results.

    `ready` are the queues that have calls to make. `may_start` returns whether one more call may start now. If it
    returns False, `schedule` is called when that may have changed.
    """

    def __init__(
        self,
        function: DirectFunction,
        ready: deque[CallQueue],
        counts: CallCounts,
        sweeper: TimeoutSweeper,
        clock: Callable[[], float],
        errors: AttemptErrors,
        may_start: Callable[[], bool],
    ) -> None:
        self._function = function
        self._ready = ready
        self._counts = counts
        self._sweeper = sweeper
        self._clock = clock
        self._errors = errors
        self._may_start = may_start
        self.in_flight: dict[DirectCall, None] = {}
        """In the order in which they started."""
        self._context = Context()  # an empty context: the calls of all runs start in it
        self._deadline = NEVER
        self._is_scheduled = False

    def schedule(self) -> None:
        """Start calls in the next iteration of the event loop."""
        if not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._start_calls, context=self._context)

    def of(self, queue: CallQueue) -> list[DirectCall]:
        """Return the calls in flight of a queue."""
        return [call for call in self.in_flight if call.queue is queue]

    def end(self, direct: DirectCall, result: Any, error: BaseException | None) -> None:
        """Deliver the result of a call, or decide what follows its error."""
        queue, direct.started = direct.queue, None  # what was started refers to this object
        since = direct.started_at - direct.overdue
        if error is None:
            del self.in_flight[direct]
            queue.add_result(direct.call, result)
            queue.waited_since.append(since)
            if direct.started_at > self._counts.ok_started_at:
                self._counts.ok_started_at = direct.started_at
        else:
            reason, loop_ends = direct.cancel_reason, False
            if reason is None and isinstance(error, asyncio.CancelledError):
                # Its own task, such as one that opens a connection, was cancelled: alone, or all are by `asyncio.run`.
                loop_ends = all(task.cancelling() for task in asyncio.all_tasks())
                reason = CancelReason.RUN_ENDED if loop_ends else None
            try:  # the breaker counts the call as in flight until its error is counted
                result = self._errors.result(
                    queue, direct.call, direct, error, reason, since=since, can_retry_now=False
                )
            except (KeyboardInterrupt, SystemExit):
                self._stop()
                raise
            finally:
                del self.in_flight[direct]
            if loop_ends:
                return  # no other call may start
            if result is not NO_RESULT:
                queue.add_result(direct.call, result)
        if self._ready:
            self.schedule()

    def _stop(self) -> None:
        """Make no more calls, because the process exits: another exit would interrupt the end of its event loop."""
        self._ready.clear()
        for each in tuple(self.in_flight):
            each.cancel(CancelReason.RUN_ENDED)

    def _start_calls(self) -> None:
        """Start calls, one of each queue in turn, as far as the limits allow."""
        self._is_scheduled = False
        ready = self._ready
        if not ready:
            return
        began = now = self._clock()
        if self._sweeper.timer is None:
            self._sweeper.watch(now, ready[0].loop)
        started: list[DirectCall] = []
        while ready and self._may_start():
            if len(started) == ITERATION_SHARE or now - began > ITERATION_SECONDS:
                self.schedule()
                break
            queue = ready[0]
            call = queue.pending.popleft()
            if not queue.pending:
                ready.popleft()
            elif len(ready) > 1:
                ready.rotate(-1)
            started.append(direct := DirectCall(self, queue, call, now))
            self._start(direct)
            now = self._clock()
        for direct in started:  # the time in which others were started does not count
            direct.started_at = now

    def _start(self, direct: DirectCall) -> None:
        self.in_flight[direct] = None
        try:
            if direct.queue.deadlines is not None:
                self._set_deadline(direct)
            elif self._deadline != NEVER:
                self._deadline = NEVER
                CALL_DEADLINE.set(None)
            started = self._function.start(direct.call.value, direct.end)
            if direct in self.in_flight:
                direct.started = started
                if direct.cancel_reason is not None and started is not None:  # its queue was closed by `start`
                    started.cancel()
        except BaseException as error:
            if direct in self.in_flight:
                self.end(direct, None, error)
            else:
                raise

    def _set_deadline(self, direct: DirectCall) -> None:
        """Limit a call by its deadline. Raise `DeadlinePassed` if it could not start in time.

        A batch is called without the elements whose deadlines have passed, and may take until the latest deadline of
        the others: one element must not fail others.
        """
        queue, call = direct.queue, direct.call
        queue.expire_elements(call, direct.started_at)
        if call.deadline <= direct.started_at:
            raise DeadlinePassed
        direct.deadline = call.deadline
        if call.deadline != self._deadline:  # elements that were emitted together have the same
            self._deadline = call.deadline
            CALL_DEADLINE.set((call.deadline, self._clock))
        self._sweeper.watch_deadline(call.deadline, queue.loop)
