"""Limit the rate at which the letters of a job are started. The rate can change at any time."""

from __future__ import annotations

import asyncio

BURST_SECONDS = 0.1
"""A pause of the process is made up for by at most the letters of this time."""


class Pacer:
    """A token bucket: `rate` letters per second, None for no limit."""

    def __init__(self, rate: float | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._rate = rate
        self._tokens = 1.0
        self._at = self._loop.time()
        self._changed = asyncio.Event()
        self._closed = False

    @property
    def rate(self) -> float | None:
        """Letters per second."""
        return self._rate

    def set_rate(self, rate: float | None) -> None:
        """Change the rate; a caller that waits continues with the new one."""
        if rate != self._rate:
            self._refill()
            self._rate = rate
            self._changed.set()

    def close(self) -> None:
        """Let nothing more begin: `take` returns 0."""
        self._closed = True
        self._changed.set()

    async def take(self, count: int) -> int:
        """Wait until at least one of `count` letters may start; return how many may. Returns 0 after `close`."""
        while not self._closed:
            if self._rate is None:
                return count
            self._refill()
            if taken := min(count, int(self._tokens + 1e-9)):
                self._tokens -= taken
                return taken
            self._changed.clear()
            try:
                async with asyncio.timeout((1 - self._tokens) / self._rate):
                    await self._changed.wait()
            except TimeoutError:
                pass
        return 0

    def _refill(self) -> None:
        now = self._loop.time()
        if self._rate is not None:
            capacity = max(1.0, self._rate * BURST_SECONDS)
            self._tokens = min(capacity, self._tokens + (now - self._at) * self._rate)
        self._at = now
