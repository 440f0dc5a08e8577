"""The sink of `flow.stream()`: results one by one, as the consumer asks for them."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from msgspec import Struct

from penstock.core.element import Element, Failure
from penstock.results.consumer import ResultConsumer


class Result(Struct, frozen=True):
    """What became of one element."""

    ok: bool
    seq: int
    value: Any = None
    """What the flow made of it, if it is ok."""
    failure: Failure | None = None
    """Why it is not."""
    key: Any = None
    part: int | None = None
    dead_letter: str | None = None
    """The id of its dead letter."""

    @classmethod
    def of(cls, element: Element[Any]) -> Result:
        ok = element.ok
        return cls(
            ok,
            element.seq,
            element.value if ok else None,
            element.failure,
            element.key,
            element.part,
            element.dead_letter_id,
        )


class ResultStream(ResultConsumer):
    """Keeps results until they are asked for, and settles each when it is handed over."""

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

    async def next(self) -> Result | None:
        """The next result; None when there is none any more."""
        while not self._waiting:
            if self._ended:
                if self._scope is not None:  # a run that broke before it began has not opened it
                    self.complete()
                return None
            self._arrived.clear()
            await self._arrived.wait()
        element = self._waiting.popleft()
        result = Result.of(element)
        self.scope.ledger.settle_accepted([element])
        return result
