"""Counts the batches of a consumer that are not acknowledged, to wait for them."""

from __future__ import annotations

import asyncio


class OpenBatches:
    """The number of open batches. The last one to be acknowledged ends the waiting."""

    def __init__(self) -> None:
        self._count = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def begin(self) -> None:
        """Count a batch that was handed out."""
        self._count += 1
        self._idle.clear()

    def end(self) -> None:
        """Count a batch that was acknowledged, or lost to another consumer."""
        self._count -= 1
        if not self._count:
            self._idle.set()

    async def wait(self) -> None:
        """Wait until no batch is open."""
        await self._idle.wait()
