"""The supervisor: it knows all runs of the process, keeps workers going, and takes everything down in order."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Collection, Generator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Protocol

from reactivex import Observable

from penstock.core.element import Element
from penstock.core.fairness import FairScheduler
from penstock.deadletters import Stores
from penstock.errors import FlowDefinitionError, ShuttingDown, TooManyRuns
from penstock.results import DiscardResults, ResultConsumer
from penstock.runtime.counters import FlowStatistics, ServiceCounters
from penstock.runtime.run import Run
from penstock.runtime.schedule import Once, Schedule, validate_schedule
from penstock.runtime.shutdown import Event, Phase, close_stores, next_phase
from penstock.runtime.summary import ShutdownReport, Summary
from penstock.runtime.wiring import RunPlan
from penstock.runtime.worker import RunningWorker
from penstock.services import Backoff, Service
from penstock.support.ids import now
from penstock.support.logger import get_logger

log = get_logger()

Elements = Observable[list[Element[Any]]]

WorkerName = tuple[str, str]
"""The names of a flow and of a worker of it."""


class RunnableFlow(Protocol):
    """A flow, as far as the supervisor knows it."""

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
    """All runs of a process. `max_runs` bounds those that are started with `limited=True` (streams of clients).

    With `apart=True`, dead letters in files are written by processes of their own, one for each file.
    """

    def __init__(self, *, max_runs: int = 100, chance: random.Random | None = None, apart: bool = False) -> None:
        self.stores = Stores(separate_writer=apart)
        self.turns = FairScheduler()
        self.totals: dict[str, FlowStatistics] = {}
        self.calls: dict[str, ServiceCounters] = {}
        """What the services did, by their names."""
        self.runs: dict[str, Run] = {}
        self.restarts: Counter[WorkerName] = Counter()
        """How often each worker was started again after its run broke."""
        self.reschedules: Counter[WorkerName] = Counter()
        """How often the next run of each worker was moved to an earlier time because the clock was set back."""
        self.phase = Phase.SERVING
        self.max_runs = max_runs
        self._forgotten_failures = 0
        self._limited: set[object] = set()
        """The ids of the runs that are limited, and what stands for places that are held without one."""
        self._gathering: set[asyncio.Task[Any]] = set()
        """Those that hold a place while they gather the input of their run."""
        self.workers: dict[WorkerName, asyncio.Task[None]] = {}
        """The tasks that keep background runs going."""
        self._backoff = Backoff(first=1.0, cap=60.0)
        self._chance = chance or random.Random()  # noqa: S311 - jitter, no secret
        self._empty = asyncio.Event()
        self._empty.set()
        self._ended: list[Summary] = []

    async def add(self, flow: RunnableFlow) -> None:
        """Make a flow, or another version of it, known: its store is open, its numbers count. Raises `StoreError`."""
        where = flow.plan().dead_letters
        if where is not None:
            await self.stores.get(where)
        totals = self.totals.setdefault(flow.name, FlowStatistics(flow.name))
        totals.register_steps(flow.failure_points, flow.timed_steps)
        for service in flow.all_services:
            self.calls.setdefault(service.name, ServiceCounters()).use(service)

    async def remove(self, flow: RunnableFlow, rest: Collection[RunnableFlow], *, keep: Collection[str] = ()) -> None:
        """A flow, or a version of it, has no runs any more: let go of what only it used.

        `rest` are all that are still in use, `keep` the URLs of stores that stay open in any case.
        """
        others = [other for other in rest if other.name == flow.name]
        if flow.name in self.totals:
            places = {place for other in others for place in other.failure_points}
            self.totals[flow.name].unregister_steps(places, {step for other in others for step in other.timed_steps})
        in_use = {id(service) for other in rest for service in other.all_services}
        waits: list[asyncio.Future[Any]] = []
        for service in flow.all_services:
            if id(service) not in in_use and service.name in self.calls:
                waits += self.calls[service.name].leave(service)
                if not self.calls[service.name].services:
                    del self.calls[service.name]
        where = flow.plan().dead_letters
        if isinstance(where, str):
            await self.stores.close(where, others=[*keep, *(other.plan().dead_letters for other in rest)])
        if waits:
            await asyncio.wait(waits)

    def start(
        self,
        flow: RunnableFlow,
        source: Elements,
        sink: ResultConsumer,
        *,
        kind: str = "run",
        ordered: bool | None = None,
        limited: bool = False,
    ) -> Run:
        """Start a run. Raises `ShuttingDown` or `TooManyRuns`, and then has not touched the source."""
        self.check(limited=limited)
        run = Run(
            flow.plan(),
            source,
            sink,
            kind=kind,
            ordered=ordered,
            stores=self.stores,
            totals=self.totals.get(flow.name) or self.totals.setdefault(flow.name, FlowStatistics(flow.name)),
            turns=self.turns,
            on_end=self._on_end,
        )
        self.runs[run.id] = run
        self._empty.clear()
        if limited:
            self._limited.add(run.id)
        return run

    @contextmanager
    def reserve_slot(self) -> Generator[None, None, None]:
        """Hold the place of a run that is to be started when this is left, while its input is still gathered.

        A stop ends the wait for that input: then it raises `ShuttingDown`.
        """
        self.check(limited=True)
        task = asyncio.current_task()
        assert task is not None
        self._gathering.add(task)
        try:
            yield
        except asyncio.CancelledError:
            if task in self._gathering or task.uncancel():  # it was not the stop that cancelled it, or not alone
                raise
            raise ShuttingDown from None
        finally:
            self._gathering.discard(task)

    @contextmanager
    def hold_slot(self) -> Generator[None, None, None]:
        """Hold the place of a run, which is started unlimited, until what it gave is delivered too.

        Raises `ShuttingDown` or `TooManyRuns`.
        """
        self.check(limited=True)
        place = object()
        self._limited.add(place)
        try:
            yield
        finally:
            self._limited.discard(place)

    def check(self, *, limited: bool = False) -> None:
        """Raise what `start` would raise."""
        if self.phase is not Phase.SERVING:
            raise ShuttingDown
        if limited and len(self._limited) + len(self._gathering) >= self.max_runs:
            raise TooManyRuns(self.max_runs)

    def start_worker(
        self,
        name: str,
        flow: RunnableFlow,
        make_source: Callable[[], Elements],
        *,
        schedule: Schedule | None = None,
        now: Callable[[], datetime] = now,
    ) -> None:
        """Run a flow in the background on its schedule (default: once); after a break again with backoff.

        `now` is the clock on the wall, which a `Cron` goes by. Raises `FlowDefinitionError` while the flow has a
        worker of that
        name.
        """
        validate_schedule(schedule)
        if not callable(make_source):
            raise FlowDefinitionError(
                f"worker {name!r} needs a function that makes a source: lambda: from_iterable([…])"
            )
        if (before := self.workers.get((flow.name, name))) is not None and not before.done():
            raise FlowDefinitionError(f"flow {flow.name} has a worker {name!r} at work; give this one another name")
        worker = RunningWorker(
            flow.name,
            name,
            lambda: self.start(flow, make_source(), DiscardResults(), kind="worker"),
            schedule or Once(),
            serving=lambda: self.phase is Phase.SERVING,
            restarts=self.restarts,
            reschedules=self.reschedules,
            backoff=self._backoff,
            chance=self._chance,
            now=now,
        )
        self.workers[flow.name, name] = asyncio.get_running_loop().create_task(
            worker.work(), name=f"worker:{flow.name}:{name}"
        )

    @property
    def store_failures(self) -> int:
        """Failed tries to store dead letters, those of flows that are forgotten included."""
        return self._forgotten_failures + sum(totals.store_failures for totals in self.totals.values())

    def runs_of(self, plan: RunPlan) -> list[Run]:
        """The open runs of one version of a flow."""
        return [run for run in self.runs.values() if run.plan.name == plan.name and run.revision == plan.revision]

    def runs_by_revision(self, flow: str) -> Counter[int | None]:
        """How many runs of each version of a flow are open."""
        return Counter(run.revision for run in self.runs.values() if run.plan.name == flow)

    async def stop_workers(self, flow: RunnableFlow) -> None:
        """End the workers of a flow: no further runs, those that are open are drained. Returns when they have ended."""
        names = [name for name in self.workers if name[0] == flow.name]
        tasks = [self.workers.pop(name) for name in names]
        for task in tasks:
            task.cancel()
        runs = [run for run in self.runs_of(flow.plan()) if run.kind == "worker"]
        for run in runs:
            run.drain()
        await asyncio.gather(*tasks, *(run.finished for run in runs), return_exceptions=True)

    def remove_counters(self, flow: str) -> None:
        """Forget what was counted for a flow that will not be run again."""
        if (totals := self.totals.pop(flow, None)) is not None:
            self._forgotten_failures += totals.store_failures
        for counts in (self.restarts, self.reschedules):
            for worker in [worker for worker in counts if worker[0] == flow]:
                del counts[worker]

    def signal(self, event: Event) -> Phase:
        """Take note of an event on the way down, and do what the new phase asks for."""
        phase = next_phase(self.phase, event)
        if phase is not self.phase:
            self.phase = phase
            log.info("shutdown.phase", phase=phase.value, trigger=event.value, runs=len(self.runs))
            self._enter(phase)
        return phase

    async def shut_down(self, grace: float) -> ShutdownReport:
        """Drain all runs, abort what is left after `grace` seconds, and report. Safe to call once."""
        open_at_start = list(self.runs)
        self._ended.clear()
        self.signal(Event.SIGNAL)
        timer = asyncio.get_running_loop().call_later(grace, self.signal, Event.GRACE_OVER)
        for worker in self.workers.values():
            worker.cancel()
        await self._empty.wait()
        timer.cancel()
        await asyncio.gather(*self.workers.values(), return_exceptions=True)
        self.signal(Event.EMPTY)
        services = [service for calls in self.calls.values() for service in calls.services]
        await asyncio.gather(*(wait for service in services for wait in service.release()))
        await asyncio.sleep(0)  # in which their callers end
        await close_stores(self.stores)
        return ShutdownReport.of([summary for summary in self._ended if summary.run in open_at_start])

    def _enter(self, phase: Phase) -> None:
        while self._gathering:
            self._gathering.pop().cancel()
        for run in list(self.runs.values()):
            if phase is Phase.DRAINING:
                run.drain()
            elif phase is Phase.ABORTING:
                run.abort()

    def _on_end(self, run: Run, summary: Summary) -> None:
        self.runs.pop(run.id, None)
        self._limited.discard(run.id)
        if self.phase is not Phase.SERVING:
            self._ended.append(summary)
        if not self.runs:
            self._empty.set()
