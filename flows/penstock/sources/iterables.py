"""Sources of values that Python code makes: an iterable, an async iterable, ticks of a clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable, Iterable
from itertools import islice
from typing import Any, TypeVar

from penstock.sources.source import Intake, Source

T = TypeVar("T")

SLICE = 256
"""Elements made in one go before the event loop gets its turn."""


class FromIterable(Source[T]):
    """The values of an iterable, which is advanced only as far as there are credits.

    An iterable that blocks (a file, a cursor) blocks the event loop: use an async iterable for those.
    """

    name = "iterable"

    def __init__(self, values: Iterable[T], size: Callable[[T], int] | None = None) -> None:
        super().__init__()
        self._values = values
        self._size = size

    async def produce(self, intake: Intake[T]) -> None:
        values = iter(self._values)
        error: Exception | None = None
        while error is None:
            chunk: list[T] = []
            try:
                chunk.extend(islice(values, min(await intake.room(), SLICE)))
            except Exception as broke:  # what it gave before it broke is still taken
                error = broke
            await intake.send(chunk, [self._size(value) for value in chunk] if self._size else None)
            if not chunk:
                break
            await asyncio.sleep(0)
        if error is not None:
            raise error


class FromAsyncIterable(Source[T]):
    """The values of an async iterable, each asked for only when there is a credit for it, and closed at the end."""

    name = "async iterable"

    def __init__(self, values: AsyncIterable[T], size: Callable[[T], int] | None = None) -> None:
        super().__init__()
        self._values = values
        self._size = size

    async def produce(self, intake: Intake[T]) -> None:
        values = aiter(self._values)
        try:
            await intake.room()
            async for value in values:
                await intake.send((value,), (self._size(value),) if self._size else None)
                await intake.room()
        finally:
            if (close := getattr(values, "aclose", None)) is not None:
                await close()


def from_iterable(values: Iterable[T], *, size: Callable[[T], int] | None = None) -> Source[T]:
    """A source of the values of an iterable. `size` tells the bytes that a value counts for (default: none)."""
    return FromIterable(values, size)


def from_async_iterable(values: AsyncIterable[T], *, size: Callable[[T], int] | None = None) -> Source[T]:
    """A source of the values of an async iterable. `size` tells the bytes that a value counts for (default: none)."""
    return FromAsyncIterable(values, size)


def ticks(seconds: float, count: int | None = None) -> Source[int]:
    """The numbers 0, 1, 2 …, one every `seconds`, `count` of them or without end.

    A tick that finds no credit waits; ticks that were missed meanwhile are skipped, not made up for.
    """
    if seconds <= 0:
        raise ValueError(f"ticks need a time above 0 seconds between them, got {seconds!r}")

    async def clock() -> Any:
        loop = asyncio.get_running_loop()
        start = loop.time()
        number = 0
        while count is None or number < count:
            yield number
            number += 1
            passed = int((loop.time() - start) / seconds + 1e-6)  # a timer may fire a hair too early
            await asyncio.sleep(start + (passed + 1) * seconds - loop.time())

    return FromAsyncIterable(Ticks(clock))


class Ticks(AsyncIterable[int]):
    """An async iterable that starts its clock anew for each run."""

    def __init__(self, clock: Callable[[], Any]) -> None:
        self._clock = clock

    def __aiter__(self) -> Any:
        return self._clock()
