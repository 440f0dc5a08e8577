"""What the parts of one run share: its window and accounts, its tasks, its meters, and where faults go.

The scope travels the way Rx has for such things: it is the scheduler that is passed upstream at subscription. So
reactivex's own timed operators run on the event loop too, instead of starting a thread per timer.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from reactivex import abc
from reactivex.disposable import Disposable
from reactivex.scheduler.eventloop import AsyncIOScheduler

from penstock.core.element import Element
from penstock.core.fairness import FairScheduler
from penstock.core.ledger import Ledger
from penstock.core.window import Window
from penstock.errors import CancelledFromOutside, MultipleSources, NotInsideRun, RunError
from penstock.support.tasks import detach

T = TypeVar("T")

CANCEL_SECONDS = 5.0
"""How long a cancelled task may take to end before it is given up (and reported)."""

CLOSE_SECONDS = 2 * CANCEL_SECONDS
"""How long the parts of a run may take to close. Each may have tasks of its own to cancel first."""

BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds, in seconds, of a step's duration buckets."""


def cancel(task: asyncio.Task[None]) -> None:
    """Cancel a task, as a Disposable does it; one that disposes of itself, by completing, is not cancelled for it."""
    if not task.done() and task is not asyncio.current_task():
        task.cancel()


class DurationHistogram:
    """How long elements spent in a step: plain numbers, in the buckets of a Prometheus histogram."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.total = 0.0

    def add(self, seconds: float, elements: int = 1) -> None:
        """Count `elements` that spent `seconds` each."""
        self.counts[bisect_left(BUCKETS, seconds)] += elements
        self.total += seconds * elements


class RunContext(AsyncIOScheduler):
    """One run, as seen by its parts."""

    def __init__(
        self,
        window: Window,
        *,
        name: str = "run",
        meters: dict[str, DurationHistogram] | None = None,
        on_fault: Callable[[BaseException], None] | None = None,
        ordered: bool = False,
        ledger: Ledger | None = None,
        fairness: FairScheduler | None = None,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        super().__init__(self.loop)
        self.name = name
        self.window = window
        self.ledger = ledger or Ledger(window)
        self.meters = {} if meters is None else meters
        self.fairness = fairness or FairScheduler()
        """How it shares the event loop with other runs."""
        self.ordered = ordered
        """True when results are to come in the order of the input."""
        self.input_closed = False
        """True when the source is to stop, or has."""
        self.draining = False
        """True when the source was stopped before its end."""
        self.done: asyncio.Future[None] = self.loop.create_future()
        """Done when the sink has finished, or the run was aborted."""
        self.source_error: RunError | None = None
        """Why the source broke, if it did."""
        self._on_fault = on_fault
        self._source: str | None = None
        self._closing = False
        self._admitting = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._drain_calls: list[Callable[[], object]] = []
        self._close_calls: list[Callable[[], list[asyncio.Future[Any]]]] = []

    @staticmethod
    def of(scheduler: abc.SchedulerBase | None, what: str) -> RunContext:
        """The scope that a subscription runs in; raises `NotInsideRun` outside of a run."""
        if not isinstance(scheduler, RunContext):
            raise NotInsideRun(what)
        return scheduler

    async def add_late_element(self, value: T) -> Element[T]:
        """An element that no source gave out: it takes a credit, counts as received, and comes last."""
        async with self._admitting:  # the ends of several branches may come together
            while not self.window.acquire(1):
                await self.window.wait_for_capacity()
        element = Element(value, self.ledger.received - self.ledger.dropped, self.ledger, value)
        self.ledger.received += 1
        return element

    def meter(self, step: str) -> DurationHistogram:
        """The meter of a step, shared by all runs of its flow."""
        meter = self.meters.get(step)
        if meter is None:
            meter = self.meters[step] = DurationHistogram()
        return meter

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Start a task that belongs to this run and ends with it."""
        task = self.loop.create_task(work, name=f"{self.name}:{name}")
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def emit(self, observer: abc.ObserverBase[list[Element[T]]], elements: list[Element[T]]) -> bool:
        """Hand elements on from a task or a timer; an error downstream is a fault of the flow.

        (Rx has no one to tell there: an exception behind an asynchronous boundary is swallowed and the stream hangs.)
        """
        try:
            observer.on_next(elements)
        except BaseException as error:  # CancelledError too: nothing is awaited here, so it is not us who is cancelled
            self._break(error)
            return False
        return True

    def complete(self, observer: abc.ObserverBase[list[Element[T]]]) -> None:
        """Tell from a timer that no element will come any more; as with `emit`, an error is a fault of the flow."""
        try:
            observer.on_completed()
        except BaseException as error:
            self._break(error)

    def invoke_action(self, action: abc.ScheduledAction[Any], state: Any = None) -> abc.DisposableBase:
        """Do what a timed operator of reactivex had scheduled; an error in it is a fault of the flow."""
        try:
            return super().invoke_action(action, state)
        except BaseException as error:
            self._break(error)
            return Disposable()

    def _break(self, error: BaseException) -> None:
        self.report_fault(error)
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise error

    def report_fault(self, error: BaseException) -> None:
        """The flow itself broke."""
        if self._on_fault is None:
            self.loop.call_exception_handler({"message": f"a flow broke in {self.name}", "exception": error})
        else:
            self._on_fault(error)

    def begin_source(self, name: str) -> bool:
        """A source begins; False, and a fault of the flow, when another one has begun before."""
        if self._source is not None:
            self.report_fault(MultipleSources(self._source, name))
            return False
        self._source = name
        return True

    def fail_source(self, error: RunError) -> None:
        """The source broke: nothing further comes, and the run will end as failed."""
        self.input_closed = True
        self.source_error = error

    def on_drain(self, call: Callable[[], object]) -> None:
        """Have `call` made when the run is to take no further input."""
        self._drain_calls.append(call)

    def on_close(self, call: Callable[[], list[asyncio.Future[Any]]]) -> None:
        """Have `call` made when the run is over, however it ended; what it returns is waited for."""
        self._close_calls.append(call)

    def drain(self) -> None:
        """Take no further input; what is in flight goes on."""
        if not self.input_closed:
            self.draining = True
            self.close_input()

    def close_input(self) -> None:
        """Take no further input because none is needed."""
        if not self.input_closed:
            self.input_closed = True
            for call in self._drain_calls:
                call()

    def reap_finished_tasks(self) -> None:
        """Take note of tasks that ended in this turn of the event loop, which tells of them in the next one only.

        So their faults are known before the run is closed.
        """
        for task in [task for task in self._tasks if task.done()]:
            self._ended(task)

    async def aclose(self) -> tuple[list[str], list[BaseException]]:
        """Cancel what is left of the run and wait for its end.

        Returns the names of what refuses to end, and the errors of what broke while it closed.
        """
        self._closing = True
        for task in self._tasks:
            task.cancel()
        done: set[asyncio.Future[Any]] = set()
        late: set[asyncio.Future[Any]] = set()
        errors: list[BaseException] = []
        if waits := self._begin_to_close(errors):  # side by side
            done, late = await asyncio.wait(waits, timeout=CLOSE_SECONDS)
            for wait in late:
                wait.cancel()
        if left := late | self._tasks:
            await asyncio.wait(left, timeout=CANCEL_SECONDS)
        self._drop_references()
        for wait in late:
            detach(wait)
        errors += [error for wait in done | late if (error := _error(wait)) is not None]
        return [*map(_name, late), *(task.get_name() for task in self._tasks if not task.done())], errors

    def _begin_to_close(self, errors: list[BaseException]) -> list[asyncio.Future[Any]]:
        """Tell all who want to know that the run is over; one that breaks keeps no other from it."""
        waits: list[asyncio.Future[Any]] = []
        for call in self._close_calls:
            try:
                waits += call()
            except Exception as error:
                errors.append(error)
        return waits

    def _drop_references(self) -> None:
        """Refer no longer to those who refer to this scope.

        So reference counting frees all that a run was made of. Left to the garbage collector, which has to look for it
        among everything, that cost as much as half of a small run.
        """
        self._drain_calls.clear()
        self._close_calls.clear()
        self._on_fault = _pass_over

    def _ended(self, task: asyncio.Task[Any]) -> None:
        if task not in self._tasks:
            return
        self._tasks.remove(task)
        if task.cancelled():
            if not self._closing:  # by whatever it awaited; nobody else would end the run
                self.report_fault(CancelledFromOutside(task.get_name()))
        elif (error := task.exception()) is not None:
            self.report_fault(error)


class BranchContext(RunContext):
    """One run, as seen by the steps of a branch: all is the run's, but its input is not theirs to close."""

    def __init__(self, run: RunContext) -> None:
        super().__init__(
            run.window,
            name=run.name,
            meters=run.meters,
            on_fault=run.report_fault,
            ordered=run.ordered,
            ledger=run.ledger,
            fairness=run.fairness,
        )
        self._run = run

    async def add_late_element(self, value: T) -> Element[T]:
        return await self._run.add_late_element(value)

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        return self._run.spawn(work, name)

    def begin_source(self, name: str) -> bool:
        return self._run.begin_source(name)

    def fail_source(self, error: RunError) -> None:
        self._run.fail_source(error)

    def on_drain(self, call: Callable[[], object]) -> None:
        self._run.on_drain(call)

    def on_close(self, call: Callable[[], list[asyncio.Future[Any]]]) -> None:
        self._run.on_close(call)

    def close_input(self) -> None:
        """Other branches may need further input."""


def _name(work: asyncio.Future[Any]) -> str:
    return work.get_name() if isinstance(work, asyncio.Task) else "closing"


def _error(work: asyncio.Future[Any]) -> BaseException | None:
    """The error that some work ended in, if it did."""
    return work.exception() if work.done() and not work.cancelled() else None


def _pass_over(_: BaseException) -> None:
    """What happens to faults once a run is over."""
