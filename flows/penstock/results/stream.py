"""Return results one by one, for `flow.stream()`."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from penstock.core.element import Element
from penstock.results.consumer import ResultConsumer
from penstock.results.result import Result, result_of


class ResultStream(ResultConsumer):
    """Buffers results until they are requested, and settles each one when it is returned."""

    def __init__(self) -> None:
        super().__init__()
        self._waiting: deque[Element[Any]] = deque()
        self._arrived = asyncio.Event()
        self._ended = False

    def on_next(self, value: list[Element[Any]]) -> None:
        self._waiting.extend(value)
        self._arrived.set()

    def on_completed(self) -> None:
        self._ended = True
        self._arrived.set()

    def close(self) -> None:
        self._waiting.clear()
        self.on_completed()

    async def next(self) -> Result[Any] | None:
        """Return the next result, or None after the last one."""
        while not self._waiting:
            if self._ended:
                if self._context is not None:  # a run that failed before it started has not opened the stream
                    self.complete()
                return None
            self._arrived.clear()
            await self._arrived.wait()
        element = self._waiting.popleft()
        result = result_of(element)
        self.context.ledger.settle_accepted([element])
        return result
