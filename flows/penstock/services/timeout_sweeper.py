"""One timer for the timeouts and deadlines of all calls of a service."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Protocol

from penstock.core.fairness import Deadline
from penstock.services.attempt_errors import CancelReason


class CallInFlight(Protocol):
    """A call that has started and has not ended."""

    started_at: float
    overdue: float
    """Seconds that it had taken when `started_at` was last moved, because of its timeout."""
    cancels: int
    """How often it was cancelled."""

    @property
    def next_deadline(self) -> float:
        """Its deadline, if it was not cancelled."""
        ...

    def time_out(self, reason: CancelReason) -> None:
        """Cancel it because it takes too long. A call that was cancelled before is cancelled again."""
        ...


class TimeoutSweeper:
    """Cancels calls that exceed the timeout or their deadline, and again after each further timeout.

    One timer serves all calls of a bulkhead: a timer for each call would cost more than most calls do. `in_flight`
    returns them. `on_stuck` is called when calls that were cancelled before are cancelled again: they do not count as
    probes any more.
    """

    __slots__ = ("_due", "_in_flight", "_on_stuck", "_timeout", "timer")

    def __init__(
        self, timeout: float, in_flight: Callable[[], Collection[CallInFlight]], on_stuck: Callable[[], None]
    ) -> None:
        self._timeout = timeout
        self._in_flight = in_flight
        self._on_stuck = on_stuck
        self.timer: Deadline | None = None
        """Set when a call starts, if it is not set. It stays when the last call ends: the next call needs it again."""

    def watch(self, since: float, loop: asyncio.AbstractEventLoop) -> None:
        """Watch all calls, the oldest of which started at `since`."""
        self._due = since + self._timeout
        self.timer = Deadline(loop, self._due, lambda: self._check(loop))

    def watch_deadline(self, deadline: float, loop: asyncio.AbstractEventLoop) -> None:
        """Watch a call that must end at its deadline, if that is earlier."""
        if deadline < self._due and self.timer is not None:
            self.timer.cancel()
            self._due = deadline
            self.timer = Deadline(loop, deadline, lambda: self._check(loop))

    def stop(self) -> None:
        """Stop watching."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def _check(self, loop: asyncio.AbstractEventLoop) -> None:
        self.timer = None
        now = loop.time() + 1e-9
        stuck = False
        for call in self._in_flight():
            due, deadline = call.started_at + self._timeout, call.next_deadline
            if min(due, deadline) <= now:
                call.time_out(CancelReason.TIMED_OUT if due <= deadline else CancelReason.DEADLINE)
                call.overdue += loop.time() - call.started_at
                call.started_at = loop.time()
                stuck = stuck or call.cancels > 1
        if calls := self._in_flight():
            self.watch(min(now, *(call.started_at for call in calls)), loop)
            self.watch_deadline(min(call.next_deadline for call in calls), loop)
        if stuck:
            self._on_stuck()
