"""One task of a service's pool, and how its call is ended without ending the task."""

from __future__ import annotations

import asyncio
from enum import Enum
from typing import cast

from penstock.services.lane import Lane


class Verdict(Enum):
    """Why a worker's call was cancelled."""

    TIMED_OUT = "the call took too long"
    LEFT = "the run that asked is over"


class Worker:
    """One task of the pool, and the call it makes."""

    __slots__ = ("_sleep", "cancels", "ended", "free", "lane", "since", "task", "verdict", "waited")

    def __init__(self) -> None:
        self.task: asyncio.Task[None] = cast("asyncio.Task[None]", None)
        self.lane: Lane | None = None
        self.since = 0.0
        self.verdict: Verdict | None = None
        self.waited = False
        """Whether the last call waited, so that the event loop has turned since it began."""
        self.cancels = 0
        self.ended = False
        self.free = asyncio.Event()
        self._sleep: asyncio.Future[None] | None = None

    def sleep(self, loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
        """What to await until there may be work."""
        self._sleep = loop.create_future()
        return self._sleep

    def wake(self) -> None:
        """There may be work."""
        if self._sleep is not None and not self._sleep.done():
            self._sleep.set_result(None)

    def cancel(self, verdict: Verdict) -> None:
        """End the call under way, but not the worker."""
        self.free.clear()
        self.task.cancel()
        self.cancels += 1
        self.verdict = verdict
