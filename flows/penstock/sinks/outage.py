"""The outage of a sink whose server cannot be reached: when to try again, how long values wait, and what is logged."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

from penstock.errors import SinkUnavailable, describe
from penstock.services import Backoff
from penstock.support.logger import get_logger

log = get_logger()

BACKOFF = Backoff(first=0.1, cap=5.0)
"""The wait before a sink is tried again that could not be opened, or whose server could not be reached."""

NOTICES = (0.0, 10.0, 60.0)
"""Seconds of a wait after which a warning is logged."""

NOTICE_PERIOD = 300.0
"""Seconds between further warnings."""

CLOCK_ERROR = 1e-6
"""Seconds by which timers may be early, and computed times may differ."""


class Outage:
    """The state of one sink: reachable, or not since a time.

    While the server cannot be reached, no value is at fault: values wait, their credits are held, and so sources pause.
    All runs that use the sink wait for the same attempt.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, rng: random.Random) -> None:
        self.waiting = 0
        """Writes that wait now."""
        self._loop = loop
        self._rng = rng
        self._since: float | None = None
        self._attempts = 0
        self._retry_at = 0.0
        self._error: Exception | None = None
        self._notices = 0

    @property
    def is_on(self) -> bool:
        """Whether the last attempts could not reach the server."""
        return self._since is not None

    @property
    def seconds(self) -> float:
        """How long values have been waiting for the server; 0 if none waits."""
        return 0.0 if self._since is None or not self.waiting else self._loop.time() - self._since

    @property
    def holds(self) -> bool:
        """Whether the next attempt is not due yet."""
        return self._since is not None and self._loop.time() < self._retry_at - CLOCK_ERROR

    def record_failure(self, sink: str, error: Exception) -> None:
        """Record an attempt that failed because the server cannot be reached."""
        now = self._loop.time()
        if self._since is None:
            self._since, self._attempts, self._notices = now, 0, 0
        self._attempts += 1
        self._error = error
        wait = BACKOFF.seconds(self._attempts, self._rng)
        self._retry_at = now + wait
        if (waited := now - self._since) >= notice_after(self._notices):
            self._notices += 1
            fields = {"attempts": self._attempts, "waited": round(waited, 3), "retry_in": round(wait, 3)}
            log.warning("sink.unreachable", sink=sink, error=describe(error), **fields)

    def record_success(self, sink: str) -> None:
        """Record the end of the outage: a value was written."""
        assert self._since is not None
        seconds = round(self._loop.time() - self._since, 3)
        log.info("sink.reachable", sink=sink, seconds=seconds, attempts=self._attempts)
        self._since = self._error = None

    async def wait(self, until: float) -> None:
        """Wait for the next attempt, at most until a time."""
        self.waiting += 1
        try:
            await asyncio.sleep(max(0.0, min(self._retry_at, until) - self._loop.time()))
        finally:
            self.waiting -= 1

    def expire(
        self, sink: str, waiting: Sequence[int], give_up_at: Sequence[float], since: float, results: list[Any]
    ) -> list[int]:
        """Fail the values that have waited for too long. Return the others.

        `waiting` are positions in `give_up_at` and `results`; all values wait since `since`.
        """
        now = self._loop.time()
        rest = [each for each in waiting if give_up_at[each] > now + CLOCK_ERROR]
        if expired := set(waiting).difference(rest):
            assert self._error is not None
            waited = round(now - since, 3)
            log.warning("sink.waits_expired", sink=sink, values=len(expired), seconds=waited)
            for each in expired:
                results[each] = SinkUnavailable(sink, self._error, waited)
        return rest


def notice_after(notices: int) -> float:
    """Return after how many seconds of a wait the next warning is due, given the number of earlier ones."""
    more = notices - len(NOTICES)
    return NOTICES[notices] if more < 0 else NOTICES[-1] + NOTICE_PERIOD * (more + 1)
