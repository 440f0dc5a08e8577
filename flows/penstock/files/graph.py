"""From a flow to its graph, and to one with live numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from penstock.element import Outcome
from penstock.files.pictures import facts
from penstock.files.pictures.parts import Beside, Graph, Lane, Node, NodeKind, Stage
from penstock.flow import Flow
from penstock.outlets import Outlet
from penstock.runtime import Totals
from penstock.services import Service
from penstock.steps import NamedStep, Way


@dataclass(frozen=True, slots=True)
class Counts:
    """What a flow did so far, for a live picture. What its services do, they tell themselves."""

    received: int = 0
    in_flight: int = 0
    ok: int = 0
    failed: int = 0
    filtered: int = 0
    cancelled: int = 0
    letters: Mapping[str, int] = field(default_factory=dict[str, int])
    """Dead letters stored, by where elements failed."""

    @classmethod
    def of(cls, totals: Totals) -> Counts:
        """The numbers of this moment."""
        return cls(
            received=totals.received,
            in_flight=totals.in_flight,
            ok=totals.settled(Outcome.OK),
            failed=totals.settled(Outcome.FAILED),
            filtered=totals.settled(Outcome.FILTERED),
            cancelled=totals.settled(Outcome.CANCELLED),
            letters=totals.letters,
        )


def graph_of(flow: Flow[Any], counts: Counts | None = None) -> Graph:
    """The graph of a flow; with `counts`, its nodes carry live numbers."""
    return _Drawing(flow, counts).graph()


class _Drawing:
    """The graph of one flow in the making."""

    def __init__(self, flow: Flow[Any], counts: Counts | None) -> None:
        self._flow = flow
        self._counts = counts
        self._ids: set[str] = set()
        self._seen: dict[int, Node] = {}

    def graph(self) -> Graph:
        flow, counts = self._flow, self._counts
        total = (("received", counts.received), ("in flight", counts.in_flight)) if counts else ()
        cancelled = (("cancelled", counts.cancelled),) if counts else ()
        filtered = (("filtered", counts.filtered),) if counts else ()
        return Graph(
            name=flow.name,
            about=flow.about,
            window=facts.window_fact(flow),
            sources=tuple(self._sources()),
            stages=(
                Stage(
                    self._node("decode", "step", "decode", "decode", facts.decode_facts(flow), "source", "decode"),
                ),
                *map(self._stage, flow.steps),
            ),
            results=self._results(),
            store=self._store(),
            counts=(*total, *filtered, *cancelled),
            filtered=Node(self._id("filtered"), "sink", "filtered", "settled", ("without a result",), filtered),
        )

    def _sources(self) -> Iterable[Node]:
        flow = self._flow
        if flow.serving.http:
            runs = flow.serving.max_runs
            limit = (f"at most {runs:,} streams",) if runs is not None else ()
            yield self._node("http", "source", f"/{flow.serving.name or flow.name}/bulk", "http", limit)
        for worker in flow.workers:
            yield self._node(f"worker.{worker.name}", "source", worker.name, "worker", facts.worker_facts(worker))
        if not flow.serving.http and not flow.workers:
            yield self._node("code", "source", "a source", "python", ("start, stream",))

    def _results(self) -> Node:
        counts, order = self._counts, "in the order of the input" if self._flow.ordered else "as they are ready"
        to = "client" if self._flow.serving.http else "results"
        live = (("ok", counts.ok), ("failed", counts.failed)) if counts else ()
        return Node(self._id("results"), "sink", to, "results", (order,), live)

    def _store(self) -> Node | None:
        flow, counts = self._flow, self._counts
        if flow.store is None:
            return None
        without = (f"without {', '.join(flow.redacted)}",) if flow.redacted else ()
        live = (("letters", sum(counts.letters.values())),) if counts else ()
        return Node(self._id("dead-letters"), "store", facts.store_name(flow.store), "dead letters", without, live)

    def _stage(self, step: NamedStep) -> Stage:
        node = self._node(
            f"step.{step.name}", "step", step.name, spoken(step.kind), facts.step_facts(step), *step.places
        )
        lanes = [self._lane(step, way) for way in step.ways]
        if lanes and all(way.when is not None for way in step.ways):
            lanes.append(Lane(None))
        return Stage(node, tuple(self._beside(step)), tuple(lanes), filters=step.kind == "filter")

    def _lane(self, step: NamedStep, way: Way) -> Lane:
        node = self._node(f"branch.{step.name}.{way.name}", "branch", way.name, "branch", facts.way_facts(way))
        return Lane(node, tuple(map(self._stage, way.steps)), way.end)

    def _beside(self, step: NamedStep) -> Iterable[Beside]:
        keys = list(step.options["services"]) if step.kind == "enrich" else []
        for number, service in enumerate(step.services):
            label = keys[number] if keys and keys[number] != service.name else ""
            first = id(service) not in self._seen
            yield Beside(self._once(service, "service", service.name, facts.service_facts(service)), label, first)
        outlets: Iterable[Outlet] = step.options["outlets"] if step.kind == "to" else ()
        for outlet in outlets:
            first = id(outlet) not in self._seen
            yield Beside(
                self._once(outlet, "outlet", outlet.name or step.name, facts.outlet_facts(outlet)), first=first
            )

    def _once(self, thing: object, kind: NodeKind, name: str, about: tuple[str, ...]) -> Node:
        """The node of something that several steps may share."""
        if id(thing) not in self._seen:
            live: tuple[tuple[str, int], ...] = ()
            if self._counts and isinstance(thing, Service):
                now = thing.statistics()
                live = (
                    ("calls", sum(now.results.values())),
                    ("in flight", now.in_flight),
                    ("waiting", now.waiting),
                )
            self._seen[id(thing)] = Node(self._id(f"{kind}.{name}"), kind, name, kind, about, live)
        return self._seen[id(thing)]

    def _node(self, id: str, kind: NodeKind, name: str, caption: str, about: tuple[str, ...], *places: str) -> Node:
        failed = sum(self._counts.letters.get(place, 0) for place in places) if self._counts else 0
        return Node(self._id(id), kind, name, caption, about, (("failed", failed),) if failed else ())

    def _id(self, wanted: str) -> str:
        """An id that no other node has."""
        number, unique = 1, wanted
        while unique in self._ids:
            number += 1
            unique = f"{wanted}-{number}"
        self._ids.add(unique)
        return unique


def spoken(kind: str) -> str:
    """A kind of step as words: `flat_map` is a flat map."""
    return kind.replace("_", " ")
