"""The context of one run, shared by its parts: window, ledger, tasks, duration histograms, and fault handling.

It is passed upstream as the scheduler of subscriptions, the mechanism that Rx has for this. So reactivex's own timed
operators run on the event loop too, instead of starting a thread per timer.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

from reactivex import abc
from reactivex.disposable import Disposable
from reactivex.scheduler.eventloop import AsyncIOScheduler

from penstock.core.deadlines import Deadlines
from penstock.core.element import Element
from penstock.core.fairness import FairScheduler
from penstock.core.ledger import Ledger
from penstock.core.window import Window
from penstock.errors import CancelledFromOutside, MultipleSources, NotInsideRun, RunError
from penstock.support.tasks import detach

T = TypeVar("T")

CANCEL_SECONDS = 5.0
"""Seconds that a cancelled task has to end before it is abandoned and reported."""

CLOSE_SECONDS = 2 * CANCEL_SECONDS
"""Seconds that the parts of a run have to close. Each may have to cancel tasks first."""

BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds, in seconds, of the buckets of durations."""


def cancel(task: asyncio.Task[None]) -> None:
    """Cancel a task that a Disposable stands for, unless it is the current one, which completes by itself."""
    if not task.done() and task is not asyncio.current_task():
        task.cancel()


class DurationHistogram:
    """Durations of elements in a step, or of calls of a service, in the buckets of a Prometheus histogram."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.total = 0.0

    def add(self, seconds: float, elements: int = 1) -> None:
        """Count `elements` that spent `seconds` each."""
        self.counts[bisect_left(BUCKETS, seconds)] += elements
        self.total += seconds * elements

    def merge(self, other: DurationHistogram) -> None:
        """Add all durations of another histogram."""
        self.counts = [ours + theirs for ours, theirs in zip(self.counts, other.counts, strict=True)]
        self.total += other.total

    def copy(self) -> DurationHistogram:
        """Return a histogram with the same durations, which does not change with this one."""
        copy = DurationHistogram()
        copy.merge(self)
        return copy


class ServiceQueue(Protocol):
    """The calls of one step of a run to one service."""

    @property
    def awaited_service(self) -> str | None:
        """The name of the service if calls wait for its open circuit breaker, else None."""
        ...


class RunContext(AsyncIOScheduler):
    """One run, as its parts see it."""

    def __init__(
        self,
        window: Window,
        *,
        name: str = "run",
        histograms: dict[str, DurationHistogram] | None = None,
        on_fault: Callable[[BaseException], None] | None = None,
        ordered: bool = False,
        ledger: Ledger | None = None,
        fairness: FairScheduler | None = None,
        deadlines: Deadlines | None = None,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        super().__init__(self.loop)
        self.name = name
        self.window = window
        self.ledger = ledger or Ledger(window)
        self.histograms = {} if histograms is None else histograms
        self.fairness = fairness or FairScheduler()
        """How this run shares the event loop with others."""
        self.deadlines = deadlines
        """The deadlines of its elements; None if they have none, which then costs nothing."""
        self.ordered = ordered
        """Whether results are reported in input order."""
        self.input_closed = False
        """Whether the source has ended or must end."""
        self.draining = False
        """Whether the source was stopped before its end."""
        self.done: asyncio.Future[None] = self.loop.create_future()
        """Resolved when the consumer has completed or the run was aborted."""
        self.source_error: RunError | None = None
        """Why the source failed, if it did."""
        self.source_connected: Callable[[], bool] | None = None
        """Whether the source has a connection to its server; None if it has not connected yet, or needs none."""
        self._on_fault = on_fault
        self._source: str | None = None
        self._closing = False
        self._late_element_lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._drain_calls: list[Callable[[], object]] = []
        self._close_calls: list[Callable[[], list[asyncio.Future[Any]]]] = []
        self._service_queues: list[ServiceQueue] = []

    @staticmethod
    def of(scheduler: abc.SchedulerBase | None, subject: str) -> RunContext:
        """Return the context that a subscription runs in. Raises `NotInsideRun` outside of a run."""
        if not isinstance(scheduler, RunContext):
            raise NotInsideRun(subject)
        return scheduler

    async def add_late_element(self, value: T) -> Element[T]:
        """Create an element for a value produced at the end of the stream. Acquires a credit and counts as received."""
        async with self._late_element_lock:  # several branches may end at the same time
            while not self.window.acquire(1):
                await self.window.wait_for_capacity()
        element = Element(value, self.ledger.received - self.ledger.dropped, self.ledger, value)
        self.ledger.received += 1
        if self.deadlines is not None:
            self.deadlines.start((element,), self.loop.time())
        return element

    def histogram(self, step: str) -> DurationHistogram:
        """Return the duration histogram of a step, shared by all runs of its flow."""
        histogram = self.histograms.get(step)
        if histogram is None:
            histogram = self.histograms[step] = DurationHistogram()
        return histogram

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Start a task that belongs to this run and is cancelled with it."""
        task = self.loop.create_task(work, name=f"{self.name}:{name}")
        self._tasks.add(task)
        task.add_done_callback(self._task_done)
        return task

    def emit(self, observer: abc.ObserverBase[list[Element[T]]], elements: list[Element[T]]) -> bool:
        """Emit elements from a task or a timer. An error downstream is reported as a fault of the run.

        Rx has no channel for such an error: an exception behind an asynchronous boundary is swallowed, and the stream
        hangs.
        """
        try:
            observer.on_next(elements)
        except BaseException as error:  # also CancelledError: nothing is awaited here, so this task was not cancelled
            self._report_downstream_error(error)
            return False
        return True

    def complete(self, observer: abc.ObserverBase[list[Element[T]]]) -> None:
        """Complete a stream from a timer. As with `emit`, an error downstream is reported as a fault of the run."""
        try:
            observer.on_completed()
        except BaseException as error:
            self._report_downstream_error(error)

    def invoke_action(self, action: abc.ScheduledAction[Any], state: Any = None) -> abc.DisposableBase:
        """Run an action that a timed operator of reactivex scheduled. An error is reported as a fault of the run."""
        try:
            return super().invoke_action(action, state)
        except BaseException as error:
            self._report_downstream_error(error)
            return Disposable()

    def _report_downstream_error(self, error: BaseException) -> None:
        self.report_fault(error)
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise error

    def report_fault(self, error: BaseException) -> None:
        """Report that the run itself failed, not one element."""
        if self._on_fault is None:
            self.loop.call_exception_handler({"message": f"a flow failed in {self.name}", "exception": error})
        else:
            self._on_fault(error)

    def begin_source(self, name: str) -> bool:
        """Register the source of the run. Reports a fault and returns False if the run has a source already."""
        if self._source is not None:
            self.report_fault(MultipleSources(self._source, name))
            return False
        self._source = name
        return True

    def fail_source(self, error: RunError) -> None:
        """Record that the source failed: it emits nothing more, and the run will end as failed."""
        self.input_closed = True
        self.source_error = error

    def on_drain(self, call: Callable[[], object]) -> None:
        """Call `call` when the input of the run is closed."""
        self._drain_calls.append(call)

    def on_close(self, call: Callable[[], list[asyncio.Future[Any]]]) -> None:
        """Call `call` when the run is over, however it ended. The futures that it returns are awaited."""
        self._close_calls.append(call)

    def watch_queue(self, queue: ServiceQueue) -> None:
        """Include the calls of a step in `awaited_service`."""
        self._service_queues.append(queue)

    @property
    def awaited_service(self) -> str | None:
        """The name of a service that calls of this run wait for, because its circuit breaker is open; else None."""
        names = (queue.awaited_service for queue in self._service_queues)
        return next((name for name in names if name is not None), None)

    def drain(self) -> None:
        """Accept no further input. Elements in flight continue."""
        if not self.input_closed:
            self.draining = True
            self.close_input()

    def close_input(self) -> None:
        """Accept no further input, because none is needed."""
        if not self.input_closed:
            self.input_closed = True
            for call in self._drain_calls:
                call()

    def reap_finished_tasks(self) -> None:
        """Handle tasks that ended in this iteration of the event loop, whose callbacks run in the next one only.

        So their faults are known before the run is closed.
        """
        for task in [task for task in self._tasks if task.done()]:
            self._task_done(task)

    async def aclose(self) -> tuple[list[str], list[BaseException]]:
        """Cancel the remaining tasks of the run and wait for their end.

        Returns the names of tasks that did not end, and the errors raised while closing.
        """
        self._closing = True
        for task in self._tasks:
            task.cancel()
        done: set[asyncio.Future[Any]] = set()
        late: set[asyncio.Future[Any]] = set()
        errors: list[BaseException] = []
        if waits := self._start_closing(errors):  # concurrently
            done, late = await asyncio.wait(waits, timeout=CLOSE_SECONDS)
            for wait in late:
                wait.cancel()
        if others := late | self._tasks:
            await asyncio.wait(others, timeout=CANCEL_SECONDS)
        self._drop_references()
        for wait in late:
            detach(wait)
        errors += [error for wait in done | late if (error := _error(wait)) is not None]
        return [*map(_name, late), *(task.get_name() for task in self._tasks if not task.done())], errors

    def _start_closing(self, errors: list[BaseException]) -> list[asyncio.Future[Any]]:
        """Call all `on_close` callbacks. An error of one does not prevent the others."""
        waits: list[asyncio.Future[Any]] = []
        for call in self._close_calls:
            try:
                waits += call()
            except Exception as error:
                errors.append(error)
        return waits

    def _drop_references(self) -> None:
        """Drop the references to objects that refer to this context.

        So reference counting frees all parts of a run. Left to the garbage collector, which searches for them among all
        objects, that cost as much as half of a small run.
        """
        self._drain_calls.clear()
        self._close_calls.clear()
        self._service_queues.clear()
        self.source_connected = None
        self._on_fault = _ignore_fault

    def _task_done(self, task: asyncio.Task[Any]) -> None:
        if task not in self._tasks:
            return
        self._tasks.remove(task)
        if task.cancelled():
            if not self._closing:  # the awaited object was cancelled; end the run
                self.report_fault(CancelledFromOutside(task.get_name()))
        elif (error := task.exception()) is not None:
            self.report_fault(error)


class BranchContext(RunContext):
    """The run context inside a branch. Delegates to the run, but cannot close its input."""

    def __init__(self, run: RunContext) -> None:
        super().__init__(
            run.window,
            name=run.name,
            histograms=run.histograms,
            on_fault=run.report_fault,
            ordered=run.ordered,
            ledger=run.ledger,
            fairness=run.fairness,
            deadlines=run.deadlines,
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

    def watch_queue(self, queue: ServiceQueue) -> None:
        self._run.watch_queue(queue)

    def close_input(self) -> None:
        """Do nothing: other branches may need further input."""


def _name(work: asyncio.Future[Any]) -> str:
    return work.get_name() if isinstance(work, asyncio.Task) else "closing"


def _error(work: asyncio.Future[Any]) -> BaseException | None:
    """Return the error that a future ended with, if it did."""
    return work.exception() if work.done() and not work.cancelled() else None


def _ignore_fault(_: BaseException) -> None:
    """Ignore a fault after the end of the run."""
