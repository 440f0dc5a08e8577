"""A source that code pushes values into: for callbacks, sensors and hot Observables."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from enum import StrEnum
from functools import partial
from threading import get_ident
from typing import Any, Generic, TypeVar

from reactivex import Observable

from penstock.core.ledger import Ledger
from penstock.errors import BufferOverflow, PushSourceClosed, WrongThread
from penstock.sources.source import Emitter, Source

T = TypeVar("T")

OBSERVE_ON = "move it there: values.pipe(ops.observe_on(AsyncIOThreadSafeScheduler(loop)))"


class Overflow(StrEnum):
    """What happens to a value when the buffer is full."""

    BACKPRESSURE = "backpressure"
    """`await source.push(value)` waits until there is room."""
    DROP_OLDEST = "drop_oldest"
    """The oldest value in the buffer is dropped."""
    DROP_NEWEST = "drop_newest"
    """The new value is dropped."""
    FAIL = "fail"
    """The run fails with `BufferOverflow`."""


def overflow_of(word: str) -> Overflow:
    """Return the policy with this name. Raises `ValueError` for an unknown name."""
    if word not in list(Overflow):
        raise ValueError(f"overflow: expected one of {', '.join(Overflow)}, got {word!r}")
    return Overflow(word)


class PushSource(Source[T], Generic[T]):
    """A source that code pushes values into. A buffer holds up to `capacity` values that the run has not taken yet.

    Values that are dropped, and those in the buffer when the run takes no further input, count as received and as
    filtered, and in `dropped`. One push source serves one run.

    >>> readings = PushSource[int](capacity=1000, overflow="drop_oldest")
    >>> readings.push_nowait(1)
    >>> readings.close()
    """

    name = "push"

    def __init__(self, capacity: int, overflow: Overflow | str = Overflow.BACKPRESSURE) -> None:
        super().__init__()
        if capacity < 1 or capacity % 1:
            raise ValueError(f"capacity: expected an integer >= 1, got {capacity!r}")
        self.capacity = capacity
        self.overflow = overflow_of(overflow)
        self.dropped = 0
        """How many values were dropped so far."""
        self._buffer: deque[T] = deque()
        self._run_ended = False
        self._dropped_before_start = 0
        self._ledger: Ledger | None = None
        self._thread: int | None = None
        """The thread of the run."""
        self._error: Exception | None = None
        self._ended = False
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()

    def push_nowait(self, value: T) -> None:
        """Put a value into the buffer at once; for the policies that drop values or fail.

        Raises `TypeError` with the policy `backpressure`, and `WrongThread` in another thread than that of the run.
        """
        self._check_thread("loop.call_soon_threadsafe(source.push_nowait, value)")
        if self.overflow is Overflow.BACKPRESSURE:
            raise TypeError("a push source with backpressure has to wait for room: use `await source.push(value)`")
        if self._closed or self._error is not None:
            self._drop()
        elif len(self._buffer) < self.capacity:
            self._append(value)
        elif self.overflow is Overflow.DROP_OLDEST:
            self._buffer.popleft()
            self._drop()
            self._append(value)
        else:
            self._drop()
            if self.overflow is Overflow.FAIL:
                self.fail(BufferOverflow(self.capacity))

    async def push(self, value: T) -> None:
        """Put a value into the buffer. With the policy `backpressure`, wait until there is room.

        Raises `PushSourceClosed` after `close` and after the end of the run, and `WrongThread` in another thread than
        that of the run.
        """
        self._check_thread("asyncio.run_coroutine_threadsafe(source.push(value), loop)")
        while self.overflow is Overflow.BACKPRESSURE and len(self._buffer) >= self.capacity and not self._closed:
            self._room.clear()
            await self._room.wait()
        if self._closed:
            raise PushSourceClosed
        if self.overflow is Overflow.BACKPRESSURE:
            self._append(value)
        else:
            self.push_nowait(value)

    def _check_thread(self, instead: str) -> None:
        if self._thread is not None and self._thread != get_ident():
            raise WrongThread(f"use {instead}")

    @property
    def _closed(self) -> bool:
        return self._run_ended or self._ended

    def close(self) -> None:
        """End the input. Values in the buffer are still emitted, values that are pushed later are dropped."""
        self._ended = True
        self._arrived.set()
        self._room.set()

    def fail(self, error: Exception) -> None:
        """End the input with an error: when the values in the buffer are emitted, the run fails."""
        self._error = self._error or error
        self._arrived.set()

    async def produce(self, emitter: Emitter[T]) -> None:
        if self._ledger is not None:
            raise PushSourceClosed
        self._ledger, self._thread = emitter.ledger, get_ident()
        self._ledger.count_dropped(self._dropped_before_start)
        self._dropped_before_start = 0
        await self._emit_all(emitter)

    def on_run_end(self, ledger: Ledger) -> None:
        if self._ledger is None:  # the run ended before it subscribed
            self._ledger, self._thread = ledger, get_ident()
            ledger.count_dropped(self._dropped_before_start)
        if self._ledger is not ledger:  # a second run, which failed at once
            return
        self._run_ended = True
        self._room.set()
        while self._buffer:
            self._buffer.popleft()
            self._drop()

    async def _emit_all(self, emitter: Emitter[T]) -> None:
        while True:
            await emitter.wait_for_capacity()
            if self._buffer:
                await self._emit(emitter)
                await asyncio.sleep(0)
            elif self._error is not None:
                raise self._error
            elif self._ended:
                return
            else:
                self._arrived.clear()
                await self._arrived.wait()

    def _append(self, value: T) -> None:
        self._buffer.append(value)
        self._arrived.set()

    def _drop(self) -> None:
        self.dropped += 1
        if self._ledger is None:
            self._dropped_before_start += 1
        else:
            self._ledger.count_dropped(1)

    async def _emit(self, emitter: Emitter[T]) -> None:
        quota = await emitter.emit_quota(len(self._buffer))
        if count := emitter.acquire(quota):
            values = [self._buffer.popleft() for _ in range(count)]
            self._room.set()
            emitter.emit(emitter.make_elements(values))


def from_observable(
    values: Observable[T], *, capacity: int, overflow: Overflow | str = Overflow.DROP_OLDEST
) -> Source[T]:
    """Make a source of the values of an Observable, with a buffer of `capacity` values.

    An Observable cannot wait, so `overflow` is `drop_oldest`, `drop_newest` or `fail`. The run fails with `WrongThread`
    when a value arrives in another thread; move values to the thread of the run with `observe_on`.
    """
    if overflow_of(overflow) is Overflow.BACKPRESSURE:
        raise ValueError(
            "overflow: expected drop_oldest, drop_newest or fail, got 'backpressure': an Observable cannot wait"
        )
    return FromObservable(values, capacity, overflow_of(overflow))


class FromObservable(Source[T]):
    """Subscribes to an Observable when the run starts, and disposes of the subscription when it ends."""

    name = "observable"

    def __init__(self, values: Observable[T], capacity: int, overflow: Overflow) -> None:
        super().__init__()
        self._values = values
        self._capacity = capacity
        self._overflow = overflow

    async def produce(self, emitter: Emitter[T]) -> None:
        buffer: PushSource[Any] = PushSource(self._capacity, self._overflow)
        loop, thread = asyncio.get_running_loop(), get_ident()

        def in_run_thread(call: Callable[..., None], *arguments: Any) -> None:
            if get_ident() == thread:
                call(*arguments)
            else:
                loop.call_soon_threadsafe(call, *arguments)

        def push(value: Any) -> None:
            try:
                buffer.push_nowait(value)
            except WrongThread:  # Rx drops an exception from here, and values moved one by one would have no bound
                in_run_thread(buffer.fail, WrongThread(OBSERVE_ON))

        subscription = self._values.subscribe(
            push,
            partial(in_run_thread, buffer.fail),
            partial(in_run_thread, buffer.close),
            scheduler=emitter.scheduler,
        )
        try:
            await buffer.produce(emitter)
        finally:
            subscription.dispose()
            buffer.on_run_end(emitter.ledger)
