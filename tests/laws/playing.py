"""`play` runs a plan in virtual time and writes down what happened."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from structlog.testing import capture_logs

from laws.building import flow_of, source_of
from laws.doubles import KeptStore, Reader, Spy, store_of
from laws.plans import Plan, Value
from laws.virtual import DAY, timers, within
from penstock import Service
from penstock.core.element import Outcome
from penstock.deadletters import DeadLetter, DeadLetterQuery
from penstock.results import DiscardResults, LineWriter, ResultConsumer, ResultStream
from penstock.runtime import Run, Summary, Supervisor
from penstock.sources import PushSource
from penstock.testing import run


@dataclass
class Played:
    """What became of a plan."""

    plan: Plan
    summary: Summary
    run: Run
    supervisor: Supervisor
    services: tuple[Service, ...]
    spy: Spy
    store: KeptStore | None
    letters: list[DeadLetter]
    records: list[Value]
    """What the reader was told, one a result: `ok`, `seq`, and for a failure `deadLetter`."""
    samples: list[Sample]
    logs: list[dict[str, Any]]
    seconds: float
    tasks: list[str]
    """Tasks that the run left behind, and workers that did not end once nobody kept them."""
    timers: list[str]
    """Timers that the run left behind."""
    sent: int
    """Values that the source had to give."""
    feed: PushSource[Any] | None

    def said(self, event: str) -> int:
        """How often an event was logged."""
        return sum(entry["event"] == event for entry in self.logs)


@dataclass(frozen=True)
class Sample:
    """The window and the accounts of a run, as seen from inside one of its steps or its sink."""

    in_flight: int
    free: int
    free_bytes: int
    unsettled: int
    settled: int
    """Elements settled as ok or failed."""
    told: int
    """Elements of which the reader has been told."""


def play(plan: Plan) -> Played:
    """Run a plan in virtual time."""
    with capture_logs() as logs:
        return run(within(DAY, _play(plan, logs)))


async def _play(plan: Plan, logs: list[Any]) -> Played:
    loop = asyncio.get_running_loop()
    before = timers()
    spy = Spy()
    store = store_of(plan)
    supervisor = Supervisor()
    samples: list[Sample] = []
    reader = Reader(plan, spy, store)
    runs: list[Run] = []

    def look(_: Any) -> None:
        window, ledger = runs[0].window, runs[0].ledger
        settled = ledger.settled[Outcome.OK] + ledger.settled[Outcome.FAILED]
        samples.append(
            Sample(window.in_flight, window.free, window.free_bytes, ledger.in_flight, settled, len(reader.told))
        )

    reader.look = look
    flow = flow_of(plan, spy, store, look)
    await supervisor.add(flow)
    source, fill = source_of(plan)
    sink: ResultConsumer = {
        "discard": DiscardResults,
        "stream": ResultStream,
        "lines": lambda: LineWriter(reader.write),
    }[plan.sink]()
    began = loop.time()
    run_ = supervisor.start(flow, source, sink, ordered=plan.ordered)
    runs.append(run_)
    own = [loop.create_task(fill(), name="test: fill")] if fill else []
    if isinstance(sink, ResultStream):
        own.append(loop.create_task(reader.ask(sink), name="test: read"))
    events: dict[str, Callable[[], object]] = {
        "drain": run_.drain,
        "abort": run_.abort,
        "leave": lambda: setattr(reader, "gone", True) if plan.sink == "lines" else run_.abort("disconnected"),
    }
    alarm = loop.call_later(plan.at, events[plan.event]) if plan.event else None
    summary = await run_.finished
    seconds = loop.time() - began
    if alarm is not None:
        alarm.cancel()
    ready = {worker.task for service in flow.all_services for worker in service.bulkhead.idle}
    tasks = [task.get_name() for task in asyncio.all_tasks() - {asyncio.current_task(), *own, *ready}]
    for task in own:
        task.cancel()
    await asyncio.gather(*own, return_exceptions=True)
    for service in flow.all_services:
        service.release()
    await asyncio.sleep(0)
    tasks += [task.get_name() for task in ready if not task.done()]
    return Played(
        plan,
        summary,
        run_,
        supervisor,
        flow.all_services,
        spy,
        store,
        [] if store is None else (await store.page(DeadLetterQuery(run=run_.id), limit=1000)).letters,
        reader.records,
        samples,
        list(logs),
        seconds,
        tasks,
        [repr(timer) for timer in timers() if timer not in before],
        plan.count,
        source if isinstance(source, PushSource) else None,
    )
