"""Random runs: a plan says what a run is made of and what will happen to it.

What befalls an element depends on its number only (`fates[number % len(fates)]`), so a plan plays the same every time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

Value = dict[str, Any]

FATES = ("ok", "slow", "fail", "refuse", "flaky", "hang")
"""`refuse` fails at the first attempt, `flaky` only at it."""
SOURCES = ("iterable", "async", "broken", "ndjson", "backpressure", "drop_oldest", "drop_newest", "fail")
PLAIN = ("map", "tap", "filter", "flat_map", "through")
CALLING = ("map_async", "map_in_order", "enrich", "batch")
READING_ALL = (*PLAIN, "throttle", *CALLING, "branch", "to")
"""Steps that leave the source its whole input."""
KINDS = (*READING_ALL, "take")


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
