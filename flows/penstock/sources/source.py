"""A source: a cold Observable whose subscription is one task, which takes a credit for whatever it emits.

A source subclasses `Source` and writes `produce`. There it takes credits from the window before it emits, so that
nothing downstream can be flooded, and raises when what it reads from breaks. Draining ends the task as if the
input had ended there.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from itertools import count
from typing import Any, Generic, TypeVar

from reactivex import abc
from reactivex.disposable import Disposable

from penstock.element import Element, Ledger
from penstock.errors import SourceBroke, TooLarge
from penstock.operators.stream import Stream
from penstock.scope import Scope, cancel
from penstock.turns import LARGE, SHARE, step_aside

T = TypeVar("T")

EXCERPT = 4096
"""Bytes kept of an input that is too large to be taken."""


class Unreadable(bytes):
    """An input that is no item, as it came. It fails where it was to be read, so that its bytes are kept."""

    refusal: Exception
    """Why it cannot be read."""

    @classmethod
    def of_bytes(cls, value: bytes, refusal: Exception) -> Unreadable:
        """The bytes, and why they cannot be read."""
        unreadable = cls(value)
        unreadable.refusal = refusal
        return unreadable


class LongLine(Unreadable):
    """The beginning of an input that is too large; the rest was passed over."""

    length: int
    limit: int

    @classmethod
    def of(cls, value: bytes, length: int, limit: int) -> LongLine:
        """The beginning of `value`, of which there were `length` bytes."""
        excerpt = cls(value[: min(EXCERPT, limit)])
        excerpt.length, excerpt.limit = length, limit
        excerpt.refusal = TooLarge(length, limit)
        return excerpt


class Broken(asyncio.CancelledError):
    """What takes the elements broke, and the run was told."""


class Intake(Generic[T]):
    """The gate that a source feeds: it takes the credits, numbers the elements and counts them as received."""

    __slots__ = ("_emitting", "_observer", "_scope", "_share", "ledger", "seq")

    def __init__(self, observer: abc.ObserverBase[list[Element[T]]], scope: Scope) -> None:
        self._observer = observer
        self._scope = scope
        self._emitting = False
        self._share = 0
        """What may be given out before the next time to step aside."""
        self.ledger = scope.ledger
        self.seq = 0

    @property
    def scheduler(self) -> abc.SchedulerBase:
        """What to subscribe to other Observables with."""
        return self._scope

    def take(self, count: int) -> int:
        """Take credits for as many of `count` elements as there are now; they have to be emitted at once."""
        return self._scope.window.take(count)

    async def room(self) -> int:
        """Wait until at least one element may be emitted; returns how many."""
        window = self._scope.window
        while not window.free:
            await window.room()
        return window.free

    async def settled(self) -> None:
        """Wait until all that was given out is settled."""
        while self.ledger.in_flight:
            await self._scope.window.room()

    @property
    def all_settled(self) -> bool:
        """Whether all that was given out is settled."""
        return not self.ledger.in_flight

    def on_close(self, call: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Have `call` awaited when the run is over, however it ended."""
        self._scope.on_close(lambda: [asyncio.ensure_future(call())])

    async def send(self, values: Sequence[T], sizes: Sequence[int] | None = None) -> None:
        """Emit values in order, as many at a time as there are credits for, and fewer while other runs begin.

        A value larger than the whole window is let go of, and its element goes on as failed.
        """
        scope, window = self._scope, self._scope.window
        start = 0
        while start < len(values):
            if sizes is not None and sizes[start] > window.bytes:
                await self._refuse(values[start], sizes[start])
                start += 1
                continue
            most = len(values) - start
            if self.seq >= LARGE and scope.turns.are_wanted(scope.loop.time()):
                if not self._share:
                    await step_aside()
                    self._share = SHARE
                most = min(most, self._share)
            taken = window.take(most, sizes, start)
            self._share = max(0, self._share - taken)
            if not taken:
                await window.room()
                continue
            stop = start + taken
            self.give_out(self._number(values[start:stop], sizes[start:stop] if sizes is not None else None))
            start = stop

    def _number(self, values: Sequence[T], sizes: Sequence[int] | None) -> list[Element[T]]:
        ledger = self.ledger
        if sizes is None:
            return [Element(value, seq, ledger, value) for seq, value in enumerate(values, self.seq)]
        return [
            Element(value, seq, ledger, value, size)
            for value, seq, size in zip(values, count(self.seq), sizes, strict=False)
        ]

    async def _refuse(self, value: T, size: int) -> None:
        await self.room()
        self._scope.window.take(1)
        limit = self._scope.window.bytes
        kept = LongLine.of(value, size, limit) if isinstance(value, bytes) else None
        element: Element[Any] = Element(None, self.seq, self.ledger, kept)
        element.fail("source", TooLarge(size, limit))
        self.give_out([element])

    def give_out(self, elements: list[Element[T]]) -> None:
        """Emit elements whose credits were taken. A fault downstream ends the source; so does a drain from there."""
        self.seq += len(elements)
        self.ledger.received += len(elements)
        self._emitting = True
        emitted = self._scope.emit(self._observer, elements)
        self._emitting = False
        if not emitted:
            raise Broken
        if self._scope.input_closed:
            raise asyncio.CancelledError

    def stop(self, task: asyncio.Task[Any]) -> None:
        """End the task of the source: at once where it waits, or with the emission that it is in the middle of.

        (Cancelled there it would be struck at its next wait, or, if it had none left, at its end: as if it had failed.)
        """
        if not self._emitting:
            task.cancel()


class Source(Stream[list[Element[T]]]):
    """Where elements come from. Subscribing starts one task; disposing ends it; draining completes it.

    A source that breaks completes too, so that what it gave out is still finished; the run then ends as failed.
    """

    name = "source"

    @abstractmethod
    async def produce(self, intake: Intake[T]) -> None:
        """Emit everything there is, then return."""

    def over(self, ledger: Ledger) -> None:
        """The run with these accounts is over, whether it came to this source or not."""

    def _subscribe_core(
        self, observer: abc.ObserverBase[list[Element[T]]], scheduler: abc.SchedulerBase | None = None
    ) -> abc.DisposableBase:
        scope = Scope.of(scheduler, f"the source {self.name}")
        if not scope.begin_source(self.name):
            return Disposable()
        task = scope.spawn(self._run(observer, scope), f"source:{self.name}")
        return Disposable(lambda: cancel(task))

    async def _run(self, observer: abc.ObserverBase[list[Element[Any]]], scope: Scope) -> None:
        try:
            if not scope.input_closed:
                intake = Intake(observer, scope)
                scope.on_drain(partial(intake.stop, _this_task()))  # only now: cancelled earlier it could not complete
                await self.produce(intake)
                scope.input_closed = True
        except Broken:
            return
        except asyncio.CancelledError as error:
            if not scope.input_closed:
                if _this_task().cancelling():
                    raise
                scope.break_source(SourceBroke(self.name, error))  # something that it awaited was cancelled
        except Exception as error:
            scope.break_source(SourceBroke(self.name, error))
        observer.on_completed()


def _this_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task
