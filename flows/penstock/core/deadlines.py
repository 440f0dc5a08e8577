"""Deadlines: how long an element may take, from the moment its source emits it, and how long its whole run may take.

A deadline is a time of the event loop's clock. It is checked where elements wait for services and before each attempt
of a call. A function that is called can ask how much time remains.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import Any

from msgspec import Struct

from penstock.core.element import NEVER, Element

CALL_DEADLINE: ContextVar[tuple[float, Callable[[], float]] | None] = ContextVar("penstock_call_deadline", default=None)
"""The deadline of the call of a service that is being made, and the clock that it belongs to."""


def remaining_seconds() -> float | None:
    """Return the seconds until the deadline of the current call of a service; None if it has no deadline.

    For the function of a service, to shorten its own waits or to forward the deadline. 0.0 if the deadline has passed.
    """
    deadline = CALL_DEADLINE.get()
    return None if deadline is None else max(0.0, deadline[0] - deadline[1]())


class RunDeadline(Struct, frozen=True):
    """The deadline of a whole run."""

    seconds: float
    """How long the run may take."""
    at: float
    """When that time is over."""


class Deadlines(Struct, frozen=True):
    """The deadlines of one run: `seconds` for each element, from its source on, and that of the whole run."""

    seconds: float | None = None
    run: RunDeadline | None = None

    def start(self, elements: Iterable[Element[Any]], now: float) -> None:
        """Set the deadlines of elements that are emitted now: the earlier one of both."""
        deadline = NEVER if self.seconds is None else now + self.seconds
        if self.run is not None and self.run.at < deadline:
            deadline = self.run.at
        for element in elements:
            element.deadline = deadline

    def seconds_of(self, deadline: float) -> float:
        """Return how long an element with this deadline might take."""
        if self.run is not None and (deadline == self.run.at or self.seconds is None):
            return self.run.seconds
        return self.seconds or 0.0


class ExpiryTimer:
    """Calls back when the earliest deadline of several passes.

    `expire` receives the time, handles what has expired and returns when to check again, or `NEVER`.
    """

    __slots__ = ("_at", "_expire", "_loop", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, expire: Callable[[float], float]) -> None:
        self._loop = loop
        self._expire = expire
        self._at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, deadline: float) -> None:
        """Call back at this deadline too."""
        if deadline == NEVER or (self._timer is not None and self._at <= deadline):
            return
        self.stop()
        self._at = deadline
        self._timer = self._loop.call_at(deadline, self._fire)

    def stop(self) -> None:
        """Do not call back."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fire(self) -> None:
        self._timer = None
        self.watch(self._expire(self._loop.time() + 1e-9))  # tolerates clock rounding
