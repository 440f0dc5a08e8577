"""A bulkhead: how many calls to one thing outside may be in flight at once, whichever runs they are for.

It is a pool of long-lived tasks, because a task per call costs more than most calls do. There are as many of them as
calls were ever in flight at once. They end with the last run that calls; a process that serves its flow keeps them for
the next one.

Runs are served in turn, so a small one is not stuck behind a large one: call by call, or some calls at a time if they
do not wait. A call that waits for its next attempt holds no place, save for the moment that a `rate` gives it: until
then nobody else could call either.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Any

import structlog

from penstock.errors import describe
from penstock.scope import CANCEL_SECONDS
from penstock.services.caller import Caller, Cut
from penstock.services.lane import Done, Lane
from penstock.services.spacing import Spacing
from penstock.services.timeouts import Timeouts
from penstock.services.tries import Tries
from penstock.unawaited import disown

log: structlog.stdlib.BoundLogger = structlog.get_logger()

SLICE = 1024
"""Calls in a row that one caller makes before the event loop gets its turn, if none of them waits."""


class Bulkhead:
    """Makes the calls of one service, for the lanes of all runs.

    `most` is how many at once, `timeout` the seconds that one attempt may take. `rest` is awaited when no run calls any
    more and nobody keeps the callers.
    """

    def __init__(
        self,
        name: str,
        call: Callable[[Any], Awaitable[Any]],
        *,
        most: int,
        timeout: float,
        tries: Tries,
        spacing: Spacing | None = None,
        rest: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.name = name
        self.call = call
        self._most = most
        self.tries = tries
        self.spacing = spacing
        self._rest = rest
        self.succeeded = 0
        """Calls that gave an answer."""
        self.cancelled = 0
        """Calls whose run was over before they were."""
        self._lanes: set[Lane] = set()
        self.queue: deque[Lane] = deque()
        """The lanes that have calls to make; the first one's turn it is."""
        self.callers: list[Caller] = []
        self.idle: list[Caller] = []
        """Those of them that wait for work."""
        self.waking = False
        """True while a caller that was woken has not begun to look for work."""
        self._pacing = False
        """True while a caller waits for the moment of the next call."""
        self._kept = 0
        """How many keep the callers."""
        self.timeouts = Timeouts(timeout, self.callers)
        self._loop: asyncio.AbstractEventLoop | None = None
        self.clock: Callable[[], float] = time.monotonic

    @property
    def in_flight(self) -> int:
        """Calls under way."""
        return sum(caller.lane is not None for caller in self.callers)

    @property
    def waiting(self) -> int:
        """Calls that wait for their turn or their next attempt."""
        return sum(lane.waiting for lane in self._lanes)

    def lane(self, done: Done, fault: Callable[[BaseException], None] | None = None) -> Lane:
        """A way in for one step of one run; see `Service.lane`."""
        self._move_to(asyncio.get_running_loop())
        lane = Lane(self, done, fault)
        self._lanes.add(lane)
        return lane

    def keep(self) -> None:
        """Keep the callers also while no run calls; see `Service.keep`."""
        self._move_to(asyncio.get_running_loop())
        self._kept += 1

    def let_go(self) -> list[asyncio.Future[Any]]:
        """Keep the callers no longer; after the last who does, they end in the next turn of the event loop.

        Returns what is to be waited for besides.
        """
        self._kept = max(0, self._kept - 1)
        if self._lanes or self._kept:
            return []
        self._end_callers()
        return self._come_to_rest()

    def ready(self, lane: Lane) -> None:
        """A lane that was empty has calls to make."""
        self.queue.append(lane)
        self.wake()

    def leave(self, lane: Lane) -> list[asyncio.Future[Any]]:
        """Cancel what is under way for a lane; returns what is to be waited for, which ends within `CANCEL_SECONDS`.

        When the last lane leaves, the callers end. If somebody keeps them they stay, but only if all are idle: one
        that is stuck in a call which refuses to end would take a place for good.
        """
        self._lanes.discard(lane)
        if lane in self.queue:
            self.queue.remove(lane)
        busy = [caller for caller in self.callers if caller.lane is lane]
        ending: list[asyncio.Future[Any]] = []
        if not self._lanes:
            all_idle = len(self.idle) == len(self.callers)
            ending = [] if self._kept and all_idle else self._end_callers()
        for caller in busy:
            caller.cancel(Cut.LEFT)
        waits: list[asyncio.Future[Any]] = [asyncio.ensure_future(self._see_off(busy, ending))] if busy else ending
        return waits if self._lanes or self._kept else [*waits, *self._come_to_rest()]

    def _come_to_rest(self) -> list[asyncio.Future[Any]]:
        """Tell the call, if it wants to know, that nobody uses it any more."""
        return [] if self._rest is None else [asyncio.ensure_future(self._see_to_rest(self._rest))]

    async def _see_to_rest(self, rest: Callable[[], Awaitable[None]]) -> None:
        resting = asyncio.ensure_future(rest())
        await asyncio.wait((resting,), timeout=CANCEL_SECONDS)
        if not resting.done():
            resting.cancel()
            disown(resting)
            log.error("service.idle_hook_failed", service=self.name, error=f"not within {CANCEL_SECONDS:g} s")
        elif not resting.cancelled() and (error := resting.exception()) is not None:
            log.error("service.idle_hook_failed", service=self.name, error=describe(error))

    async def _see_off(self, busy: list[Caller], ending: list[asyncio.Future[Any]]) -> None:
        waits = [asyncio.ensure_future(caller.free.wait()) for caller in busy] + ending
        _, late = await asyncio.wait(waits, timeout=CANCEL_SECONDS)
        if late:
            stuck = sum(not caller.free.is_set() for caller in busy)
            log.error("service.calls_not_cancelled", service=self.name, calls=stuck, waited=CANCEL_SECONDS)
        for task in late:
            task.cancel()

    def _move_to(self, loop: asyncio.AbstractEventLoop) -> None:
        """Serve another event loop; forget what one that ended without closing its lanes left behind."""
        if loop is self._loop:
            return

        if (self._lanes or self._kept) and self._loop is not None and self._loop.is_running():
            raise RuntimeError(f"service {self.name} is in use by another event loop; give each loop its own")
        self._loop, self.clock = loop, _clock_of(loop)
        self._kept = 0
        if self.spacing is not None:
            self.spacing.forget()
        self._lanes.clear()
        self.queue.clear()
        self._forget_callers()

    def _end_callers(self) -> list[asyncio.Future[Any]]:
        """End the idle callers now and the busy ones after their call; returns what is to be waited for.

        Not the idle ones: they end in the next turn of the event loop, before anybody can hear that the run is over.
        """
        callers, idle = list(self.callers), set(self.idle)
        self._forget_callers()
        for caller in callers:
            caller.ended = True
            caller.wake()
        return [caller.task for caller in callers if caller not in idle]

    def _forget_callers(self) -> None:
        self.callers.clear()
        self.idle.clear()
        self.waking = self._pacing = False
        self.timeouts.stop()

    def wake(self) -> None:
        """Have one more caller look for work; it wakes the next one itself when it finds more than it takes.

        One at a time, so that calls which never wait are all made by one caller instead of waking 256.
        """
        if self.waking:
            return
        if self.idle:
            self.waking = True
            self.idle.pop().wake()
        elif len(self.callers) < self._most:
            self.waking = True
            caller = Caller(self)
            self.callers.append(caller)
            caller.task = asyncio.get_running_loop().create_task(
                self._work(caller), name=f"{self.name}:{len(self.callers)}", context=Context()
            )  # an empty context: callers are shared, and outlive the run that happens to start them

    async def _work(self, caller: Caller) -> None:
        """Make calls until the pool ends, and let the event loop have its turn between them."""
        loop = asyncio.get_running_loop()
        made = 0
        self.waking = False
        try:
            while not caller.ended:
                if not self.queue or self._pacing:
                    caller.lane = None
                    self.idle.append(caller)
                    await caller.sleep(loop)
                    if caller.ended:
                        return
                    self.waking = False
                    made = 0
                    continue
                if self.spacing is not None:
                    await self._pace(caller, self.spacing.reserve(loop.time()))
                    if caller.ended or not self.queue:
                        continue
                    made = SLICE - 1
                made += await caller.make_calls(SLICE - made)
                if caller.waited:
                    made = 0
                elif made >= SLICE:
                    made = 0
                    caller.lane = None
                    await asyncio.sleep(0)
        finally:
            if caller in self.callers:  # somebody else cancelled it
                self.callers.remove(caller)
                self.idle[:] = [idle for idle in self.idle if idle is not caller]
                self.waking = False
                if self.queue and not all(task.cancelling() for task in asyncio.all_tasks()):
                    self.wake()

    async def _pace(self, caller: Caller, seconds: float) -> None:
        """Wait for the moment of the next call; the end of the pool ends the wait.

        No call is taken from its lane before the wait, so a run that ends meanwhile need not wait for it. One caller
        waits for all: if several reserved moments, those for which no call was left by then would be lost.
        """
        caller.lane = None
        self._pacing = True
        try:
            await asyncio.wait((caller.sleep(asyncio.get_running_loop()),), timeout=seconds)
        finally:
            if not caller.ended:
                self._pacing = False


def _clock_of(loop: asyncio.AbstractEventLoop) -> Callable[[], float]:
    """The clock of a loop, without the method around it if it is asyncio's own: that costs more than the clock."""
    own = getattr(type(loop), "time", None) is asyncio.BaseEventLoop.time
    return time.monotonic if own else loop.time
