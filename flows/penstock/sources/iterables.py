"""Sources of values that Python code makes: an iterable, an async iterable, a function, ticks of a clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable, Iterable
from dataclasses import dataclass
from inspect import isgenerator
from itertools import count, islice
from typing import TypeVar

from penstock.errors import SourceExhausted
from penstock.sources.source import Emitter, Source

T = TypeVar("T")

NEGATIVE = "there cannot be {!r} values; count from 0 on"

SLICE = 256
"""Elements made in one go before the event loop gets its turn."""


class FromIterable(Source[T]):
    """The values of an iterable, which is advanced only as far as there are credits.

    An iterable that blocks (a file, a cursor) blocks the event loop: use an async iterable for those. One that is an
    iterator itself, such as a generator, has its values once: a run after it ended breaks with `SourceExhausted`.
    """

    name = "iterable"

    def __init__(self, values: Iterable[T], size: Callable[[T], int] | None = None) -> None:
        super().__init__()
        self._values = values
        self._size = size
        self._over = False
        """Whether the values are an iterator that has come to its end."""

    async def produce(self, intake: Emitter[T]) -> None:
        values = iter(self._values)
        if self._over:
            raise SourceExhausted("iterator")
        error: Exception | None = None
        while error is None:
            chunk: list[T] = []
            try:
                chunk.extend(islice(values, min(await intake.wait_for_capacity(), SLICE)))
            except Exception as broke:  # what it gave before it broke is still taken
                error = broke
            if (not chunk) if error is None else isgenerator(values):  # a generator that broke has ended
                self._over = values is self._values
            await intake.send(chunk, [self._size(value) for value in chunk] if self._size else None)
            if not chunk:
                break
            await asyncio.sleep(0)
        if error is not None:
            raise error


class FromAsyncIterable(Source[T]):
    """The values of an async iterable, each asked for only when there is a credit for it, and closed at the end.

    An async iterator, such as an async generator, has its values once: a run after it ended breaks with
    `SourceExhausted`.
    """

    name = "async iterable"

    def __init__(self, values: AsyncIterable[T], size: Callable[[T], int] | None = None) -> None:
        super().__init__()
        self._values = values
        self._size = size
        self._over = False
        """Whether the values are an iterator that has come to its end."""

    async def produce(self, intake: Emitter[T]) -> None:
        values = aiter(self._values)
        if self._over:
            raise SourceExhausted("async iterator")
        try:
            await intake.wait_for_capacity()
            async for value in values:
                await intake.send((value,), (self._size(value),) if self._size else None)
                await intake.wait_for_capacity()
            self._over = values is self._values
        finally:
            if (close := getattr(values, "aclose", None)) is not None:
                self._over = values is self._values
                await close()


def from_iterable(values: Iterable[T], *, size: Callable[[T], int] | None = None) -> Source[T]:
    """A source of the values of an iterable. `size` tells the bytes that a value counts for (default: none)."""
    return FromIterable(values, size)


def from_async_iterable(values: AsyncIterable[T], *, size: Callable[[T], int] | None = None) -> Source[T]:
    """A source of the values of an async iterable. `size` tells the bytes that a value counts for (default: none)."""
    return FromAsyncIterable(values, size)


@dataclass(unsafe_hash=True)
class Generated(Source[T]):
    """Values that a function makes of the numbers from 1 to a count."""

    name = "generated"

    total: int
    make: Callable[[int], T]

    def __post_init__(self) -> None:
        super().__init__()

    async def produce(self, intake: Emitter[T]) -> None:
        await FromIterable(map(self.make, range(1, self.total + 1))).produce(intake)


@dataclass(unsafe_hash=True)
class Ticks(Source[int]):
    """The numbers from 0 on, on the beat of a clock that each run starts anew."""

    name = "ticks"

    seconds: float
    total: int | None = None

    def __post_init__(self) -> None:
        super().__init__()

    async def produce(self, intake: Emitter[int]) -> None:
        loop = asyncio.get_running_loop()
        start = loop.time()
        for number in islice(count(), self.total):
            await intake.send((number,))
            await intake.wait_for_capacity()
            if number + 1 == self.total:
                return
            passed = int((loop.time() - start) / self.seconds + 1e-6)  # a timer may fire a hair too early
            await asyncio.sleep(start + (passed + 1) * self.seconds - loop.time())


def generate(count: int, make: Callable[[int], T]) -> Source[T]:
    """A source of `count` values: `make(1)`, `make(2)` … `make(count)`. `make` is plain and quick."""
    if count < 0:
        raise ValueError(NEGATIVE.format(count))
    return Generated(count, make)


def ticks(seconds: float, count: int | None = None) -> Source[int]:
    """The numbers 0, 1, 2 …, one every `seconds`, `count` of them or without end.

    A tick that finds no credit waits; ticks that were missed meanwhile are skipped, not made up for.
    """
    if not seconds > 0:
        raise ValueError(f"ticks need a time above 0 seconds between them, got {seconds!r}")
    if count is not None and count < 0:
        raise ValueError(NEGATIVE.format(count))
    return Ticks(seconds, count)
