"""A service: something outside that a step calls, protected by a bulkhead that all runs share.

The bulkhead is a pool of long-lived tasks, because a task per call costs more than most calls do. There are as many of
them as calls were ever in flight at once. They end with the last run that uses the service; a process that serves its
flow keeps them for the next one.

Runs are served in turn, so a small one is not stuck behind a large one: call by call, or `SHARE` at a time if the calls
do not wait. A call that waits for its next attempt holds no place.
"""

from __future__ import annotations

import asyncio
import inspect
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Any

import structlog

from penstock.errors import CallCancelled, TimedOut
from penstock.scope import CANCEL_SECONDS
from penstock.services.backoff import Backoff
from penstock.services.lane import Again, Done, Job, Lane
from penstock.services.spacing import Spacing
from penstock.services.tries import At, Tries, worth_another
from penstock.services.worker import Verdict, Worker

log: structlog.stdlib.BoundLogger = structlog.get_logger()

MAX_IN_FLIGHT = 256
"""Calls that a service may have in flight at once, unless told otherwise."""

SLICE = 1024
"""Calls in a row that one worker makes before the event loop gets its turn, if none of them waits."""

SHARE = 16
"""Calls in a row that one worker makes for one run while others have some too, if none of them waits.

Answers are told when the event loop turns, so taking turns call by call would bring none of them sooner, and it costs:
with four requests side by side an order took 2.4 times the CPU of one alone. Shares of 16 cost no more than larger
ones, and 64 runs have theirs within one `SLICE`.
"""


class Service:
    """What a step calls: a function, how many calls at once, how long one may take, how often it is tried.

    `call` takes the value of an element and gives the answer. It is a coroutine function, or a plain one that is quick;
    a plain one that blocks runs in a thread with `blocking=True` (which a timeout abandons but cannot stop).

    `timeout` is in seconds, for one attempt. `attempts` counts the first one too. `retry_on` tells which errors are
    worth another attempt (default: all that do not say otherwise). `rate` is in calls a second, over all runs and
    attempts (default: as fast as they come).

    A `call` that is an object may have a coroutine method `rest`: it is awaited when no run uses the service any more.
    """

    def __init__(
        self,
        name: str,
        call: Callable[[Any], Any],
        *,
        max_in_flight: int = MAX_IN_FLIGHT,
        timeout: float = 30.0,
        attempts: int = 1,
        backoff: Backoff | None = None,
        retry_on: Callable[[BaseException], bool] = worth_another,
        blocking: bool = False,
        rate: float | None = None,
        chance: random.Random | None = None,
    ) -> None:
        if max_in_flight < 1 or attempts < 1:
            raise ValueError(
                f"service {name} needs max_in_flight ≥ 1 and attempts ≥ 1, got {max_in_flight}, {attempts}"
            )
        if timeout <= 0:
            raise ValueError(f"service {name} needs a timeout above 0 seconds, got {timeout!r}")
        if rate is not None and rate <= 0:
            raise ValueError(f"service {name} needs a rate above 0 calls a second, got {rate!r}")
        self.name = name
        self.function = call
        self.max_in_flight = max_in_flight
        self.timeout = timeout
        self.attempts = attempts
        self.backoff = backoff or Backoff()
        self.retry_on = retry_on
        self.blocking = blocking
        self.rate = rate
        self.succeeded = 0
        self.cancelled = 0
        self._call = _as_coroutine_function(call, blocking)
        self._tries = Tries(attempts, self.backoff, retry_on, chance or random.Random())  # noqa: S311 - jitter
        self._spacing = None if rate is None else Spacing(rate)
        self._pacing = False
        """True while a worker waits for the moment of the next call."""
        self._lanes: set[Lane] = set()
        self._ready: deque[Lane] = deque()
        self._workers: list[Worker] = []
        self._idle: list[Worker] = []
        self._waking = False
        self._kept = 0
        """How many keep the workers."""
        self._watch: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._clock: Callable[[], float] = time.monotonic

    def __repr__(self) -> str:
        return f"Service({self.name!r}, max_in_flight={self.max_in_flight}, attempts={self.attempts})"

    def __eq__(self, other: object) -> bool:
        return self.described == other.described if isinstance(other, Service) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.name)

    @property
    def described(self) -> tuple[Any, ...]:
        """What was said when it was made: services that say the same are equal, though each has its own bulkhead."""
        return (
            self.name,
            self.function,
            self.max_in_flight,
            self.timeout,
            self.attempts,
            self.backoff,
            self.retry_on,
            self.blocking,
            self.rate,
        )

    @property
    def results(self) -> dict[str, int]:
        """Attempts so far, by what came of them."""
        return {
            "ok": self.succeeded,
            "error": self._tries.errors,
            "timeout": self._tries.timeouts,
            "cancelled": self.cancelled,
        }

    @property
    def retries(self) -> int:
        """Attempts after the first."""
        return self._tries.retries

    @property
    def in_flight(self) -> int:
        """Calls under way."""
        return sum(worker.lane is not None for worker in self._workers)

    @property
    def waiting(self) -> int:
        """Calls that wait for their turn or their next attempt."""
        return sum(lane.waiting for lane in self._lanes)

    def calling(self, call: Callable[[Any], Any], *, chance: random.Random | None = None) -> Service:
        """The same service, with a bulkhead of its own and another function; for tests."""
        return Service(
            self.name,
            call,
            max_in_flight=self.max_in_flight,
            timeout=self.timeout,
            attempts=self.attempts,
            backoff=self.backoff,
            retry_on=self.retry_on,
            rate=self.rate,
            chance=chance,
        )

    def lane(self, done: Done, fault: Callable[[BaseException], None] | None = None) -> Lane:
        """A way in for one step of one run; `done` is told the answers, several at a time, and `fault` if it raised.

        Close it after use.
        """
        self._move_to(asyncio.get_running_loop())
        lane = Lane(self, done, fault)
        self._lanes.add(lane)
        return lane

    def keep(self) -> None:
        """Keep the workers also while no run uses the service: making them anew adds a tenth to a run of few calls.

        A supervisor does it for the services of its flows. They belong to its event loop until it lets go of them.
        """
        self._move_to(asyncio.get_running_loop())
        self._kept += 1

    def let_go(self) -> None:
        """Keep the workers no longer; after the last who does, they end in the next turn of the event loop."""
        self._kept = max(0, self._kept - 1)
        if not self._lanes and not self._kept:
            self._end_workers()

    def ready(self, lane: Lane) -> None:
        """A lane that was empty has calls to make."""
        self._ready.append(lane)
        self._wake()

    def leave(self, lane: Lane) -> list[asyncio.Future[Any]]:
        """Cancel what is under way for a lane; returns what is to be waited for, which ends within `CANCEL_SECONDS`.

        With the last lane the workers end, unless they are kept and all of them idle: a call that refuses to end would
        hold its place for good.
        """
        self._lanes.discard(lane)
        if lane in self._ready:
            self._ready.remove(lane)
        busy = [worker for worker in self._workers if worker.lane is lane]
        ending: list[asyncio.Future[Any]] = []
        if not self._lanes:
            all_idle = len(self._idle) == len(self._workers)
            ending = [] if self._kept and all_idle else self._end_workers()
        for worker in busy:
            worker.cancel(Verdict.LEFT)
        waits: list[asyncio.Future[Any]] = [asyncio.ensure_future(self._see_off(busy, ending))] if busy else ending
        if not self._lanes and (rest := getattr(self.function, "rest", None)) is not None:
            waits = [*waits, asyncio.ensure_future(rest())]
        return waits

    async def _see_off(self, busy: list[Worker], ending: list[asyncio.Future[Any]]) -> None:
        waits = [asyncio.ensure_future(worker.free.wait()) for worker in busy] + ending
        _, late = await asyncio.wait(waits, timeout=CANCEL_SECONDS)
        if late:
            stuck = sum(not worker.free.is_set() for worker in busy)
            log.error("service.calls_stuck", service=self.name, calls=stuck, waited=CANCEL_SECONDS)
        for task in late:
            task.cancel()

    def _move_to(self, loop: asyncio.AbstractEventLoop) -> None:
        """Serve another event loop; forget what one that ended without closing its lanes left behind."""
        if loop is self._loop:
            return

        if (self._lanes or self._kept) and self._loop is not None and self._loop.is_running():
            raise RuntimeError(f"service {self.name} is in use by another event loop; give each loop its own")
        self._loop, self._clock = loop, _clock_of(loop)
        self._kept = 0
        self._lanes.clear()
        self._ready.clear()
        self._workers, self._idle, self._waking, self._watch = [], [], False, None
        self._pacing = False

    def _end_workers(self) -> list[asyncio.Future[Any]]:
        """End the idle workers now and the busy ones after their call; returns what is to be waited for.

        Not the idle ones: they end in the next turn of the event loop, before anybody can hear that the run is over.
        """
        self._stop_watch()
        idle, workers = set(self._idle), self._workers
        self._workers, self._idle, self._waking = [], [], False
        self._pacing = False
        for worker in workers:
            worker.ended = True
            worker.wake()
        return [worker.task for worker in workers if worker not in idle]

    def _stop_watch(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def _wake(self) -> None:
        """Have one more worker look for work; it wakes the next one itself when it finds more than it takes.

        One at a time, so that calls which never wait are all made by one worker instead of waking 256.
        """
        if self._waking:
            return
        if self._idle:
            self._waking = True
            self._idle.pop().wake()
        elif len(self._workers) < self.max_in_flight:
            self._waking = True
            worker = Worker()
            self._workers.append(worker)
            worker.task = asyncio.get_running_loop().create_task(
                self._work(worker), name=f"{self.name}:{len(self._workers)}", context=Context()
            )  # an empty context: workers are shared, and outlive the run that happens to start them

    async def _work(self, worker: Worker) -> None:
        """Make calls until the pool ends, and let the event loop have its turn between them."""
        loop = asyncio.get_running_loop()
        made = 0
        self._waking = False
        try:
            while not worker.ended:
                if not self._ready or self._pacing:
                    worker.lane = None
                    self._idle.append(worker)
                    await worker.sleep(loop)
                    if worker.ended:
                        return
                    self._waking = False
                    made = 0
                    continue
                if self._spacing is not None:
                    await self._pace(worker, self._spacing.reserve(loop.time()))
                    if not self._ready:
                        continue
                    made = SLICE - 1
                made += await self._make_calls(worker, SLICE - made)
                if worker.waited:
                    made = 0
                elif made >= SLICE:
                    made = 0
                    worker.lane = None
                    await asyncio.sleep(0)
        finally:
            if worker in self._workers:  # somebody else cancelled it
                self._workers.remove(worker)
                self._idle = [idle for idle in self._idle if idle is not worker]
                self._waking = False

    async def _pace(self, worker: Worker, seconds: float) -> None:
        """Wait for the moment of the next call; the end of the pool ends the wait.

        No call is taken before: who waits here holds up no run, and wakes the next worker when it goes on. One waits
        for all, for the moments that others took and then had no call for would be lost.
        """
        worker.lane = None
        self._pacing = True
        try:
            await asyncio.wait((worker.sleep(asyncio.get_running_loop()),), timeout=seconds)
        finally:
            self._pacing = False

    async def _make_calls(self, worker: Worker, most: int) -> int:
        """Make the next call of the lane whose turn it is; returns how many were made. Every order comes by here.

        As long as calls do not wait, no time passes and nobody else gets a turn: then the next ones follow at once.
        """
        ready, call, at_once, another_time = self._ready, self._call, At.ONCE, At.ANOTHER_TIME
        worker.lane = lane = ready[0]
        calls, next_call = lane.calls, lane.calls.popleft
        if len(ready) > 1:
            ready.rotate(-1)
            most = min(most, SHARE)
        job = next_call()
        if not calls:
            ready.remove(lane)
        if ready and not self._waking:
            self._wake()
        worker.since = self._clock()
        if self._watch is None:
            self._watch = lane.loop.call_at(worker.since + self.timeout, self._check)
        worker.waited = False
        if not lane.turning:
            lane.hear_turn()
        # What hears of this turn is queued before the call can yield, and runs before this worker goes on. So another
        # number then means that the call has waited.
        turn = lane.turn
        add_job, add_answer = lane.jobs.append, lane.answers.append
        left = most = min(most, len(calls) + 1)
        attempt, pause = 1, 0.0
        answer: Any = None
        broken: BaseException | None = None
        while True:
            try:
                if pause:
                    await asyncio.sleep(pause)
                answer = await call(job.value)
            except (Exception, asyncio.CancelledError) as error:
                broken = error
            else:
                if attempt == 1 and lane.turn == turn:  # the usual case, which is all that most orders see of this
                    add_job(job)
                    add_answer(answer)
                    left -= 1
                    if not left:
                        return most
                    job = next_call()
                    if not calls:
                        ready.remove(lane)
                    continue
            if broken is not None:  # outside of the handler: there, the next attempt's error would name this one
                answer = self._broken_off(worker, lane, job, attempt, broken)
                broken = None  # it refers to this frame by its traceback
                if answer is at_once:
                    attempt += 1
                    pause = 0.0 if self._spacing is None else self._spacing.reserve(self._clock())
                    worker.since = self._clock() + pause
                    continue
            if lane.turn != turn:
                worker.waited = True
                if worker.verdict is not None:  # the call swallowed its cancelling
                    self._pardon(worker)
                if answer is not another_time:
                    lane.answer(job, answer)
                return most - left + 1
            if answer is not another_time:
                add_job(job)
                add_answer(answer)
            left -= 1
            if not left:
                return most
            job = next_call()
            attempt, pause = 1, 0.0
            if not calls:
                ready.remove(lane)

    def _broken_off(self, worker: Worker, lane: Lane, job: Job | Again, attempt: int, error: BaseException) -> Any:
        """What a call that raised comes to: a failure, another attempt, or nothing for a run that left.

        `attempt` counts those that this worker made in a row.
        """
        if worker.verdict is not None:
            timed_out = self._pardon(worker) is Verdict.TIMED_OUT
            if lane.closed or not timed_out:
                self.cancelled += 1
                return At.ANOTHER_TIME
            error = TimedOut(self.name, self.timeout)
        elif not isinstance(error, Exception):
            if worker.task.cancelling():  # the event loop comes to its end
                raise error
            error = CallCancelled(self.name)
        if type(job) is Again:
            attempt += job.attempt - 1
        return self._tries.after(lane, job, attempt, error)

    def _pardon(self, worker: Worker) -> Verdict | None:
        """Take back the cancelling of a worker's call: the worker goes on, unless others cancelled it too."""
        verdict, worker.verdict = worker.verdict, None
        worker.free.set()
        for _ in range(worker.cancels):
            worker.task.uncancel()
        worker.cancels = 0
        if worker.task.cancelling():
            raise asyncio.CancelledError
        return verdict

    def _check(self) -> None:
        """Cancel the calls that have taken too long, and again after each further timeout. One timer serves all."""
        loop = asyncio.get_running_loop()
        now = loop.time() + 1e-9
        self._watch = None
        busy = [worker for worker in self._workers if worker.lane is not None]
        for worker in busy:
            if worker.since + self.timeout <= now:
                worker.cancel(worker.verdict or Verdict.TIMED_OUT)
                worker.since = loop.time()
        if busy:
            self._watch = loop.call_at(min(worker.since for worker in busy) + self.timeout, self._check)


def _clock_of(loop: asyncio.AbstractEventLoop) -> Callable[[], float]:
    """The clock of a loop, without the method around it if it is asyncio's own: that costs more than the clock."""
    own = getattr(type(loop), "time", None) is asyncio.BaseEventLoop.time
    return time.monotonic if own else loop.time


def _as_coroutine_function(call: Callable[[Any], Any], blocking: bool) -> Callable[[Any], Awaitable[Any]]:
    if blocking:
        return lambda value: asyncio.to_thread(call, value)
    if inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(getattr(call, "__call__", None)):  # noqa: B004
        return call

    async def answer(value: Any) -> Any:
        result = call(value)
        return await result if inspect.isawaitable(result) else result

    return answer
