"""How long calls may take: one timer for all of a bulkhead, because one for each would cost more than most calls do."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from penstock.turns import Deadline

if TYPE_CHECKING:
    from penstock.services.caller import Caller


class Timeouts:
    """Cancels the calls that have taken too long, and again after each further timeout."""

    __slots__ = ("_callers", "seconds", "timer")

    def __init__(self, seconds: float, callers: Sequence[Caller]) -> None:
        self.seconds = seconds
        self.timer: Deadline | None = None
        """Set when a call begins and there is none. The last call's end leaves it: the next call needs it again."""
        self._callers = callers

    def look_after(self, since: float, loop: asyncio.AbstractEventLoop) -> None:
        """Look after all calls, of which the oldest began at `since`."""
        self.timer = Deadline(loop, since + self.seconds, lambda: self._check(loop))

    def stop(self) -> None:
        """Look after nobody any more."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def _check(self, loop: asyncio.AbstractEventLoop) -> None:
        self.timer = None
        now = loop.time() + 1e-9
        busy = [caller for caller in self._callers if caller.lane is not None]
        for caller in busy:
            if caller.since + self.seconds <= now:
                caller.time_out()
                caller.since = loop.time()
        if busy:
            self.look_after(min(now, *(caller.since for caller in busy)), loop)
