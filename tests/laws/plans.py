"""Random runs: a plan says what a run is made of, `play` runs it in virtual time and writes down what happened.

What befalls an element depends on its number only (`fates[number % len(fates)]`), so a plan plays the same every time.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import msgspec
from hypothesis import strategies as st
from reactivex import Observable
from reactivex import operators as ops
from structlog.testing import capture_logs

from penstock import Backoff, Flow, Service, from_async_iterable, from_iterable, ndjson
from penstock.deadletters import Filter, Letter, MemoryStore
from penstock.element import Outcome
from penstock.errors import ReaderGone, StoreError
from penstock.flow import When
from penstock.runtime import Run, Summary, Supervisor
from penstock.sinks import Discard, Lines, Outcomes, Result, Sink
from penstock.sources import Feed, Source
from penstock.testing import run

DAY = 86_400.0
TIMEOUT = 3.0
"""Seconds that one attempt at a service of a plan may take."""
ATTEMPTS = 3
BACKOFF = Backoff(first=0.5, cap=2.0)

FATES = ("ok", "slow", "fail", "refuse", "flaky", "hang")
"""`refuse` fails at the first attempt, `flaky` only at it."""
SOURCES = ("iterable", "async", "broken", "ndjson", "backpressure", "drop_oldest", "drop_newest", "fail")
LATE = 2
"""Values that a `through` of a plan gives out at its end, at most: they are received beside those of the source."""

CHANCE = random.Random(0)

T = TypeVar("T")
Value = dict[str, Any]


class Refused(Exception):
    """What the functions of a plan raise."""


class ForGood(Refused):
    """What another attempt would not help."""

    retryable = False


@dataclass(frozen=True)
class StepPlan:
    """One step: its kind, what befalls its elements, and a small number whose meaning depends on the kind."""

    kind: str
    fates: tuple[str, ...] = ("ok",)
    number: int = 1
    branches: tuple[tuple[StepPlan, ...], ...] = ()
    """The steps inside the branches of a `branch`; those ends whose bit is set in `number`."""

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
        self.shelves: list[Shelf] = []


class Shelf:
    """An outlet that takes what a step's fates say, and knows whether it is used as outlets are to be."""

    def __init__(self, step: StepPlan, spy: Spy) -> None:
        self.name = ""
        self.kept: list[Value] = []
        self.open_now = False
        self.misused: list[str] = []
        self._step = step
        self._spy = spy
        self._busy = False
        self._opened = 0

    async def open(self) -> None:
        async with self._alone():
            self._opened += 1
            await asyncio.sleep(0.1)
            if self._opened % 2 and self._step.fates[0] == "flaky":
                raise Refused("the shelf is locked")
            self.open_now = True

    async def write(self, values: Sequence[Value]) -> list[Exception | None] | None:
        async with self._alone():
            if not self.open_now:
                self.misused.append("written to before it was opened")
            fates = [self._step.fate(value) for value in values]
            for fate, seconds in (("slow", 1.0), ("hang", DAY)):
                if fate in fates:
                    await asyncio.sleep(seconds)
            if "refuse" in fates and len(values) % 2:
                raise Refused("the shelf takes none of these")
            self.kept += [value for value, fate in zip(values, fates, strict=True) if fate not in ("fail", "refuse")]
            return [Refused("not this") if fate in ("fail", "refuse") else None for fate in fates]

    async def aclose(self) -> None:
        async with self._alone():
            if not self.open_now:
                self.misused.append("closed before it was opened")
            self.open_now = False

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        if self._busy:
            self.misused.append("called while another call was under way")
        self._busy = True
        self._spy.under_way += 1
        try:
            yield
        finally:
            self._busy = False
            self._spy.under_way -= 1


class KeptStore(MemoryStore):
    """Letters in memory that take a while, or that cannot be stored at first."""

    def __init__(self, *, fails: int = 0, seconds: float = 0.0) -> None:
        super().__init__()
        self.ids: set[str] = set()
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
        self.ids |= {letter.id for letter in letters}


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
    feed: Feed[Any] | None

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
        if step.fate(value) in ("fail", "refuse"):
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
            return flow.through(lambda source: source.pipe(_operator(step.number), ops.map(plain)))
        case "take":
            return flow.through(ops.take(3 * step.number))
        case "map_async" | "map_in_order":
            service = service_of(step, spy, flow)
            return flow.map_async(service, ordered=step.kind == "map_in_order")
        case "enrich":
            return flow.enrich(found=service_of(step, spy, flow), also=service_of(step, spy, flow, "b"))
        case "batch":
            return flow.batch(service_of(step, spy, flow, many=True), size=step.number, seconds=0.5)
        case "branch":
            return _branch(flow, step, spy, plain)
        case "to":
            shelves = [Shelf(step, spy), Shelf(StepPlan("to"), spy)][: step.number]
            spy.shelves += shelves
            return flow.to(*shelves, timeout=TIMEOUT)
        case other:
            raise ValueError(other)


def _branch(flow: Flow[Any], step: StepPlan, spy: Spy, plain: Callable[[Value], Value]) -> Flow[Any]:
    """Every branch takes its share, by number; as many again are taken by none."""
    branches: dict[str, When] = {}
    for place, plans in enumerate(step.branches):

        def inside(fork: Flow[Any], place: int = place, plans: Sequence[StepPlan] = plans) -> Flow[Any]:
            fork = replace(fork, name=f"{flow.name}-{len(flow.steps)}-{place}")
            for inner in plans:
                fork = _add(fork, inner, spy)
            return fork

        def takes(value: Value, place: int = place) -> bool:
            return bool(plain(value)) and value["id"] % (len(step.branches) + 1) == place

        branches[str(place)] = When(takes, inside, end=bool(step.number >> place & 1))
    return flow.route(branches)


def _operator(number: int) -> Callable[[Observable[Value]], Observable[Value]]:
    """One that gives out one value or none, one that speaks at its end only, one that makes two of each."""
    match number:
        case 1:
            return ops.distinct_until_changed(lambda value: value["id"] // 2)
        case 2:
            return ops.take_last(LATE)
        case _:
            return ops.flat_map(lambda value: [value, value])


def service_of(step: StepPlan, spy: Spy, flow: Flow[Any], suffix: str = "a", many: bool = False) -> Service:
    """A service whose calls end as the step's fates say."""
    name = f"{flow.name}-{step.kind}-{len(flow.steps)}-{suffix}"

    async def one(value: Value) -> Any:
        match step.fate(value):
            case "slow":
                await asyncio.sleep(1.0)
            case "fail":
                raise Refused(name)
            case "refuse":
                raise ForGood(name)
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
            values = [{"id": number} for number in range(plan.count)]
            return from_iterable(values, size=lambda value: 50 + value["id"] % 7), None
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


class Reader:
    """Whoever takes the results, at its own pace; it may leave."""

    def __init__(self, plan: Plan, spy: Spy, store: KeptStore | None) -> None:
        self._plan = plan
        self._spy = spy
        self._store = store
        self.records: list[Value] = []
        self.told: set[int] = set()
        self.gone = False
        self.look: Callable[[Any], None] = lambda _: None

    async def write(self, data: bytes) -> None:
        """The reader of `Lines`."""
        records = [msgspec.json.decode(line) for line in data.splitlines()]
        self._before(records)
        await asyncio.sleep(self._plan.pace)
        if self.gone:
            raise ReaderGone
        self._take(records)

    async def ask(self, sink: Outcomes) -> None:
        """The reader of `Outcomes`."""
        while (result := await sink.next()) is not None:
            record: Value = {"ok": result.ok, "seq": result.seq, "value": result.value}
            if result.dead_letter is not None:
                record["deadLetter"] = result.dead_letter
            self._take([record])
            await asyncio.sleep(self._plan.pace)

    def _before(self, records: list[Value]) -> None:
        self.look(None)
        for record in records:
            if self._store is not None and not record["ok"]:
                self._spy.events.append(("told", record["deadLetter"] in self._store.ids))

    def _take(self, records: list[Value]) -> None:
        self.records += records
        self.told |= {record["seq"] for record in records}


# Playing


def play(plan: Plan) -> Played:
    """Run a plan in virtual time."""
    with capture_logs() as logs:
        return run(within(DAY, _play(plan, logs)))


async def within(seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """A run that hangs is a finding, and no reason to wait for ever."""
    async with asyncio.timeout(seconds):
        return await work


async def _play(plan: Plan, logs: list[Any]) -> Played:
    loop = asyncio.get_running_loop()
    before = timers()
    spy = Spy()
    store = _store_of(plan)
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
    sink: Sink = {"discard": Discard, "stream": Outcomes, "lines": lambda: Lines(reader.write)}[plan.sink]()
    began = loop.time()
    run_ = supervisor.start(flow, source, sink, ordered=plan.ordered)
    runs.append(run_)
    own = [loop.create_task(fill(), name="test: fill")] if fill else []
    if isinstance(sink, Outcomes):
        own.append(loop.create_task(reader.ask(sink), name="test: read"))
    events: dict[str, Callable[[], object]] = {
        "drain": run_.drain,
        "abort": run_.abort,
        "leave": lambda: setattr(reader, "gone", True) if plan.sink == "lines" else run_.abort("left"),
    }
    alarm = loop.call_later(plan.at, events[plan.event]) if plan.event else None
    summary = await run_.finished
    seconds = loop.time() - began
    if alarm is not None:
        alarm.cancel()
    ready = {worker.task for service in flow.services for worker in service.bulkhead.idle}
    tasks = [task.get_name() for task in asyncio.all_tasks() - {asyncio.current_task(), *own, *ready}]
    for task in own:
        task.cancel()
    await asyncio.gather(*own, return_exceptions=True)
    for service in flow.services:
        service.let_go()
    await asyncio.sleep(0)
    tasks += [task.get_name() for task in ready if not task.done()]
    return Played(
        plan,
        summary,
        run_,
        supervisor,
        flow.services,
        spy,
        store,
        [] if store is None else (await store.page(Filter(run=run_.id), limit=1000)).letters,
        reader.records,
        samples,
        list(logs),
        seconds,
        tasks,
        [repr(timer) for timer in timers() if timer not in before],
        plan.count,
        source if isinstance(source, Feed) else None,
    )


def quiet(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in virtual time, for a day at most, without its log."""
    with capture_logs():
        return run(within(DAY, work))


def results(flow: Flow[Any], source: Any, *, ordered: bool = False) -> list[Result]:
    """All results of a flow, in the order in which they came."""
    made = source if isinstance(source, Source) else from_iterable(source)

    async def main() -> list[Result]:
        return [result async for result in flow.stream(made, ordered=ordered)]

    return quiet(main())


def summary_of(flow: Flow[Any], source: Any, sink: Sink | None = None, *, ordered: bool = False) -> Summary:
    """What became of a run."""
    made = source if isinstance(source, Source) else from_iterable(source)

    async def main() -> Summary:
        return await flow.start(made, sink or Discard(), ordered=ordered).finished

    return quiet(main())


def timers() -> list[asyncio.TimerHandle]:
    """The timers of the running loop that will still fire."""
    loop: Any = asyncio.get_running_loop()
    return [timer for timer in loop._scheduled if not timer.cancelled()]


def _store_of(plan: Plan) -> KeptStore | None:
    match plan.store:
        case None:
            return None
        case "memory":
            return KeptStore()
        case "down":
            return KeptStore(fails=2)
        case "slow":
            return KeptStore(seconds=1.5)
        case other:
            raise ValueError(other)


# Drawing

PLAIN = ("map", "tap", "filter", "flat_map", "through")
CALLING = ("map_async", "map_in_order", "enrich", "batch")
READING_ALL = (*PLAIN, "throttle", *CALLING, "branch", "to")
"""Steps that leave the source its whole input."""
KINDS = (*READING_ALL, "take")


@st.composite
def steps(draw: st.DrawFn, kinds: Sequence[str] = KINDS, fates: Sequence[str] = FATES, depth: int = 2) -> StepPlan:
    """Any step; branches of branches down to a depth."""
    kind = draw(st.sampled_from(kinds))
    fewer = [kind for kind in kinds if kind != "branch"] if depth == 1 else kinds
    inside = st.lists(steps(fewer, fates, depth - 1), max_size=2).map(tuple)
    return StepPlan(
        kind,
        tuple(draw(st.lists(st.sampled_from(fates), min_size=1, max_size=4))),
        draw(st.integers(1, 3)),
        tuple(draw(st.lists(inside, min_size=1, max_size=3))) if kind == "branch" else (),
    )


@st.composite
def plans(
    draw: st.DrawFn,
    *,
    kinds: Sequence[str] = KINDS,
    fates: Sequence[str] = FATES,
    sources: Sequence[str] = SOURCES,
    sinks: Sequence[str] = ("lines", "stream", "discard"),
    stores: Sequence[str | None] = (None, "memory", "down", "slow"),
    events: Sequence[str | None] = (None, None, "drain", "abort", "leave"),
    ordered: bool | None = None,
) -> Plan:
    """Any run."""
    return Plan(
        steps=tuple(draw(st.lists(steps(kinds, fates), max_size=4))),
        source=draw(st.sampled_from(sources)),
        count=draw(st.integers(0, 20)),
        pauses=tuple(draw(st.lists(st.sampled_from((0.0, 0.1, 1.0)), min_size=1, max_size=3))),
        cuts=tuple(draw(st.lists(st.integers(1, 40), min_size=1, max_size=3))),
        elements=draw(st.integers(1, 6)),
        bytes=draw(st.integers(60, 400)),
        ordered=draw(st.booleans()) if ordered is None else ordered,
        sink=draw(st.sampled_from(sinks)),
        pace=draw(st.sampled_from((0.0, 0.0, 0.5))),
        store=draw(st.sampled_from(stores)),
        event=draw(st.sampled_from(events)),
        at=draw(st.sampled_from((0.0, 0.1, 0.6, 1.3, 2.0, 5.0))),
    )
