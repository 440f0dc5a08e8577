"""Random runs: a plan says what a run is made of, `play` runs it in virtual time and writes down what happened.

What befalls an element depends on its number only (`fates[number % len(fates)]`), so a plan plays the same every time.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from hypothesis import strategies as st
from reactivex import operators as ops
from structlog.testing import capture_logs

from penstock import Backoff, Flow, Service, from_async_iterable, from_iterable, ndjson
from penstock.deadletters import Filter, Letter, MemoryStore
from penstock.element import Element, Outcome
from penstock.errors import ReaderGone, StoreError
from penstock.runtime import Run, Summary, Supervisor
from penstock.sinks import Discard, Lines, Sink
from penstock.sources import Feed, Source
from penstock.testing import run

DAY = 86_400.0
TIMEOUT = 3.0
"""Seconds that one attempt at a service of a plan may take."""
ATTEMPTS = 3
BACKOFF = Backoff(first=0.5, cap=2.0)

Value = dict[str, Any]


class Refused(Exception):
    """What the functions of a plan raise."""


@dataclass(frozen=True)
class StepPlan:
    """One step: its kind, what befalls its elements, and a small number whose meaning depends on the kind."""

    kind: str
    fates: tuple[str, ...] = ("ok",)
    number: int = 1

    def fate(self, value: Value) -> str:
        return self.fates[value["id"] % len(self.fates)]


@dataclass(frozen=True)
class Plan:
    """One run, and what will happen to it."""

    steps: tuple[StepPlan, ...] = ()
    source: str = "iterable"
    count: int = 10
    pauses: tuple[float, ...] = (0.0,)
    cuts: tuple[int, ...] = (64,)
    elements: int = 4
    bytes: int = 1000
    ordered: bool = False
    sink: str = "lines"
    pace: float = 0.0
    store: str | None = "memory"
    event: str | None = None
    at: float = 0.0


class Spy:
    """What the parts of a run did, in order."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []
        self.attempts: Counter[tuple[str, int]] = Counter()
        self.calls = 0
        self.under_way = 0


class KeptStore(MemoryStore):
    """Letters in memory that take a while, or that cannot be stored at first."""

    def __init__(self, spy: Spy, *, fails: int = 0, seconds: float = 0.0) -> None:
        super().__init__()
        self.spy = spy
        self.fails = fails
        self.failed = 0
        self.seconds = seconds
        self.patience = 4.0

    async def add(self, letters: Sequence[Letter]) -> None:
        await asyncio.sleep(self.seconds)
        if self.failed < self.fails:
            self.failed += 1
            raise StoreError("the store is down")
        await super().add(letters)
        for letter in letters:
            self.spy.events.append(("stored", letter.seq))


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
    letters: list[Letter]
    lines: list[Value]
    results: list[Any]
    samples: list[tuple[int, int, int, int]]
    """Window and ledger, as seen from inside a step: in flight by window, by ledger; bytes free; elements free."""
    settled: Counter[int]
    """How often each element of the input was settled."""
    logs: list[dict[str, Any]]
    seconds: float
    tasks: list[str] = field(default_factory=list)
    timers: list[str] = field(default_factory=list)
    feed: Feed[Any] | None = None


# Parts of a plan


def flow_of(plan: Plan, spy: Spy, store: Any, sample: Callable[[Value], None] | None = None) -> Flow[Any]:
    """The flow that a plan describes."""
    flow: Flow[Any] = Flow("plan", key="id", elements=plan.elements, bytes=plan.bytes).filter(_is_item, name="item")
    if sample is not None:
        flow = flow.tap(sample, name="sample")
    for step in plan.steps:
        flow = _add(flow, step, spy)
    if sample is not None:
        flow = flow.tap(sample, name="sample")
    return flow if store is None else flow.dead_letters(store)


def _is_item(value: Any) -> bool:
    if not isinstance(value, dict) or "id" not in value:
        raise Refused("no item")
    return True


def _add(flow: Flow[Any], step: StepPlan, spy: Spy) -> Flow[Any]:
    def plain(value: Value) -> Value:
        if step.fate(value) == "fail":
            raise Refused(step.kind)
        return {**value, step.kind: True}

    match step.kind:
        case "map":
            return flow.map(plain, name="map")
        case "tap":
            return flow.tap(plain, name="tap")
        case "filter":
            return flow.filter(lambda value: plain(value) and value["id"] % (step.number + 1), name="filter")
        case "flat_map":
            return flow.flat_map(
                lambda value: (plain(value) | {"part": part} for part in range(value["id"] % (step.number + 2))),
                max_parts=step.number,
                name="flat_map",
            )
        case "throttle":
            return flow.throttle(4.0 * step.number, burst=step.number)
        case "through":
            return flow.through(ops.distinct_until_changed(lambda value: value["id"] // 2))
        case "map_async" | "map_in_order":
            service = service_of(step, spy, flow)
            return flow.map_async(service, ordered=step.kind == "map_in_order")
        case "enrich":
            return flow.enrich(found=service_of(step, spy, flow), **{"also": service_of(step, spy, flow, "b")})
        case "batch":
            return flow.batch(service_of(step, spy, flow, many=True), size=step.number, seconds=0.5)
        case other:
            raise ValueError(other)


def service_of(step: StepPlan, spy: Spy, flow: Flow[Any], suffix: str = "a", many: bool = False) -> Service:
    """A service whose calls end as the step's fates say."""
    name = f"{step.kind}-{len(flow.steps)}-{suffix}"

    async def one(value: Value) -> Any:
        match step.fate(value):
            case "slow":
                await asyncio.sleep(1.0)
            case "fail":
                raise Refused(name)
            case "flaky":
                spy.attempts[name, value["id"]] += 1
                await asyncio.sleep(0.25)
                if spy.attempts[name, value["id"]] == 1:
                    raise Refused(name)
            case "hang":
                await asyncio.sleep(DAY)
        return value | {name: value["id"]} if step.kind.startswith(("map", "batch")) else value["id"]

    async def call(value: Any) -> Any:
        spy.calls += 1
        spy.under_way += 1
        try:
            return [await one(item) for item in value] if many else await one(value)
        finally:
            spy.under_way -= 1

    return Service(
        name, call, max_in_flight=step.number + 1, timeout=TIMEOUT, attempts=ATTEMPTS, backoff=BACKOFF, chance=CHANCE
    )


CHANCE = random.Random(0)


def line_of(number: int) -> bytes:
    """A line of an upload; a few are rubbish."""
    match number % 11:
        case 7:
            return b'{"id": oops'
        case 8:
            return b"[]"
        case _:
            return msgspec.json.encode({"id": number, "pad": "x" * (number % 5)})


def source_of(plan: Plan) -> tuple[Source[Any], Callable[[], Any] | None]:
    """The source of a plan, and what has to be started to fill it."""

    async def paused() -> AsyncIterator[Any]:
        for number in range(plan.count):
            await asyncio.sleep(plan.pauses[number % len(plan.pauses)])
            yield {"id": number}
        if plan.source == "broken":
            raise ConnectionError("the source broke")

    async def chunks() -> AsyncIterator[bytes]:
        body = b"".join(line_of(number) + (b"\r\n" if number % 3 else b"\n") for number in range(plan.count))
        start = turn = 0
        while start < len(body):
            await asyncio.sleep(plan.pauses[turn % len(plan.pauses)])
            size = plan.cuts[turn % len(plan.cuts)]
            yield body[start : start + size]
            start, turn = start + size, turn + 1

    match plan.source:
        case "iterable":
            return from_iterable([{"id": number} for number in range(plan.count)], size=lambda v: 50 + v["id"] % 7), None
        case "async" | "broken":
            return from_async_iterable(paused()), None
        case "ndjson":
            return ndjson(chunks()), None
        case overflow:
            feed: Feed[Any] = Feed(3, overflow)

            async def fill() -> None:
                for number in range(plan.count):
                    await asyncio.sleep(plan.pauses[number % len(plan.pauses)])
                    await feed.send({"id": number})
                feed.complete()

            return feed, fill


class Writer:
    """A client that reads at its own pace, and may leave."""

    def __init__(self, plan: Plan, spy: Spy) -> None:
        self._plan = plan
        self._spy = spy
        self.lines: list[Value] = []
        self.gone = False

    async def __call__(self, data: bytes) -> None:
        await asyncio.sleep(self._plan.pace)
        if self.gone or (self._plan.sink == "leaver" and len(self.lines) >= 3):
            raise ReaderGone
        for line in data.splitlines():
            record = msgspec.json.decode(line)
            self.lines.append(record)
            self._spy.events.append(("written", record["seq"]))


class Asked:
    """A consumer of `flow.stream()` that takes results at its own pace."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.results: list[Any] = []


# Playing


def play(plan: Plan) -> Played:
    """Run a plan in virtual time."""
    with capture_logs() as logs:
        return run(_bounded(_play(plan, logs)))


async def _bounded(work: Any) -> Any:
    async with asyncio.timeout(DAY):  # a run that hangs is a finding, not a reason to wait
        return await work


async def _play(plan: Plan, logs: list[Any]) -> Played:
    loop = asyncio.get_running_loop()
    timers_before = _timers()
    spy = Spy()
    store = _store_of(plan, spy)
    supervisor = Supervisor()
    samples: list[tuple[int, int, int, int]] = []
    runs: list[Run] = []

    def sample(_: Any) -> None:
        window, ledger = runs[0].window, runs[0].ledger
        samples.append((window.in_flight, ledger.in_flight, window.free_bytes, window.free))

    flow = flow_of(plan, spy, store, sample)
    await supervisor.add(flow)
    source, fill = source_of(plan)
    writer = Writer(plan, spy)
    sink: Sink = Discard() if plan.sink == "discard" else Lines(writer)
    filling = loop.create_task(fill(), name="test: fill") if fill else None
    began = loop.time()
    run_ = supervisor.start(flow, source, sink, ordered=plan.ordered)
    runs.append(run_)
    settled = _watch(run_, spy)
    if plan.event == "drain":
        loop.call_later(plan.at, run_.drain)
    elif plan.event == "abort":
        loop.call_later(plan.at, run_.abort)
    elif plan.event == "leave":
        loop.call_later(plan.at, setattr, writer, "gone", True)
    summary = await run_.finished
    seconds = loop.time() - began
    left_tasks = [
        task.get_name() for task in asyncio.all_tasks() - {asyncio.current_task(), filling} if not task.done()
    ]
    left_timers = [timer for timer in _timers() if timer not in timers_before and "_play" not in timer]
    if filling is not None:
        filling.cancel()
        await asyncio.gather(filling, return_exceptions=True)
    letters = [] if store is None else (await store.page(Filter(run=run_.id), limit=1000)).letters
    return Played(
        plan,
        summary,
        run_,
        supervisor,
        flow.services,
        spy,
        store,
        letters,
        writer.lines,
        [],
        samples,
        settled,
        list(logs),
        seconds,
        left_tasks,
        left_timers,
        source if isinstance(source, Feed) else None,
    )


def _timers() -> list[str]:
    """Timers that will still fire, save those of the test itself."""
    loop: Any = asyncio.get_running_loop()
    return [
        repr(timer)
        for timer in loop._scheduled
        if not timer.cancelled() and "Timeout" not in repr(timer) and "Run." not in repr(timer)
    ]


def _watch(run_: Run, spy: Spy) -> Counter[int]:
    """Note every settling of an element of the input, beside the ledger."""
    settled: Counter[int] = Counter()
    ledger = run_.ledger
    settle = ledger.settle

    def watched(elements: Any, outcome: Outcome) -> None:
        listed: list[Element[Any]] = list(elements)
        for element in listed:
            if element.parent is None:
                settled[element.seq] += 1
                spy.events.append((f"settled {outcome}", element.seq))
        settle(listed, outcome)

    run_.ledger.__class__ = _Watched
    object.__setattr__(ledger, "watched", watched)
    return settled


def _store_of(plan: Plan, spy: Spy) -> KeptStore | None:
    match plan.store:
        case None:
            return None
        case "memory":
            return KeptStore(spy)
        case "down":
            return KeptStore(spy, fails=2)
        case "slow":
            return KeptStore(spy, seconds=1.5)
        case other:
            raise ValueError(other)
