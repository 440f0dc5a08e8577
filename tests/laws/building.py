"""The flow, the services and the source that a plan describes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Any

import msgspec
from reactivex import Observable
from reactivex import operators as ops

from laws.doubles import ForGood, Refused, Shelf, Spy
from laws.plans import Plan, StepPlan, Value
from laws.virtual import DAY
from penstock import Backoff, Flow, Service, from_async_iterable, from_iterable, ndjson
from penstock.flow.flow import When
from penstock.sources import PushSource, Source

TIMEOUT = 3.0
"""Seconds that one attempt at a service of a plan may take."""
ATTEMPTS = 3
BACKOFF = Backoff(first=0.5, cap=2.0)
LATE = 2
"""Values that a `through` of a plan gives out at its end, at most: they are received beside those of the source."""
CHANCE = random.Random(0)


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
            return flow.batch(service_of(step, spy, flow, many=True), size=step.number, max_wait=0.5)
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

        branches[str(place)] = When(takes, inside, final=bool(step.number >> place & 1))
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
        name, call, max_in_flight=step.number + 1, timeout=TIMEOUT, attempts=ATTEMPTS, backoff=BACKOFF, rng=CHANCE
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
            feed: PushSource[Any] = PushSource(3, overflow)

            async def fill() -> None:
                for number in range(plan.count):
                    await asyncio.sleep(plan.pauses[number % len(plan.pauses)])
                    await feed.push({"id": number})
                feed.close()

            return feed, fill
