"""Detect clients that stall."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import TypeVar

from aiohttp import web

from penstock.core.fairness import Stopwatch

CHECK_SECONDS = 0.25
"""Seconds between two checks of a client, so that a disconnect is noticed well within one second."""

T = TypeVar("T")


class StallDetector:
    """Detects that a client transfers too few bytes: a leaky bucket of the seconds spent waiting for it.

    Each second of waiting fills the bucket by one, each byte empties it by `1 / min_rate`. The client stalls when it
    reaches `timeout`. So a client that sends nothing, reads nothing, or does either at one byte per second stalls; one
    that pauses for less than `timeout` does not. If `min_rate` is 0, any byte empties the bucket.
    """

    def __init__(self, timeout: float, min_rate: float) -> None:
        self._timeout = timeout
        self._min_rate = min_rate
        self.waited = 0.0
        """The level of the bucket, in seconds."""

    def record_bytes(self, bytes: int) -> None:
        """Record bytes that were sent or received."""
        if bytes:
            self.waited = max(0.0, self.waited - bytes / self._min_rate) if self._min_rate else 0.0

    def add_wait(self, seconds: float) -> bool:
        """Add time that was spent waiting for the client. Returns whether the client stalls."""
        self.waited += seconds
        return self.waited >= self._timeout

    async def write(self, writing: Awaitable[None], bytes: int) -> None:
        """Wait until the client has accepted written bytes. Raises `TimeoutError` if it stalls."""
        await self._wait(writing)
        self.record_bytes(bytes)

    async def read(self, request: web.BaseRequest) -> AsyncIterator[bytes]:
        """Iterate over the chunks of a body. Raises `TimeoutError` if the client stalls."""
        while data := await self._wait(request.content.readany()):
            self.record_bytes(len(data))
            yield data

    async def _wait(self, work: Awaitable[T]) -> T:
        """Wait for the client. Raises `TimeoutError` if it stalls."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(None) as limit:

            def check(seconds: float) -> bool:
                stalls = self.add_wait(seconds)
                if stalls:
                    limit.reschedule(loop.time())
                return not stalls

            stopwatch = Stopwatch(loop, CHECK_SECONDS, check)
            try:
                return await work
            finally:
                self.waited += stopwatch.stop()
