"""How slow a client may be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import TypeVar

from aiohttp import web

from penstock.core.fairness import Stopwatch

PERIOD = 0.25
"""Seconds between two checks of a client: one that left is noticed well within one second."""

T = TypeVar("T")


class StallDetector:
    """Whether a client still moves: time spent waiting for it, less the time that its bytes are worth.

    A leaky bucket: each second of waiting fills it by one, each byte empties it by 1 / rate, and it overflows at
    `stall` seconds. So a client that sends nothing, reads nothing, or does either at one byte a second overflows it,
    and one that pauses for less than `stall` does not.
    """

    def __init__(self, stall: float, rate: float) -> None:
        self._stall = stall
        self._rate = rate
        self.waited = 0.0

    def record_bytes(self, bytes: int) -> None:
        """Count bytes that went either way."""
        if bytes:
            self.waited = max(0.0, self.waited - bytes / self._rate) if self._rate else 0.0

    def add_wait(self, seconds: float) -> bool:
        """Count time that was spent waiting for the client; returns whether it was too much."""
        self.waited += seconds
        return self.waited >= self._stall

    async def write(self, writing: Awaitable[None], bytes: int) -> None:
        """Wait until a client takes what is written to it; raises `TimeoutError` when it stalls."""
        await self._wait(writing)
        self.record_bytes(bytes)

    async def read(self, request: web.BaseRequest) -> AsyncIterator[bytes]:
        """What a client sends before its stream begins; raises `TimeoutError` when it stalls."""
        while data := await self._wait(request.content.readany()):
            self.record_bytes(len(data))
            yield data

    async def _wait(self, work: Awaitable[T]) -> T:
        """Wait for a client; raises `TimeoutError` when it stalls."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(None) as limit:

            def check(seconds: float) -> bool:
                stalls = self.add_wait(seconds)
                if stalls:
                    limit.reschedule(loop.time())
                return not stalls

            watch = Stopwatch(loop, PERIOD, check)
            try:
                return await work
            finally:
                self.waited += watch.stop()
