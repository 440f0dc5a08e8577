"""A bulkhead: limits how many calls to one service are in flight at once, over all runs of the process.

It is a pool of long-lived tasks, because a task for each call costs more than most calls do. It has as many tasks as
calls were ever in flight at once. They end when the last run closes its queue, unless the process retains them for the
next run. Calls of a function that reports its result by a callback need no task, except while the service has asked for
a wait: see `direct_calls`.

Queues are served round-robin, so that a small run does not wait behind a large one: one call at a time, or several if
calls do not wait. A call that waits for its next attempt occupies no task, except while it waits for the rate limit:
no other call could start then either.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import Context
from functools import partial
from typing import Any

from penstock.core.context import CANCEL_SECONDS
from penstock.errors import describe
from penstock.services.adaptive_limit import AdaptiveLimiter
from penstock.services.attempt_errors import AttemptErrors, CancelReason
from penstock.services.breaker_guard import BreakerGuard
from penstock.services.call_queue import CallCounts, CallQueue, ResultCallback
from penstock.services.call_task import CallSpec, CallTask
from penstock.services.circuit_breaker import Breaker, CircuitBreaker
from penstock.services.direct_calls import DirectCall, DirectCalls, DirectFunction
from penstock.services.pacing import Pacer
from penstock.services.timeout_sweeper import TimeoutSweeper
from penstock.support.logger import get_logger
from penstock.support.tasks import detach

log = get_logger()

ITERATION_SHARE = 1024
"""Calls in a row that one task makes in one iteration of the event loop, if none of them waits."""


class Bulkhead:
    """Makes the calls of one service, for the queues of all runs.

    `max_in_flight` limits the calls in flight, and so do the circuit breaker, the adaptive limit and the share of this
    process: see `limit`.
    `on_idle` is awaited when no queue is open and the tasks are not retained. `rng` provides the jitter of the breaker.
    `direct` is the function of `spec`, if it can be called without a task.
    """

    def __init__(
        self,
        spec: CallSpec,
        *,
        max_in_flight: int,
        on_idle: Callable[[], Awaitable[None]] | None = None,
        breaker: Breaker | None = None,
        adaptive: AdaptiveLimiter | None = None,
        rng: random.Random | None = None,
        direct: DirectFunction | None = None,
    ) -> None:
        self.name = spec.service
        self.counts = CallCounts()
        self._spec = spec
        self._direct_function = direct
        self._direct: DirectCalls | None = None
        self._max_in_flight = max_in_flight
        self._on_idle = on_idle
        self._queues: set[CallQueue] = set()
        self._ready: deque[CallQueue] = deque()
        """The queues that have calls to make; the first one is served next."""
        self.tasks: list[CallTask] = []
        self.idle: list[CallTask] = []
        """Tasks that wait for calls."""
        self._waking = False
        """True from waking a task until it checks for calls."""
        self._waiting_for_rate = False
        """True while a task waits until the rate, or the service itself, allows the next call."""
        self._retained = 0
        """How many callers of `retain` have not called `release`."""
        self.is_limited = False
        """Whether fewer than `max_in_flight` calls may be in flight now."""
        self._must_check = False
        """Whether a task must check for room before a call. For a call without limits it is the only check."""
        self._share: int | None = None
        self._adaptive = adaptive
        if adaptive is not None:
            adaptive.on_growth = self.update_limit
        self._guard: BreakerGuard | None = None
        if breaker is not None:
            self._guard = BreakerGuard(
                spec.service,
                breaker,
                spec.retry,
                self.counts,
                self._queues,
                max_in_flight=max_in_flight,
                in_flight=self._count_started_between,
                on_change=self.update_limit,
                rng=rng or random.Random(),  # noqa: S311 - jitter
            )
        self._sweeper = TimeoutSweeper(spec.timeout, self._calls_in_flight, self.update_limit)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._clock: Callable[[], float] = time.monotonic
        self._errors = self._attempt_errors()
        self._check_limited()

    @property
    def in_flight(self) -> int:
        """Number of calls in flight."""
        return len(self._calls_in_flight())

    @property
    def waiting(self) -> int:
        """Number of calls that wait for their start or for their next attempt."""
        return sum(queue.waiting for queue in self._queues)

    @property
    def paced_seconds(self) -> float:
        """Seconds in which calls waited because responses of the service asked for it."""
        pacer = self._spec.pacer
        return 0.0 if pacer is None else pacer.paced_seconds(self._clock())

    @property
    def limit(self) -> int:
        """How many calls may be in flight now."""
        return self.own_limit if self._share is None else min(self.own_limit, self._share)

    @property
    def own_limit(self) -> int:
        """How many calls might be in flight now if no other process called the service."""
        circuit, limit = self.circuit, self._max_in_flight
        if self._adaptive is not None:
            limit = min(limit, self._adaptive.limit)
        return limit if circuit is None else min(limit, circuit.limit)

    @property
    def busy(self) -> int:
        """How many calls are in flight or about to start: at least `in_flight`, and quick to count."""
        return len(self.tasks) - len(self.idle) + (0 if self._direct is None else len(self._direct.in_flight))

    @property
    def share(self) -> int | None:
        """How many of the `max_in_flight` calls of all processes this one may have; None if it is the only process.

        Calls in flight are not cut when it shrinks.
        """
        return self._share

    @share.setter
    def share(self, share: int | None) -> None:
        if share != self._share:
            self._share = share
            self.update_limit()

    @property
    def circuit(self) -> CircuitBreaker | None:
        """The circuit breaker."""
        return None if self._guard is None else self._guard.circuit

    @property
    def now(self) -> float:
        """The time on the clock of the event loop that it serves."""
        return self._clock()

    def update_limit(self) -> None:
        """Take account of a changed `limit`: if it has grown, make calls that wait."""
        self._check_limited()
        if self._ready:
            self._wake_task()

    def _check_limited(self) -> None:
        # An adaptive limit shrinks at any time, so it is always checked.
        is_shared = self._share is not None and self._share < self._max_in_flight
        self.is_limited = is_shared or self._waiting_for_rate or self._adaptive is not None or self._is_breaker_limiting
        self._must_check = self.is_limited or self._direct_function is not None

    @property
    def _is_breaker_limiting(self) -> bool:
        return self._guard is not None and self._guard.circuit.is_limiting

    def record_ok(self, count: int, now: float) -> None:
        """Count calls that succeeded, while `is_limited`."""
        if self._guard is not None and self._guard.circuit.is_limiting:
            self._guard.record_responses(count, now)

    def withdraw(self, queue: CallQueue) -> None:
        """Make no calls of a queue, which has none left."""
        if queue in self._ready:
            self._ready.remove(queue)

    def open_queue(
        self, on_results: ResultCallback, on_fault: Callable[[BaseException], None] | None = None
    ) -> CallQueue:
        """Open a queue for one step of one run; see `Service.open_queue`."""
        self._bind_loop(asyncio.get_running_loop())
        queue = CallQueue(self, self.counts, self._clock, on_results, on_fault)
        self._queues.add(queue)
        if self._guard is not None:
            self._guard.add_queue(queue)
        return queue

    def retain(self) -> None:
        """Keep the tasks while no queue is open; see `Service.retain`."""
        self._bind_loop(asyncio.get_running_loop())
        self._retained += 1

    def release(self) -> list[asyncio.Future[Any]]:
        """Undo one `retain`. After the last one, idle tasks end in the next loop iteration.

        Return the futures to wait for.
        """
        self._retained = max(0, self._retained - 1)
        if self._queues or self._retained:
            return []
        self._stop_tasks()
        return self._close_idle()

    def enqueue(self, queue: CallQueue) -> None:
        """Make the calls of a queue that was empty until now."""
        self._ready.append(queue)
        self._wake_task()

    def close_queue(self, queue: CallQueue) -> list[asyncio.Future[Any]]:
        """Cancel the calls of a queue. Return the futures to wait for, which end within `CANCEL_SECONDS`.

        When the last queue closes, the tasks end. If they are retained they stay, but only if all are idle: a task
        whose call does not end would reduce `max_in_flight` for good.
        """
        self._queues.discard(queue)
        self.withdraw(queue)
        if not self._queues and self._guard is not None:
            self._guard.stop()
        busy = [task for task in self.tasks if task.queue is queue]
        direct = [] if self._direct is None else self._direct.of(queue)
        ending: list[asyncio.Future[Any]] = []
        if not self._queues:
            all_idle = len(self.idle) == len(self.tasks)
            ending = [] if self._retained and all_idle else self._stop_tasks()
        for task in busy:
            task.cancel(CancelReason.RUN_ENDED)
        calls = [wait for call in direct if (wait := call.cancel(CancelReason.RUN_ENDED)) is not None]
        waits: list[asyncio.Future[Any]] = ending
        if busy or calls:
            calls += [asyncio.ensure_future(task.free.wait()) for task in busy]
            waits = [asyncio.ensure_future(self._wait_for_cancelled(calls, ending))]
        return waits if self._queues or self._retained else [*waits, *self._close_idle()]

    def _close_idle(self) -> list[asyncio.Future[Any]]:
        """Start the idle hook of the function, if it has one."""
        return [] if self._on_idle is None else [asyncio.ensure_future(self._run_idle_hook(self._on_idle))]

    async def _run_idle_hook(self, on_idle: Callable[[], Awaitable[None]]) -> None:
        hook = asyncio.ensure_future(on_idle())
        await asyncio.wait((hook,), timeout=CANCEL_SECONDS)
        if not hook.done():
            hook.cancel()
            detach(hook)
            log.error("service.idle_hook_failed", service=self.name, error=f"not within {CANCEL_SECONDS:g} s")
        elif not hook.cancelled() and (error := hook.exception()) is not None:
            log.error("service.idle_hook_failed", service=self.name, error=describe(error))

    async def _wait_for_cancelled(self, calls: list[asyncio.Future[Any]], ending: list[asyncio.Future[Any]]) -> None:
        _, late = await asyncio.wait([*calls, *ending], timeout=CANCEL_SECONDS)
        if late:
            stuck = sum(call in late for call in calls)
            log.error("service.calls_not_cancelled", service=self.name, calls=stuck, waited=CANCEL_SECONDS)
        for future in late:
            future.cancel()

    def _bind_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        """Serve another event loop. Forget what a loop that ended without closing its queues left behind."""
        if loop is self._loop:
            return

        if (self._queues or self._retained) and self._loop is not None and self._loop.is_running():
            raise RuntimeError(f"service {self.name} is in use by another event loop: make one service for each loop")
        self._loop, self._clock = loop, _clock_of(loop)
        if self._guard is not None:
            self._guard.bind_loop(loop, self._clock)
        self._errors = self._attempt_errors()
        if self._direct_function is not None:
            self._direct = DirectCalls(
                self._direct_function,
                self._ready,
                self.counts,
                self._sweeper,
                self._clock,
                self._errors,
                self._may_call_directly,
            )
        if self._adaptive is not None:
            self._adaptive.reset()
        self._retained = 0
        if self._spec.rate_limiter is not None:
            self._spec.rate_limiter.reset()
        if self._spec.pacer is not None:
            self._spec.pacer.reset()
        self._queues.clear()
        self._ready.clear()
        self._forget_tasks()

    def _attempt_errors(self) -> AttemptErrors:
        spec = self._spec
        return AttemptErrors(spec.service, spec.timeout, spec.retry, spec.pacer, self.counts, self._clock, self._guard)

    def _stop_tasks(self) -> list[asyncio.Future[Any]]:
        """End idle tasks now and busy ones after their call. Return the futures of the busy ones.

        Idle tasks need no wait: they end in the next loop iteration, before the end of the run is reported.
        """
        tasks, idle = list(self.tasks), set(self.idle)
        self._forget_tasks()
        for task in tasks:
            task.ended = True
            task.wake()
        return [task.task for task in tasks if task not in idle]

    def _forget_tasks(self) -> None:
        self.tasks.clear()
        self.idle.clear()
        self._waking = self._waiting_for_rate = False
        self._check_limited()
        self._sweeper.stop()

    def _wake_task(self, starting: int = 0) -> None:
        """Wake or start one more task. It wakes the next one when there are more calls than it makes.

        Tasks are woken one at a time, so that calls that never wait are all made by one task instead of waking 256.
        `starting` is the number of calls that are about to start.
        """
        if self._direct is not None and self._is_direct:
            self._direct.schedule()
            return
        if self._waking or (self._must_check and not self._has_room(starting=starting)):
            return
        if self.idle:
            self._waking = True
            self.idle.pop().wake()
        elif len(self.tasks) < self._max_in_flight:
            self._waking = True
            wake_next = self._wake_task if self._adaptive is None else partial(self._wake_task, starting=1)
            task = CallTask(
                self._spec,
                self._ready,
                self.counts,
                self._sweeper,
                self._clock,
                wake_next,
                self._errors,
                self._guard,
            )
            self.tasks.append(task)
            task.task = asyncio.get_running_loop().create_task(
                self._run_task(task), name=f"{self.name}:{len(self.tasks)}", context=Context()
            )  # an empty context: tasks are shared, and outlive the run that starts them

    @property
    def _is_direct(self) -> bool:
        """Whether calls are made without tasks now: not while the service has asked for a wait."""
        pacer = self._spec.pacer
        return self._direct is not None and not self._waiting_for_rate and (pacer is None or not pacer.is_active)

    def _may_call_directly(self) -> bool:
        """Return whether one more call may start now without a task. If tasks have to make it, wake one."""
        if not self._is_direct:
            self._wake_task()
            return False
        return self._has_room() if self.is_limited else self.busy < self._max_in_flight

    def _has_room(self, task: CallTask | None = None, starting: int = 0) -> bool:
        """Return whether one more call may start, by this task or by another one.

        A call that was cancelled twice and has not ended does not count: probes must not wait for it.
        """
        if self._waiting_for_rate:
            return False
        busy = self.busy - (task is not None)
        if busy >= self._max_in_flight or (self._share is not None and busy >= self._share):
            return False
        if self._adaptive is not None and self._adaptive.in_flight + starting >= self._adaptive.limit:
            return False
        guard = self._guard
        if guard is None or not guard.circuit.is_limiting:
            return True
        since = guard.circuit.counted_since
        started = sum(
            each.started_at >= since and each.cancels < 2 and each is not task for each in self._calls_in_flight()
        )
        return started < guard.circuit.limit

    def _calls_in_flight(self) -> list[CallTask | DirectCall]:
        calls: list[CallTask | DirectCall] = [task for task in self.tasks if task.queue is not None]
        return calls if self._direct is None else [*calls, *self._direct.in_flight]

    def _count_started_between(self, first: float, last: float) -> int:
        """Return how many of the calls in flight started between two times, or at one of them."""
        return sum(first <= call.started_at <= last for call in self._calls_in_flight())

    async def _run_task(self, task: CallTask) -> None:
        """Make calls until the task is stopped. Let the event loop run between them."""
        loop, ready = asyncio.get_running_loop(), self._ready
        rate_limiter, pacer = self._spec.rate_limiter, self._spec.pacer
        made = 0
        self._waking = False
        try:
            while not task.ended:
                if not ready or self._is_direct or (self._must_check and not self._has_room(task)):
                    task.queue = None
                    self.idle.append(task)
                    if ready and self._is_direct:
                        self._wake_task()
                    await task.sleep(loop)
                    if task.ended:
                        return
                    self._waking = False
                    made = 0
                    continue
                if rate_limiter is not None:
                    await self._wait_for_rate(task, rate_limiter.reserve(loop.time()))
                    if task.ended or not ready or (self._must_check and not self._has_room(task)):
                        continue
                    made = ITERATION_SHARE - 1
                if pacer is not None and pacer.is_active:
                    if seconds := pacer.wait(loop.time()):
                        await self._wait_for_service(task, pacer, seconds)
                        continue
                    pacer.start()
                    made = ITERATION_SHARE - 1
                if self.is_limited and self._is_breaker_limiting:
                    made = ITERATION_SHARE - 1
                made += await task.run_calls(ITERATION_SHARE - made)
                if task.waited:
                    made = 0
                elif made >= ITERATION_SHARE:
                    made = 0
                    task.queue = None
                    await asyncio.sleep(0)
        finally:
            if task in self.tasks:  # the task was cancelled from outside
                self.tasks.remove(task)
                self.idle[:] = [idle for idle in self.idle if idle is not task]
                self._waking = False
                if ready and not all(other.cancelling() for other in asyncio.all_tasks()):
                    self._wake_task()

    async def _wait_for_rate(self, task: CallTask, seconds: float) -> None:
        """Wait until the rate allows the next call, or until the task is stopped.

        No call is taken from its queue before the wait, so a run that ends meanwhile does not wait for it. One task
        waits for all: if several reserved time slots, those for which no call was left by then would be lost.
        """
        task.queue = None
        self._waiting_for_rate = self.is_limited = self._must_check = True
        try:
            await asyncio.wait((task.sleep(asyncio.get_running_loop()),), timeout=seconds)
        finally:
            if not task.ended:
                self._waiting_for_rate = False
                self._check_limited()

    async def _wait_for_service(self, task: CallTask, pacer: Pacer, seconds: float) -> None:
        """Wait as a response of the service asked, or until a later one allows more. One task waits for all."""
        if pacer.begin_wait(self._clock()):
            log.warning("service.paced", service=self.name, seconds=round(seconds, 3))
        pacer.on_change = task.wake
        is_paused = pacer.is_paused
        try:
            await self._wait_for_rate(task, seconds)
        finally:
            pacer.on_change = None
            if task.ended or not pacer.wait(self._clock()):
                pacer.end_wait(self._clock())
        if is_paused and not task.ended and self.circuit is not None:
            self.circuit.ramp_up(self._clock())
            self._check_limited()


def _clock_of(loop: asyncio.AbstractEventLoop) -> Callable[[], float]:
    """Return the clock of a loop; for asyncio's own clock without the method around it, which costs more than it."""
    own = getattr(type(loop), "time", None) is asyncio.BaseEventLoop.time
    return time.monotonic if own else loop.time
