"""A bounded buffer for sources that cannot wait: callbacks, sensors, hot Observables."""

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

OBSERVE_ON = "bring them over: values.pipe(ops.observe_on(AsyncIOThreadSafeScheduler(loop)))"


class Overflow(StrEnum):
    """What becomes of a value that finds the buffer full."""

    BACKPRESSURE = "backpressure"
    """The sender waits: `await feed.send(value)`."""
    DROP_OLDEST = "drop_oldest"
    """The value that waited longest makes room."""
    DROP_NEWEST = "drop_newest"
    """The new value is not taken."""
    FAIL = "fail"
    """The run ends with `BufferOverflow`."""


def overflow_of(word: str) -> Overflow:
    """The policy of this name; raises `ValueError` for one that is none."""
    if word not in list(Overflow):
        raise ValueError(f"overflow has to be one of {', '.join(Overflow)}, got {word!r}")
    return Overflow(word)


class PushSource(Source[T], Generic[T]):
    """A source that code pushes values into, with a buffer of `capacity` elements between it and the run.

    Whatever is dropped, or still in the buffer when the run takes no more, is counted as received and as filtered, and
    by itself (`dropped`). A feed serves one run.

    >>> feed = Feed[int](capacity=1000, overflow="drop_oldest")
    >>> feed.push(1)
    >>> feed.complete()
    """

    name = "feed"

    def __init__(self, capacity: int, overflow: Overflow | str = Overflow.BACKPRESSURE) -> None:
        super().__init__()
        if capacity < 1:
            raise ValueError(f"a buffer needs room for at least 1 element, got {capacity!r}")
        self.capacity = capacity
        self.overflow = overflow_of(overflow)
        self.dropped = 0
        """Values dropped so far."""
        self._buffer: deque[T] = deque()
        self._over = False
        self._dropped_before_start = 0
        self._ledger: Ledger | None = None
        self._thread: int | None = None
        """That of the run."""
        self._error: Exception | None = None
        self._complete = False
        self._arrived = asyncio.Event()
        self._left = asyncio.Event()

    def push_nowait(self, value: T) -> None:
        """Put a value into the buffer, at once. With `backpressure`, use `send`.

        Raises `WrongThread` on any other than the run's.
        """
        self._check_thread("loop.call_soon_threadsafe(feed.push, value)")
        if self.overflow is Overflow.BACKPRESSURE:
            raise TypeError("this feed holds back its sender: use `await feed.send(value)`")
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
        """Put a value into the buffer, waiting for room when the feed holds back.

        Raises `PushSourceClosed` when the run is over, or `complete` was called; `WrongThread` on any other than the
        run's.
        """
        self._check_thread("asyncio.run_coroutine_threadsafe(feed.send(value), loop)")
        while self.overflow is Overflow.BACKPRESSURE and len(self._buffer) >= self.capacity and not self._closed:
            self._left.clear()
            await self._left.wait()
        if self._closed:
            raise PushSourceClosed
        if self.overflow is Overflow.BACKPRESSURE:
            self._append(value)
        else:
            self.push_nowait(value)

    def _check_thread(self, way: str) -> None:
        if self._thread is not None and self._thread != get_ident():
            raise WrongThread(f"use {way}")

    @property
    def _closed(self) -> bool:
        return self._over or self._complete

    def close(self) -> None:
        """No further value will come; what is buffered is still given out, what is pushed after this is dropped."""
        self._complete = True
        self._arrived.set()
        self._left.set()

    def fail(self, error: Exception) -> None:
        """What feeds this source broke: the run fails with `error` when what is buffered was given out."""
        self._error = self._error or error
        self._arrived.set()

    async def produce(self, emitter: Emitter[T]) -> None:
        if self._ledger is not None:
            raise PushSourceClosed
        self._ledger, self._thread = emitter.ledger, get_ident()
        self._ledger.count_dropped(self._dropped_before_start)
        self._dropped_before_start = 0
        await self._pass_on(emitter)

    def on_run_end(self, ledger: Ledger) -> None:
        if self._ledger is None:  # the run never came to it
            self._ledger, self._thread = ledger, get_ident()
            ledger.count_dropped(self._dropped_before_start)
        if self._ledger is not ledger:  # a second run, which was refused
            return
        self._over = True
        self._left.set()
        while self._buffer:
            self._buffer.popleft()
            self._drop()

    async def _pass_on(self, emitter: Emitter[T]) -> None:
        while True:
            await emitter.wait_for_capacity()
            if self._buffer:
                await self._emit(emitter)
                await asyncio.sleep(0)
            elif self._error is not None:
                raise self._error
            elif self._complete:
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
        share = await emitter.emit_quota(len(self._buffer))
        if count := emitter.acquire(share):
            taken = [self._buffer.popleft() for _ in range(count)]
            self._left.set()
            emitter.emit(emitter.make_elements(taken))


def from_observable(
    values: Observable[T], *, capacity: int, overflow: Overflow | str = Overflow.DROP_OLDEST
) -> Source[T]:
    """A source of the values of any Observable, behind a bounded buffer.

    An Observable cannot wait, so `overflow` is `drop_oldest`, `drop_newest` or `fail`. The run fails with `WrongThread`
    when a value comes on a thread that is not the run's; `observe_on` brings them there.
    """
    if overflow_of(overflow) is Overflow.BACKPRESSURE:
        raise ValueError("an Observable cannot wait; choose overflow drop_oldest, drop_newest or fail")
    return FromObservable(values, capacity, overflow_of(overflow))


class FromObservable(Source[T]):
    """Subscribes when the run starts, and disposes when it ends."""

    name = "observable"

    def __init__(self, values: Observable[T], capacity: int, overflow: Overflow) -> None:
        super().__init__()
        self._values = values
        self._capacity = capacity
        self._overflow = overflow

    async def produce(self, emitter: Emitter[T]) -> None:
        feed: PushSource[Any] = PushSource(self._capacity, self._overflow)
        loop, thread = asyncio.get_running_loop(), get_ident()

        def on_this_thread(tell: Callable[..., None], *what: Any) -> None:
            if get_ident() == thread:
                tell(*what)
            else:
                loop.call_soon_threadsafe(tell, *what)

        def push(value: Any) -> None:
            try:
                feed.push_nowait(value)
            except WrongThread:  # Rx has no one to tell, and values that are brought over here one by one have no bound
                on_this_thread(feed.fail, WrongThread(OBSERVE_ON))

        subscription = self._values.subscribe(
            push,
            partial(on_this_thread, feed.fail),
            partial(on_this_thread, feed.close),
            scheduler=emitter.scheduler,
        )
        try:
            await feed.produce(emitter)
        finally:
            subscription.dispose()
            feed.on_run_end(emitter.ledger)
