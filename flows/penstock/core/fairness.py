"""Turns of the event loop, which all runs of a process share: a large run steps aside while others begin.

A large run keeps the loop busy: every turn works on hundreds of its elements. A small one beside it needs about a dozen
turns from its request to its answer, and would wait for the large one's work in each of them. So for a while after a
run began beside others, those that are large already give out less at a time, and let turns go by in between.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from time import perf_counter

LATE = 0.25
"""Seconds after its time at which a timer counts as late: the process was paused, or its event loop was blocked."""

SETTLE_SECONDS = 0.1
"""Seconds in which the event loop reads what arrived before a late timer."""

LARGE_RUN = 1024
"""Elements after which a run counts as large."""

BATCH_WHILE_YIELDING = 128
"""Elements that a large run gives out at a time while it steps aside."""

YIELD_ITERATIONS = 12
"""Turns that it lets go by in between: its elements are through by the fourth, the others are for who else is there.

Measured with requests of 10 orders, one after another, during an upload of 1,000,000 that waits for no service: their
p99 was 4 to 6 times what it is alone without stepping aside, 4.5 with 4 turns, 2.5 with 12, 2.3 with 20, and 1.5 with
12 turns and shares of 128. An upload beside which a request begins every half second takes 15 % longer for it.
"""

YIELD_SECONDS = 1.0
"""Seconds after which a run that began beside others is no reason to step aside any more."""


BUSY_SECONDS = 0.05
"""Seconds of synchronous work in one iteration of the event loop after which further slices wait for the next one."""


class FairScheduler:
    """Tells large runs when to step aside. Runs that share an event loop share one of these."""

    __slots__ = ("_busy_until", "_open", "_scheduled", "_until", "_waiting")

    def __init__(self) -> None:
        self._open = 0
        self._until = 0.0
        self._busy_until: float | None = None
        """When the work of this iteration has taken its time; None before the first question in it."""
        self._waiting: deque[Callable[[], None]] = deque()
        self._scheduled = False

    def begin(self, now: float) -> None:
        """A run begins, at a time of the event loop's clock."""
        if self._open:
            self._until = now + YIELD_SECONDS
        self._open += 1

    def end(self) -> None:
        """A run is over."""
        self._open -= 1

    def is_spent(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether slices of work have taken their time in this iteration of the event loop."""
        now = perf_counter()
        if self._busy_until is None:
            self._busy_until = now + BUSY_SECONDS
            loop.call_soon(self._end_iteration)
        return now > self._busy_until

    def call_later(self, work: Callable[[], None], loop: asyncio.AbstractEventLoop) -> None:
        """Call `work` in a later iteration of the event loop, after the work of others that waits already."""
        self._waiting.append(work)
        self._schedule(loop)

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._do_waiting, loop)

    def _do_waiting(self, loop: asyncio.AbstractEventLoop) -> None:
        """Do what waits, one piece at least, until the time of this iteration is spent."""
        self._scheduled = False
        while self._waiting:
            self._waiting.popleft()()
            if self.is_spent(loop):
                break
        if self._waiting:
            self._schedule(loop)

    def _end_iteration(self) -> None:
        self._busy_until = None

    def should_yield(self, now: float) -> bool:
        """Whether another run began lately."""
        return now < self._until


async def yield_iterations() -> None:
    """Let the event loop turn without this task."""
    for _ in range(YIELD_ITERATIONS):
        await asyncio.sleep(0)


class Deadline:
    """Calls back at a time of the event loop, like `loop.call_at`, for deadlines of something outside of the process.

    After a pause of the process (SIGSTOP, a suspended machine) timers run before sockets are read. A deadline that is
    late therefore waits `SETTLE_SECONDS` once: what arrived in time then counts as in time.
    """

    __slots__ = ("_callback", "_handle", "_loop", "_when")

    def __init__(self, loop: asyncio.AbstractEventLoop, when: float, callback: Callable[[], object]) -> None:
        self._loop = loop
        self._when = when
        self._callback = callback
        self._handle = loop.call_at(when, self._expire)

    def cancel(self) -> None:
        """Do not call back any more."""
        self._handle.cancel()

    def _expire(self) -> None:
        if self._loop.time() - self._when > LATE:
            self._handle = self._loop.call_later(SETTLE_SECONDS, self._callback)
        else:
            self._callback()


class Stopwatch:
    """Measures waiting for something outside of the process, in intervals, without the time of pauses of the process.

    Calls `check` with the seconds of each interval until that returns False. An interval counts as `period` seconds at
    most, however long it was. After a late timer it is checked only when sockets were read, as with `Deadline`.
    """

    __slots__ = ("_began", "_check", "_deadline", "_loop", "_period")

    def __init__(self, loop: asyncio.AbstractEventLoop, period: float, check: Callable[[float], bool]) -> None:
        self._loop = loop
        self._period = period
        self._check = check
        self._start()

    def stop(self) -> float:
        """Check no longer; returns the seconds since the last check, `period` at most."""
        self._deadline.cancel()
        return self._seconds()

    def _start(self) -> None:
        self._began = self._loop.time()
        self._deadline = Deadline(self._loop, self._began + self._period, self._tick)

    def _tick(self) -> None:
        if self._check(self._seconds()):
            self._start()

    def _seconds(self) -> float:
        return min(self._loop.time() - self._began, self._period)
