"""Sources of values from Python code: an iterable, an async iterable, a function, ticks of a clock."""

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

NEGATIVE = "count: expected an integer >= 0, got {!r}"

SLICE = 256
"""Elements created in a row before other tasks of the event loop run."""


class FromIterable(Source[T]):
    """The values of an iterable, which is advanced only as far as there are credits.

    An iterable that blocks (a file, a cursor) blocks the event loop: use an async iterable instead. An iterator, such
    as a generator, can be consumed once: a later run fails with `SourceExhausted`.
    """

    name = "iterable"

    def __init__(self, values: Iterable[T], size: Callable[[T], int] | None = None) -> None:
        super().__init__()
        self._values = values
        self._size = size
        self._exhausted = False
        """Whether the values are an iterator that was consumed."""

    async def produce(self, emitter: Emitter[T]) -> None:
        values = iter(self._values)
        if self._exhausted:
            raise SourceExhausted("iterator")
        error: Exception | None = None
        while error is None:
            chunk: list[T] = []
            try:
                chunk.extend(islice(values, min(await emitter.wait_for_capacity(), SLICE)))
            except Exception as raised:  # emit the values before the error
                error = raised
            if (not chunk) if error is None else isgenerator(values):  # a generator that raised has ended
                self._exhausted = values is self._values
            await emitter.send(chunk, [self._size(value) for value in chunk] if self._size else None)
            if not chunk:
                break
            await asyncio.sleep(0)
        if error is not None:
            raise error


class FromAsyncIterable(Source[T]):
    """The values of an async iterable. Each is requested when there is a credit for it. Closed at the end.

    An async iterator, such as an async generator, can be consumed once: a later run fails with `SourceExhausted`.
    """

    name = "async iterable"

    def __init__(self, values: AsyncIterable[T], size: Callable[[T], int] | None = None) -> None:
        super().__init__()
        self._values = values
        self._size = size
        self._exhausted = False
        """Whether the values are an iterator that was consumed."""

    async def produce(self, emitter: Emitter[T]) -> None:
        values = aiter(self._values)
        if self._exhausted:
            raise SourceExhausted("async iterator")
        try:
            await emitter.wait_for_capacity()
            async for value in values:
                await emitter.send((value,), (self._size(value),) if self._size else None)
                await emitter.wait_for_capacity()
            self._exhausted = values is self._values
        finally:
            if (close := getattr(values, "aclose", None)) is not None:
                self._exhausted = values is self._values
                await close()


def from_iterable(values: Iterable[T], *, size: Callable[[T], int] | None = None) -> Source[T]:
    """Make a source of the values of an iterable. `size` returns the bytes that a value counts for (default: none)."""
    return FromIterable(values, size)


def from_async_iterable(values: AsyncIterable[T], *, size: Callable[[T], int] | None = None) -> Source[T]:
    """Make a source of the values of an async iterable. `size` is as for `from_iterable`."""
    return FromAsyncIterable(values, size)


@dataclass(unsafe_hash=True)
class Generated(Source[T]):
    """Values that a function makes of the numbers from 1 to `total`."""

    name = "generated"

    total: int
    make: Callable[[int], T]

    def __post_init__(self) -> None:
        super().__init__()

    async def produce(self, emitter: Emitter[T]) -> None:
        await FromIterable(map(self.make, range(1, self.total + 1))).produce(emitter)


@dataclass(unsafe_hash=True)
class Ticks(Source[int]):
    """The numbers from 0, at the times of a clock that starts with each run."""

    name = "ticks"

    seconds: float
    total: int | None = None

    def __post_init__(self) -> None:
        super().__init__()

    @property
    def endless(self) -> bool:
        return self.total is None

    async def produce(self, emitter: Emitter[int]) -> None:
        loop = asyncio.get_running_loop()
        start = loop.time()
        for number in islice(count(), self.total):
            await emitter.send((number,))
            await emitter.wait_for_capacity()
            if number + 1 == self.total:
                return
            passed = int((loop.time() - start) / self.seconds + 1e-6)  # a timer may fire slightly early
            await asyncio.sleep(start + (passed + 1) * self.seconds - loop.time())


def generate(count: int, make: Callable[[int], T]) -> Source[T]:
    """Make a source of `count` values: `make(1)`, `make(2)` … `make(count)`. `make` must be synchronous and quick."""
    if count < 0:
        raise ValueError(NEGATIVE.format(count))
    return Generated(count, make)


def ticks(seconds: float, count: int | None = None) -> Source[int]:
    """Make a source of the numbers 0, 1, 2 …, one every `seconds`. `count` limits them (default: no limit).

    A tick without a credit waits. Ticks missed meanwhile are skipped.
    """
    if not seconds > 0:
        raise ValueError(f"seconds: expected a number > 0, got {seconds!r}")
    if count is not None and count < 0:
        raise ValueError(NEGATIVE.format(count))
    return Ticks(seconds, count)
