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

from penstock.core.context import RunContext, cancel
from penstock.core.element import Element
from penstock.core.fairness import BATCH_WHILE_YIELDING, LARGE_RUN, yield_iterations
from penstock.core.ledger import Ledger
from penstock.core.operators import RunObservable
from penstock.errors import ElementTooLarge, SourceFailed
from penstock.formats.rejected import OversizedInput

T = TypeVar("T")
Out = TypeVar("Out", covariant=True)


class DownstreamFailed(asyncio.CancelledError):
    """What takes the elements broke, and the run was told."""


class Emitter(Generic[T]):
    """The gate that a source feeds: it takes the credits, numbers the elements and counts them as received."""

    __slots__ = ("_emitting", "_observer", "_scope", "_share", "ledger", "seq")

    def __init__(self, observer: abc.ObserverBase[list[Element[T]]], scope: RunContext) -> None:
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

    async def emit_quota(self, most: int) -> int:
        """How many of `most` elements may be given out now: fewer while other runs begin, which get a turn first."""
        if self.seq < LARGE_RUN or not self._scope.fairness.should_yield(self._scope.loop.time()):
            return most
        if not self._share:
            await yield_iterations()
            self._share = BATCH_WHILE_YIELDING
        return min(most, self._share)

    def acquire(self, count: int, sizes: Sequence[int] | None = None, start: int = 0) -> int:
        """Take credits for as many of `count` elements as there are now; they have to be emitted at once.

        `sizes` are the bytes of elements, of which the first of these is at `start`.
        """
        taken = self._scope.window.acquire(count, sizes, start)
        self._share = max(0, self._share - taken)
        return taken

    async def wait_for_capacity(self) -> int:
        """Wait until at least one element may be emitted; returns how many."""
        window = self._scope.window
        while not window.free:
            await window.wait_for_capacity()
        return window.free

    async def settled(self) -> None:
        """Wait until all that was given out is settled."""
        while self.ledger.in_flight:
            await self._scope.window.wait_for_capacity(counted=False)

    @property
    def all_settled(self) -> bool:
        """Whether all that was given out is settled."""
        return not self.ledger.in_flight

    def on_close(self, call: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Have `call` awaited when the run is over, however it ended."""
        scope = self._scope
        scope.on_close(lambda: [scope.loop.create_task(call(), name=f"{scope.name}:closing")])

    async def send(self, values: Sequence[T], sizes: Sequence[int] | None = None) -> None:
        """Emit values in order, as many at a time as there are credits for, and fewer while other runs begin.

        A value larger than the whole window is let go of, and its element goes on as failed.
        """
        window = self._scope.window
        start = 0
        while start < len(values):
            if sizes is not None and sizes[start] > window.bytes:
                await self._refuse(values[start], sizes[start])
                start += 1
                continue
            taken = self.acquire(await self.emit_quota(len(values) - start), sizes, start)
            if not taken:
                await window.wait_for_capacity()
                continue
            stop = start + taken
            self.emit(self.make_elements(values[start:stop], sizes[start:stop] if sizes is not None else None))
            start = stop

    def make_elements(self, values: Sequence[T], sizes: Sequence[int] | None = None) -> list[Element[T]]:
        """The elements of values, with the next numbers."""
        ledger = self.ledger
        if sizes is None:
            return [Element(value, seq, ledger, value) for seq, value in enumerate(values, self.seq)]
        return [
            Element(value, seq, ledger, value, size)
            for value, seq, size in zip(values, count(self.seq), sizes, strict=False)
        ]

    async def _refuse(self, value: T, size: int) -> None:
        await self.wait_for_capacity()
        self._scope.window.acquire(1)
        limit = self._scope.window.bytes
        kept = OversizedInput.of(value, size, limit) if isinstance(value, bytes) else None
        element: Element[Any] = Element(None, self.seq, self.ledger, kept)
        element.fail("source", ElementTooLarge(size, limit))
        self.emit([element])

    def emit(self, elements: list[Element[T]]) -> None:
        """Emit elements whose credits were taken. A fault downstream ends the source; so does a drain from there."""
        self.seq += len(elements)
        self.ledger.received += len(elements)
        self._emitting = True
        emitted = self._scope.emit(self._observer, elements)
        self._emitting = False
        if not emitted:
            raise DownstreamFailed
        if self._scope.input_closed:
            raise asyncio.CancelledError

    def stop(self, task: asyncio.Task[Any]) -> None:
        """End the task of the source: at once where it waits, or with the emission that it is in the middle of.

        Cancelled during an emission it would get the cancel at its next wait, or as it returns, and look as if it had
        failed. `emit_lines` sees that the input was closed, and ends it.
        """
        if not self._emitting:
            task.cancel()


class Source(RunObservable[Any], Generic[Out]):  # of lists of elements; named here, they would not let it be covariant
    """Where elements come from. Subscribing starts one task; disposing ends it; draining completes it.

    A source that breaks completes too, so that what it gave out is still finished; the run then ends as failed.
    """

    name = "source"

    @abstractmethod
    async def produce(self, intake: Emitter[Out]) -> None:
        """Emit everything there is, then return."""

    def on_run_end(self, ledger: Ledger) -> None:
        """The run with these accounts is over, whether it came to this source or not."""

    def _subscribe_core(
        self, observer: abc.ObserverBase[list[Element[Out]]], scheduler: abc.SchedulerBase | None = None
    ) -> abc.DisposableBase:
        scope = RunContext.of(scheduler, f"the source {self.name}")
        if not scope.begin_source(self.name):
            return Disposable()
        task = scope.spawn(self._run(observer, scope), f"source:{self.name}")
        return Disposable(lambda: cancel(task))

    async def _run(self, observer: abc.ObserverBase[list[Element[Any]]], scope: RunContext) -> None:
        try:
            if not scope.input_closed:
                intake = Emitter(observer, scope)
                scope.on_drain(partial(intake.stop, _this_task()))  # only now: cancelled earlier it could not complete
                await self.produce(intake)
                scope.input_closed = True
        except DownstreamFailed:
            return
        except asyncio.CancelledError as error:
            if not scope.input_closed:
                if _this_task().cancelling():
                    raise
                scope.fail_source(SourceFailed(self.name, error))  # something that it awaited was cancelled
        except Exception as error:
            scope.fail_source(SourceFailed(self.name, error))
        observer.on_completed()


def _this_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task
