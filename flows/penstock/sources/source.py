"""Source and Emitter: a cold Observable whose subscription is one task, which acquires a credit for every element.

A source subclasses `Source` and implements `produce`, which acquires credits from the window before it emits, so that
nothing downstream can be flooded, and raises when its input fails. Draining ends the task as if the input had ended
there.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Callable, Coroutine, Iterable, Sequence
from functools import partial
from itertools import count
from typing import Any, Generic, TypeVar

from reactivex import abc
from reactivex.disposable import Disposable

from penstock.core.context import RunContext, cancel
from penstock.core.element import Element
from penstock.core.fairness import BATCH_WHILE_YIELDING, LARGE_RUN, yield_iterations
from penstock.core.leases import Leases, Lessor
from penstock.core.ledger import Ledger
from penstock.core.operators import RunObservable
from penstock.errors import ElementTooLarge, SourceFailed
from penstock.formats.rejected import OversizedInput
from penstock.support.used_files import UsedFile

T = TypeVar("T")
Out = TypeVar("Out", covariant=True)


class DownstreamFailed(asyncio.CancelledError):
    """The receiver of the elements failed, which was reported to the run."""


class Emitter(Generic[T]):
    """Emits the elements of a source: acquires credits, numbers the elements and counts them as received."""

    __slots__ = ("_context", "_emitting", "_observer", "_on_stop", "_quota", "ledger", "seq")

    def __init__(self, observer: abc.ObserverBase[list[Element[T]]], context: RunContext) -> None:
        self._observer = observer
        self._context = context
        self._emitting = False
        self._quota = 0
        """Elements that may be emitted before the next yield of the event loop."""
        self._on_stop: Callable[[], object] | None = None
        self.ledger = context.ledger
        self.seq = 0

    @property
    def scheduler(self) -> abc.SchedulerBase:
        """The scheduler for subscriptions to other Observables."""
        return self._context

    async def emit_quota(self, limit: int) -> int:
        """Return how many of `limit` elements may be emitted now: fewer while other runs start, after a yield."""
        if self.seq < LARGE_RUN or not self._context.fairness.should_yield(self._context.loop.time()):
            return limit
        if not self._quota:
            await yield_iterations()
            self._quota = BATCH_WHILE_YIELDING
        return min(limit, self._quota)

    def acquire(self, count: int, sizes: Sequence[int] | None = None, start: int = 0) -> int:
        """Acquire credits for as many of `count` elements as possible now. They must be emitted at once.

        `sizes` are the sizes of elements in bytes; that of the first of these elements is at `start`.
        """
        taken = self._context.window.acquire(count, sizes, start)
        self._quota = max(0, self._quota - taken)
        return taken

    async def wait_for_capacity(self) -> int:
        """Wait until at least one element may be emitted. Return how many may."""
        window = self._context.window
        while not window.free:
            await window.wait_for_capacity()
        return window.free

    async def settled(self) -> None:
        """Wait until all emitted elements are settled."""
        while self.ledger.in_flight:
            await self._context.window.wait_for_capacity(counted=False)

    @property
    def all_settled(self) -> bool:
        """Whether all emitted elements are settled."""
        return not self.ledger.in_flight

    @property
    def free(self) -> int:
        """How many elements may be emitted now."""
        return self._context.window.free

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Start a task that belongs to the run. It is cancelled when the run ends; what it raises fails the run."""
        return self._context.spawn(work, name)

    def on_stop(self, call: Callable[[], object]) -> None:
        """Call `call` when the run takes no further input, instead of cancelling `produce`, which has to return then.

        For a source that has to do something about input that it has received and not emitted.
        """
        self._on_stop = call

    def report_connection(self, is_connected: Callable[[], bool]) -> None:
        """Let the health of the process ask `is_connected` while the run lasts: has the source a connection now?"""
        self._context.source_connected = is_connected

    def lease_from(self, lessor: Lessor[Any], *, redeliver: bool = False) -> Leases[Any]:
        """Register the lessor of the leases that are sent, once, before the first. Return the leases of the run.

        `redeliver`: failed elements are answered with `Answer.FAILED` instead of becoming dead letters.
        """
        if self.ledger.leases is not None:
            raise RuntimeError("a run has one lessor")
        leases = Leases(lessor, self._context.loop, self._context.report_fault, redeliver=redeliver)
        self.ledger.leases = leases
        self.ledger.watch(leases.on_settled)
        return leases

    def on_close(self, call: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Await `call` when the run is over, however it ended. Elements may still be unsettled then: see `Lessor`."""
        context = self._context
        context.on_close(lambda: [context.loop.create_task(call(), name=f"{context.name}:closing")])

    async def send(
        self, values: Sequence[T], sizes: Sequence[int] | None = None, leases: Sequence[Any] | None = None
    ) -> None:
        """Emit values in order, as many at a time as there are credits for, and fewer while other runs start.

        A value larger than the whole window is discarded, and its element is emitted as failed.

        `leases` has the lease of each value (see `lease_from`). If the source is stopped meanwhile, those of values
        that were not emitted are released.
        """
        if leases is None:
            await self._send(values, sizes, None)
            return

        known = self._leases
        first = self.seq
        try:
            await self._send(values, sizes, leases)
            await asyncio.sleep(0)  # a client that has buffered messages never waits
        finally:
            known.release(leases[self.seq - first :])

    async def _send(self, values: Sequence[T], sizes: Sequence[int] | None, leases: Sequence[Any] | None) -> None:
        window = self._context.window
        start = 0
        while start < len(values):
            if self._context.input_closed:  # only a source with `on_stop` is still here
                return
            if sizes is not None and sizes[start] > window.bytes:
                lease = None if leases is None else leases[start : start + 1]
                await self._emit_oversized(values[start], sizes[start], lease)
                start += 1
                continue
            taken = self.acquire(await self.emit_quota(len(values) - start), sizes, start)
            if not taken:
                await window.wait_for_capacity()
                continue
            stop = start + taken
            elements = self.make_elements(values[start:stop], sizes[start:stop] if sizes is not None else None)
            if leases is not None:
                self._leases.add(elements, leases[start:stop])
            self.emit(elements)
            start = stop

    async def refuse(self, value: T, lease: Any, error: Exception) -> None:
        """Emit a value as failed at the step `source`, such as a message that was delivered too often.

        Its dead letter is stored even if failed elements are delivered again.
        """
        known = self._leases
        first = self.seq
        try:
            await self.wait_for_capacity()
            self._context.window.acquire(1)
            element: Element[Any] = Element(value, first, self.ledger, value)
            element.fail("source", error)
            known.add_last_failure(element, lease)
            known.add([element], [lease], refused=True)
            self.emit([element])
        finally:
            if self.seq == first:
                known.release([lease])

    @property
    def _leases(self) -> Leases[Any]:
        if self.ledger.leases is None:
            raise RuntimeError("leases without a lessor: call emitter.lease_from(lessor) first")
        return self.ledger.leases

    def make_elements(self, values: Sequence[T], sizes: Sequence[int] | None = None) -> list[Element[T]]:
        """Create elements for values, with the next sequence numbers."""
        ledger = self.ledger
        if sizes is None:
            return [Element(value, seq, ledger, value) for seq, value in enumerate(values, self.seq)]
        return [
            Element(value, seq, ledger, value, size)
            for value, seq, size in zip(values, count(self.seq), sizes, strict=False)
        ]

    async def _emit_oversized(self, value: T, size: int, leases: Sequence[Any] | None) -> None:
        await self.wait_for_capacity()
        self._context.window.acquire(1)
        limit = self._context.window.bytes
        header: str | None = getattr(value, "header", None)
        kept = OversizedInput.of(value, size, limit, header) if isinstance(value, bytes) else None
        element: Element[Any] = Element(None, self.seq, self.ledger, kept)
        element.fail("source", ElementTooLarge(size, limit))
        if leases is not None:
            self._leases.add([element], leases, refused=True)
        self.emit([element])

    def emit(self, elements: list[Element[T]]) -> None:
        """Emit elements whose credits were acquired. A fault or a drain downstream ends the source."""
        self.seq += len(elements)
        self.ledger.received += len(elements)
        if (deadlines := self._context.deadlines) is not None:
            deadlines.start(elements, self._context.loop.time())
        self._emitting = True
        emitted = self._context.emit(self._observer, elements)
        self._emitting = False
        if not emitted:
            raise DownstreamFailed
        if self._context.input_closed and self._on_stop is None:
            raise asyncio.CancelledError

    def stop(self, task: asyncio.Task[Any]) -> None:
        """End the task of the source: now if it is waiting, otherwise at the end of the current emission.

        A cancellation during an emission would take effect at the next wait, or when the task returns, and look like a
        failure. `emit` notices that the input was closed, and ends the task.

        A source that asked for it (`on_stop`) ends by itself.
        """
        if self._on_stop is not None:
            self._on_stop()
        elif not self._emitting:
            task.cancel()


class Source(RunObservable[Any], Generic[Out]):  # of lists of elements; named here, they would not let it be covariant
    """A source of elements. Subscribing starts one task; disposing cancels it; draining completes it.

    A source that fails completes as well, so that its elements are still processed. The run then ends as failed.
    """

    name = "source"

    competes = False
    """Whether several processes may run it at once, because each element goes to one of them (competing consumers).

    A service with several processes runs the workers of all other sources in one of them.
    """

    def for_process(self, number: int) -> Source[Out]:  # noqa: ARG002 - for subclasses
        """Return the source as process `number` of a service runs it, from 1. Default: the source as it is."""
        return self

    @property
    def endless(self) -> bool:
        """Whether it emits until its run is stopped, as the source of a broker does."""
        return False

    @abstractmethod
    async def produce(self, emitter: Emitter[Out]) -> None:
        """Emit all elements, then return."""

    def used_files(self) -> Iterable[UsedFile]:
        """Return the files that this source will read, as far as they are known before a run.

        `penstock run` rejects a run that would write to one of them. Raises `MissingVariable`.
        """
        return ()

    @property
    def fraction_read(self) -> float | None:
        """How much of the input was read in the current run, from 0 to 1; None if that is not known."""
        return None

    @property
    def failure_hint(self) -> str | None:
        """What to do if elements failed because all of the input is unexpected, such as another format; None if not."""
        return None

    def on_run_end(self, ledger: Ledger) -> None:
        """Called when the run with this ledger is over, even if the source was never subscribed."""

    def _subscribe_core(
        self, observer: abc.ObserverBase[list[Element[Out]]], scheduler: abc.SchedulerBase | None = None
    ) -> abc.DisposableBase:
        context = RunContext.of(scheduler, f"the source {self.name}")
        if not context.begin_source(self.name):
            return Disposable()
        task = context.spawn(self._run(observer, context), f"source:{self.name}")
        return Disposable(lambda: cancel(task))

    async def _run(self, observer: abc.ObserverBase[list[Element[Any]]], context: RunContext) -> None:
        try:
            if not context.input_closed:
                emitter = Emitter(observer, context)
                context.on_drain(
                    partial(emitter.stop, _this_task())
                )  # not earlier: a task cancelled before could not complete
                await self.produce(emitter)
                context.input_closed = True
        except DownstreamFailed:
            return
        except asyncio.CancelledError as error:
            if not context.input_closed:
                if _this_task().cancelling():
                    raise
                context.fail_source(SourceFailed(self.name, error))  # the awaited object was cancelled
        except Exception as error:
            context.fail_source(SourceFailed(self.name, error))
        observer.on_completed()


def _this_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task
