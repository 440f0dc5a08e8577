"""The supervisor: starts and tracks all runs of the process, runs workers, and shuts everything down in order."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Generator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Protocol

from reactivex import Observable

from penstock.core.deadlines import RunDeadline
from penstock.core.element import Element
from penstock.core.fairness import FairScheduler
from penstock.deadletters import LetterWriter, Stores
from penstock.deadletters.target import DeadLetterTarget
from penstock.errors import FlowDefinitionError, ShuttingDown, TooManyRuns, describe
from penstock.results import DiscardResults, ResultConsumer
from penstock.runtime.counters import FlowStatistics, ServiceCounters
from penstock.runtime.order import Ordered
from penstock.runtime.run import Run
from penstock.runtime.run_slots import LocalSlots, RunSlots
from penstock.runtime.schedule import Once, Schedule, validate_schedule
from penstock.runtime.shutdown import Event, Phase, close_stores, next_phase
from penstock.runtime.summary import ShutdownReport, Summary
from penstock.runtime.wiring import RunPlan
from penstock.runtime.worker import RunningWorker
from penstock.services import Backoff, Service
from penstock.support.ids import now
from penstock.support.logger import get_logger

log = get_logger()

ElementStream = Observable[list[Element[Any]]]
"""The elements that a source emits."""

CLIENT_RUNS = ""
"""The name of the slots of all runs of clients. Those of one flow have its name."""

WorkerName = tuple[str, str]
"""The name of a flow, and the name of one of its workers."""


class RunnableFlow(Protocol):
    """The part of a flow that the supervisor uses."""

    @property
    def name(self) -> str: ...

    @property
    def failure_points(self) -> tuple[str, ...]: ...

    @property
    def timed_steps(self) -> tuple[str, ...]: ...

    @property
    def all_services(self) -> tuple[Service, ...]: ...

    def plan(self) -> RunPlan: ...


class Supervisor:
    """All runs of a process. `max_runs` limits those started with `limited=True` (streams of clients).

    With `separate_writer=True`, dead letters in files are written by subprocesses, one for each file. `stores` are
    other stores than these.
    """

    def __init__(
        self,
        *,
        max_runs: int = 100,
        rng: random.Random | None = None,
        separate_writer: bool = False,
        stores: Stores | None = None,
    ) -> None:
        self.stores = stores or Stores(separate_writer=separate_writer)
        self.fairness = FairScheduler()
        self.flow_statistics: dict[str, FlowStatistics] = {}
        self.service_counters: dict[str, ServiceCounters] = {}
        """Counters of the services, by service name."""
        self.runs: dict[str, Run] = {}
        self.restarts: Counter[WorkerName] = Counter()
        """How often each worker was restarted after a failed run."""
        self.reschedules: Counter[WorkerName] = Counter()
        """How often the next run of each worker was moved to an earlier time because the clock was set back."""
        self.phase = Phase.SERVING
        self.max_runs = max_runs
        self.slots: RunSlots = LocalSlots()
        """Counts the limited runs. Replaced before the first one if several processes share the limits."""
        self.on_service: Callable[[Service], None] | None = None
        """Called with each service before it is used."""
        self.on_worker_completed: Callable[[], object] = lambda: None
        """Called after each run of a worker that did not fail."""
        self._removed_store_failures = 0
        self._limited: set[str] = set()
        """The ids of limited runs."""
        self._reserving: set[asyncio.Task[Any]] = set()
        """Tasks that hold a slot while they read the input of their run."""
        self.workers: dict[WorkerName, asyncio.Task[None]] = {}
        """The tasks of workers."""
        self._running_workers: dict[WorkerName, RunningWorker] = {}
        self._worker_runs: dict[str, str] = {}
        """The names of the workers whose runs are open, by the id of the run."""
        self._backoff = Backoff(first=1.0, cap=60.0)
        self._rng = rng or random.Random()  # noqa: S311 - jitter, no secret
        self._empty = asyncio.Event()
        self._empty.set()
        self._ended: list[Summary] = []
        self.before_close: list[Callable[[], Awaitable[None]]] = []
        """Awaited by a shutdown after all runs have ended, before it closes the stores."""

    async def add(self, flow: RunnableFlow) -> None:
        """Register a flow, or another revision of it: open its store and add its counters. Raises `StoreError`."""
        dead_letters = flow.plan().dead_letters
        if dead_letters is not None:
            await self.stores.get(dead_letters)
        statistics = self.flow_statistics.setdefault(flow.name, FlowStatistics(flow.name))
        services = [service.name for service in flow.all_services]
        statistics.register_steps(flow.failure_points, flow.timed_steps, services)
        for service in flow.all_services:
            self.service_counters.setdefault(service.name, ServiceCounters()).use(service)
            if self.on_service is not None:
                self.on_service(service)

    async def remove(
        self, flow: RunnableFlow, others: Collection[RunnableFlow], *, keep_open: Collection[str] = ()
    ) -> None:
        """Unregister a flow, or a revision of it, that has no open runs. Close what only this flow used.

        `others` are the flows still in use, `keep_open` the URLs of stores that stay open in any case.
        """
        same_name = [other for other in others if other.name == flow.name]
        if flow.name in self.flow_statistics:
            failure_points = {point for other in same_name for point in other.failure_points}
            steps = {step for other in same_name for step in other.timed_steps}
            services = {service.name for other in same_name for service in other.all_services}
            self.flow_statistics[flow.name].unregister_steps(failure_points, steps, services)
        in_use = {id(service) for other in others for service in other.all_services}
        waits: list[asyncio.Future[Any]] = []
        for service in flow.all_services:
            if id(service) not in in_use and service.name in self.service_counters:
                waits += self.service_counters[service.name].release(service)
                if not self.service_counters[service.name].services:
                    del self.service_counters[service.name]
        dead_letters = flow.plan().dead_letters
        if isinstance(dead_letters, (str, DeadLetterTarget)):
            await self.stores.close(dead_letters, others=[*keep_open, *(other.plan().dead_letters for other in others)])
        if waits:
            await asyncio.wait(waits)

    def start(
        self,
        flow: RunnableFlow,
        source: ElementStream,
        consumer: ResultConsumer,
        *,
        kind: str = "run",
        ordered: Ordered = None,
        limited: bool = False,
        letters: LetterWriter | None = None,
        deadline: RunDeadline | None = None,
    ) -> Run:
        """Start a run. Raises `ShuttingDown` or `TooManyRuns` before it subscribes to the source.

        `letters` takes its dead letters instead of the store of the flow. Elements that are not finished at the
        `deadline` fail.
        """
        self._take_slot() if limited else self.check()
        try:
            run = Run(
                flow.plan(),
                source,
                consumer,
                kind=kind,
                ordered=ordered,
                stores=self.stores,
                statistics=self.flow_statistics.get(flow.name)
                or self.flow_statistics.setdefault(flow.name, FlowStatistics(flow.name)),
                fairness=self.fairness,
                on_end=self._on_end,
                letters=letters,
                deadline=deadline,
            )
        except BaseException:
            if limited:
                self.slots.give_back(CLIENT_RUNS)
            raise
        self.runs[run.id] = run
        self._empty.clear()
        if limited:
            self._limited.add(run.id)
        return run

    @contextmanager
    def reserve_slot(self) -> Generator[None, None, None]:
        """Hold the slot of a run while its input is read. The run is started when this context exits.

        A shutdown ends the wait for the input and raises `ShuttingDown`.
        """
        self._take_slot()
        task = asyncio.current_task()
        assert task is not None
        self._reserving.add(task)
        try:
            yield
        except asyncio.CancelledError:
            if task in self._reserving or task.uncancel():  # not cancelled by the shutdown, or not only by it
                raise
            raise ShuttingDown from None
        finally:
            self._reserving.discard(task)
            self.slots.give_back(CLIENT_RUNS)

    @contextmanager
    def hold_slot(self) -> Generator[None, None, None]:
        """Hold the slot of a run that is started unlimited, until its results are delivered too.

        Raises `ShuttingDown` or `TooManyRuns`.
        """
        self._take_slot()
        try:
            yield
        finally:
            self.slots.give_back(CLIENT_RUNS)

    def check(self, *, limited: bool = False) -> None:
        """Raise `ShuttingDown` or `TooManyRuns` if `start` would."""
        if self.phase is not Phase.SERVING:
            raise ShuttingDown
        if limited and self.slots.taken(CLIENT_RUNS) >= self.max_runs:
            raise TooManyRuns(self.max_runs)

    def _take_slot(self) -> None:
        """Take the slot of a limited run. Raises `ShuttingDown` or `TooManyRuns`."""
        self.check()
        if not self.slots.take(CLIENT_RUNS, self.max_runs):
            raise TooManyRuns(self.max_runs)

    def start_worker(
        self,
        name: str,
        flow: RunnableFlow,
        make_source: Callable[[], ElementStream],
        *,
        schedule: Schedule | None = None,
        due: datetime | None = None,
        now: Callable[[], datetime] = now,
    ) -> None:
        """Run a flow in the background on its schedule (default: once), and again with backoff after a failed run.

        `due` is the time of the first run, as `stop_workers` returned it in another process (default: by the schedule).
        `now` is the wall clock, which a `Cron` follows. Raises `FlowDefinitionError` if the flow has a running worker
        of that name.
        """
        validate_schedule(schedule)
        if not callable(make_source):
            raise FlowDefinitionError(
                f"worker {name!r}: expected a function that creates a source, such as lambda: from_iterable([…])"
            )
        if (before := self.workers.get((flow.name, name))) is not None and not before.done():
            raise FlowDefinitionError(f"flow {flow.name} already runs a worker {name!r}; give this one another name")

        def start() -> Run:
            run = self.start(flow, make_source(), DiscardResults(), kind="worker")
            self._worker_runs[run.id] = name
            return run

        worker = RunningWorker(
            flow.name,
            name,
            start,
            schedule or Once(),
            serving=lambda: self.phase is Phase.SERVING,
            restarts=self.restarts,
            reschedules=self.reschedules,
            backoff=self._backoff,
            rng=self._rng,
            now=now,
            due=due,
            on_completed=lambda: self.on_worker_completed(),
        )
        self._running_workers[flow.name, name] = worker
        self.workers[flow.name, name] = asyncio.get_running_loop().create_task(
            worker.run(), name=f"worker:{flow.name}:{name}"
        )

    def next_due(self, flow: RunnableFlow) -> dict[str, datetime | None]:
        """Return when the next run of each worker of a flow is due; None if there is no further run.

        While a worker runs, it is the time at which that run was due.
        """
        return {name: worker.next_due() for (of, name), worker in self._running_workers.items() if of == flow.name}

    def unavailable_workers(self) -> dict[WorkerName, float]:
        """Return how long each worker could not receive, in seconds; 0 if it can."""
        now = asyncio.get_running_loop().time()
        return {
            name: 0.0 if task.done() else self._running_workers[name].unavailable_seconds(now)
            for name, task in self.workers.items()
        }

    @property
    def services(self) -> list[Service]:
        """The services in use."""
        return [service for counters in self.service_counters.values() for service in counters.services]

    @property
    def store_failures(self) -> int:
        """Failed attempts to store dead letters, including those of removed flows."""
        current = sum(statistics.store_failures for statistics in self.flow_statistics.values())
        return self._removed_store_failures + current

    def runs_of(self, plan: RunPlan) -> list[Run]:
        """Return the open runs of one revision of a flow."""
        return [run for run in self.runs.values() if run.plan.name == plan.name and run.revision == plan.revision]

    def runs_by_revision(self, flow: str) -> Counter[int | None]:
        """Count the open runs of each revision of a flow."""
        return Counter(run.revision for run in self.runs.values() if run.plan.name == flow)

    async def stop_workers(
        self, flow: RunnableFlow, names: Collection[str] | None = None
    ) -> dict[str, datetime | None]:
        """Stop the workers of a flow: start no further runs, drain open ones, and wait for their end.

        `names` are those of the workers to stop (default: all). Returns when the next run of each is due: a time that
        has passed if a run was interrupted, None if there is no further run.
        """
        keys = [key for key in self.workers if key[0] == flow.name and (names is None or key[1] in names)]
        tasks = [self.workers.pop(key) for key in keys]
        stopped = {key[1]: self._running_workers.pop(key) for key in keys}
        for task in tasks:
            task.cancel()
        runs = [run for run in self.runs_of(flow.plan()) if run.kind == "worker"]
        if names is not None:
            runs = [run for run in runs if self._worker_runs.get(run.id) in names]
        for run in runs:
            run.drain()
        await asyncio.gather(*tasks, *(run.finished for run in runs), return_exceptions=True)
        return {name: worker.next_due() for name, worker in stopped.items()}

    def remove_counters(self, flow: str) -> None:
        """Remove the counters of a flow that will not be run again."""
        if (statistics := self.flow_statistics.pop(flow, None)) is not None:
            self._removed_store_failures += statistics.store_failures
        for counts in (self.restarts, self.reschedules):
            for worker in [worker for worker in counts if worker[0] == flow]:
                del counts[worker]

    def signal(self, event: Event) -> Phase:
        """Handle an event of the shutdown and enter the phase that it leads to."""
        phase = next_phase(self.phase, event)
        if phase is not self.phase:
            self.phase = phase
            log.info("shutdown.phase", phase=phase.value, trigger=event.value, runs=len(self.runs))
            self._enter(phase)
        return phase

    async def shut_down(self, grace: float) -> ShutdownReport:
        """Drain all runs, abort those still open after `grace` seconds, and report. May be called once."""
        open_at_start = list(self.runs)
        self._ended.clear()
        self.signal(Event.SIGNAL)
        timer = asyncio.get_running_loop().call_later(grace, self.signal, Event.GRACE_EXPIRED)
        for worker in self.workers.values():
            worker.cancel()
        await self._empty.wait()
        timer.cancel()
        await asyncio.gather(*self.workers.values(), return_exceptions=True)
        self.signal(Event.ALL_RUNS_ENDED)
        await asyncio.gather(*(wait for service in self.services for wait in service.release()))
        await asyncio.sleep(0)  # their tasks end in this iteration
        for error in await asyncio.gather(*(call() for call in self.before_close), return_exceptions=True):
            if isinstance(error, BaseException):
                log.error("shutdown.step_failed", error=describe(error), exc_info=error)
        await close_stores(self.stores)
        return ShutdownReport.of([summary for summary in self._ended if summary.run in open_at_start])

    def _enter(self, phase: Phase) -> None:
        while self._reserving:
            self._reserving.pop().cancel()
        for run in list(self.runs.values()):
            if phase is Phase.DRAINING:
                run.drain()
            elif phase is Phase.ABORTING:
                run.abort()

    def _on_end(self, run: Run, summary: Summary) -> None:
        self.runs.pop(run.id, None)
        self._worker_runs.pop(run.id, None)
        if run.id in self._limited:
            self._limited.discard(run.id)
            self.slots.give_back(CLIENT_RUNS)
        if self.phase is not Phase.SERVING:
            self._ended.append(summary)
        if not self.runs:
            self._empty.set()
