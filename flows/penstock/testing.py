"""Test flows in virtual time: an event loop whose clock jumps to the next timer instead of waiting for it.

>>> import asyncio
>>> run(asyncio.sleep(3600, result="an hour later"))
'an hour later'
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Executor
from contextvars import Context
from itertools import count
from typing import Any, TypeVar, TypeVarTuple

THREAD_TIMEOUT = 5.0
"""Real seconds that a call in a thread may take before the clock continues without it."""

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class VirtualTimeSelector(selectors.BaseSelector):
    """Polls for events without waiting. Where asyncio would wait for a timer, it advances the clock instead."""

    def __init__(self) -> None:
        self._inner = selectors.DefaultSelector()
        self.now = 0.0
        self.threads = 0
        """Calls in threads that have not returned."""
        self.abandoned = 0
        """How many of them took too long, so that the clock continues without them."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return pending events. Without a timer to jump to, or while a thread works, wait for one."""
        if timeout is None:
            return self._inner.select(None)
        waits = self.threads > self.abandoned and timeout > 0
        events = self._inner.select(THREAD_TIMEOUT if waits else 0)
        if waits and not events:
            self.abandoned = self.threads
        if not events:
            self.now += max(0.0, timeout)
        return events

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._inner.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._inner.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._inner.modify(fileobj, events, data)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._inner.get_map()

    def close(self) -> None:
        self._inner.close()


class OrderedTime(float):
    """The time of a timer. Of two timers at the same time, the one that was set first is earlier.

    asyncio keeps timers in a heap, which returns equal ones in any order. In virtual time many are equal.
    """

    number: int

    @classmethod
    def of(cls, when: float, number: int) -> OrderedTime:
        """Return the time of the timer that was set as number `number`."""
        moment = cls(when)
        moment.number = number
        return moment

    def __lt__(self, other: float) -> bool:
        if isinstance(other, OrderedTime) and self == other:
            return self.number < other.number
        return super().__lt__(other)


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop that starts at 0 seconds and never waits for its timers. Equal timers fire in the order of
    creation.

    For code that waits for timers, queues, other tasks, and calls in threads: files, blocking services, letters that
    are written to SQLite. While such a call works, no time passes, unless it takes more than 5 real seconds. Code that
    waits for a socket or another process while a timer is pending sees the timer fire first: use an ordinary loop for
    such tests.
    """

    def __init__(self) -> None:
        self._selector_clock = VirtualTimeSelector()
        self._numbers = count()
        super().__init__(self._selector_clock)

    def time(self) -> float:
        """Return the seconds of virtual time since the loop was created."""
        return self._selector_clock.now

    def spend(self, seconds: float) -> None:
        """Let time pass within an iteration, as code that blocks the loop does."""
        self._selector_clock.now += seconds

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Set a timer."""
        return super().call_at(OrderedTime.of(when, next(self._numbers)), callback, *args, context=context)

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        """Make a call in a thread. No virtual time passes until it returns."""
        future = super().run_in_executor(executor, func, *args)
        self._selector_clock.threads += 1
        future.add_done_callback(self._returned)
        return future

    def _returned(self, _: asyncio.Future[Any]) -> None:
        clock = self._selector_clock
        clock.threads -= 1
        clock.abandoned = min(clock.abandoned, clock.threads)

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ARG002 - see below
        """Wait until the threads of the default executor have ended, as long as that takes in real time.

        Since Python 3.12 `asyncio.Runner` passes a timeout of 300 seconds. Its timer would be the only one, so the
        virtual clock would jump to it and asyncio would give up at once.
        """
        await super().shutdown_default_executor()

    def timers(self) -> list[asyncio.TimerHandle]:
        """Return the timers that have not fired yet."""
        scheduled: list[asyncio.TimerHandle] = getattr(self, "_scheduled", [])
        return [timer for timer in scheduled if not timer.cancelled()]


def run(main: Coroutine[Any, Any, T], *, debug: bool | None = None) -> T:
    """Run a coroutine in virtual time, like `asyncio.run`."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop, debug=debug) as runner:
        return runner.run(main)
