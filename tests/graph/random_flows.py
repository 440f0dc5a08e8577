"""Generate random flows: all kinds of steps, nested branches, names with a meaning in Mermaid, DOT or HTML."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

from hypothesis import strategies as st

from penstock import Flow, Service, from_iterable
from penstock.expressions import Expression
from penstock.graph import FlowCounters
from penstock.steps import (
    Batch,
    Branch,
    Enrich,
    Fail,
    Filter,
    FlatMap,
    Map,
    MapAsync,
    Route,
    Step,
    Tap,
    Throttle,
    To,
)

TRAPS = (
    "end",
    "1. one",
    "- x",
    '"',
    "]]>",
    "<b>&amp;</b>",
    "#quot;",
    "`x`",
    "a\nb",
    "\\",
    "%%{init}%%",
    "\\N\\G\\",
    "</B></FONT>>]; evil",
    "\u202egnp.exe\x1b[31m",
    'click n0 "javascript:alert(1)"',
    "漢字",
    "🙂",
    "W" * 80,
)

names = st.sampled_from(TRAPS) | st.text(min_size=1, max_size=30)
conditions = st.sampled_from(
    [
        Expression("value.kg > 30"),
        Expression('value.a == "x" && ' * 12 + "value.b in [1, 2]"),
        bool,
        lambda value: value,
    ]
)


@dataclass
class NamedSink:
    """A sink that is only described, and never written to."""

    name: str
    path: str = "out.ndjson"

    async def write(self, values: Any) -> None:
        """Accept nothing: no test writes."""


def service(name: str, **options: Any) -> Service:
    """Return a service that is never called."""
    return Service(name, lambda value: value, **options)


@dataclass
class StepFactory:
    """Makes steps with unique names, some of which share services."""

    draw: st.DrawFn
    numbers: count[int]
    shared: list[Service]

    def name(self) -> str:
        return f"{next(self.numbers)} {self.draw(names)}"

    def steps(self, depth: int, max: int = 3) -> tuple[Step, ...]:
        return tuple(self.step(depth) for _ in range(self.draw(st.integers(0, max))))

    def service(self) -> Service:
        if self.draw(st.booleans()):
            return self.draw(st.sampled_from(self.shared))
        return service(self.name(), timeout=self.draw(st.sampled_from([0.02, 2, 90, 3600])), attempts=2)

    def step(self, depth: int) -> Step:
        kinds = ["map", "filter", "fail", "tap", "flat_map", "map_async", "enrich", "batch", "throttle", "to"]
        kind = self.draw(st.sampled_from([*kinds, *["route"] * 3] if depth else kinds))
        condition = self.draw(conditions)
        name = self.name()
        makers: dict[str, Callable[[], Step]] = {
            "map": lambda: Map(condition, name=name),
            "filter": lambda: Filter(condition, name=name),
            "fail": lambda: Fail(condition, reason=lambda _: "no", name=name),
            "tap": lambda: Tap(condition, name=name),
            "flat_map": lambda: FlatMap(condition, max_parts=1000, name=name),
            "map_async": lambda: MapAsync(self.service(), ordered=self.draw(st.booleans()), name=name),
            "enrich": lambda: Enrich({self.name(): self.service() for _ in range(2)}, name=name),
            "batch": lambda: Batch(self.service(), size=50, max_wait=0.02, name=name),
            "throttle": lambda: Throttle(0.5, burst=3, name=name),
            "to": lambda: To(tuple(NamedSink(self.name()) for _ in range(2)), name=name),
            "route": lambda: Route(self.branches(depth), name=name),
        }
        return makers[kind]()

    def branches(self, depth: int) -> tuple[Branch, ...]:
        number = self.draw(st.integers(1, 4))
        last = None if self.draw(st.booleans()) else bool
        whens = [*(self.draw(conditions) for _ in range(number - 1)), last]
        steps = [(self.name(), when, self.steps(depth - 1), self.draw(st.booleans())) for when in whens]
        return tuple(Branch(*each) for each in steps)


@st.composite
def flows(draw: st.DrawFn) -> Flow[Any]:
    """Return any flow."""
    factory = StepFactory(draw, count(), [service("shared"), service("shared too")])
    flow = Flow[Any](draw(st.sampled_from(["orders", "x", "名前", "a" * 90])), description=draw(names))
    flow = replace(flow, steps=factory.steps(2, 8)).serve(http=draw(st.booleans()))
    for _ in range(draw(st.integers(0, 4))):
        flow = flow.worker(factory.name(), from_iterable(()))
    if draw(st.booleans()):
        flow = flow.dead_letters("memory:", redact=["card.number"])
    return flow.order() if draw(st.booleans()) else flow


@st.composite
def counters(draw: st.DrawFn, flow: Flow[Any]) -> FlowCounters | None:
    """Return live counts for a flow, or None."""
    if draw(st.booleans()):
        return None
    number = st.integers(0, 10**12)
    letters = {point: draw(number) for point in draw(st.sets(st.sampled_from(flow.failure_points)))}
    received, in_flight, ok, failed, filtered, cancelled = (draw(number) for _ in range(6))
    return FlowCounters(received, in_flight, ok, failed, filtered, cancelled, letters)
