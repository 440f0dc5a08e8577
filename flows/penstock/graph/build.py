"""Build the graph of a flow, with live counts if they are given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from penstock.core.element import Outcome
from penstock.flow.flow import Flow
from penstock.graph import details
from penstock.graph.model import BranchNode, Dependency, Graph, Node, NodeKind, StepNode, clean
from penstock.runtime import FlowStatistics
from penstock.services import Service
from penstock.services.service import is_service
from penstock.steps import Branch, Step


@dataclass(frozen=True, slots=True)
class FlowCounters:
    """The counts of a flow since the process started. Services keep their own counts, unless `services` has them."""

    received: int = 0
    in_flight: int = 0
    ok: int = 0
    failed: int = 0
    filtered: int = 0
    cancelled: int = 0
    dead_letters: Mapping[str, int] = field(default_factory=dict[str, int])
    """Stored dead letters by failure point, usually the name of a step."""
    services: Mapping[str, Mapping[str, int]] = field(default_factory=dict[str, Mapping[str, int]])
    """The counts of services by name, if they are those of several processes."""

    @classmethod
    def of(cls, totals: FlowStatistics) -> FlowCounters:
        """Read the current counts."""
        return cls(
            received=totals.received,
            in_flight=totals.in_flight,
            ok=totals.settled(Outcome.OK),
            failed=totals.settled(Outcome.FAILED),
            filtered=totals.settled(Outcome.FILTERED),
            cancelled=totals.settled(Outcome.CANCELLED),
            dead_letters=totals.letters,
        )


def service_counts(service: Service) -> dict[str, int]:
    """Return the counts of a service that its node shows."""
    now = service.statistics()
    return {"calls": sum(now.results.values()), "in flight": now.in_flight, "waiting": now.waiting}


def build_graph(flow: Flow[Any], counters: FlowCounters | None = None) -> Graph:
    """Return the graph of a flow. With `counters`, its nodes have live counts."""
    return _GraphBuilder(flow, counters).build()


class _GraphBuilder:
    """Builds the graph of one flow: assigns ids, and finds services and sinks that several steps share."""

    def __init__(self, flow: Flow[Any], counters: FlowCounters | None) -> None:
        self._flow = flow
        self._counters = counters
        self._ids: set[str] = set()
        self._shared: dict[int, Node] = {}

    def build(self) -> Graph:
        flow, counters = self._flow, self._counters
        total = (("received", counters.received), ("in flight", counters.in_flight)) if counters else ()
        cancelled = (("cancelled", counters.cancelled),) if counters else ()
        filtered = (("filtered", counters.filtered),) if counters else ()
        return Graph(
            name=flow.name,
            description=flow.description,
            window=details.window_label(flow),
            sources=tuple(self._sources()),
            steps=(
                StepNode(
                    self._node("decode", "step", "decode", "decode", details.decode_details(flow), "source", "decode")
                ),
                *map(self._step, flow.steps),
            ),
            result=self._result(),
            store=self._store(),
            counts=(*total, *filtered, *cancelled),
            filtered=Node(self._id("filtered"), "result", "filtered", "filtered", ("no result",), filtered),
        )

    def _sources(self) -> Iterable[Node]:
        flow = self._flow
        if flow.serving.http:
            runs = flow.serving.max_runs
            limit = (f"max {runs:,} streams",) if runs is not None else ()
            yield self._node("http", "source", f"/{flow.serving.name or flow.name}/bulk", "HTTP", limit)
        for worker in flow.workers:
            yield self._node(f"worker.{worker.name}", "source", worker.name, "worker", details.worker_details(worker))
        if not flow.serving.http and not flow.workers:
            yield self._node("code", "source", "source", "Python", ("run, stream",))

    def _result(self) -> Node:
        counters, order = self._counters, f"in {self._flow.ordering} order"
        name = "client" if self._flow.serving.http else "results"
        counts = (("ok", counters.ok), ("failed", counters.failed)) if counters else ()
        return Node(self._id("results"), "result", name, "results", (order,), counts)

    def _store(self) -> Node | None:
        flow, counters = self._flow, self._counters
        if flow.store is None:
            return None
        texts = [f"redacts {', '.join(flow.redacted)}"] if flow.redacted else []
        texts += [f"copy to {details.store_label(url)}" for url in flow.copies]
        counts = (("stored", sum(counters.dead_letters.values())),) if counters else ()
        name = details.store_label(flow.store)
        return Node(self._id("dead-letters"), "store", name, "dead letters", tuple(texts), counts)

    def _step(self, step: Step) -> StepNode:
        caption = details.kind_label(step.kind)
        node = self._node(f"step.{step.name}", "step", step.name, caption, step.summary(), *step.failure_points)
        dependencies = tuple(self._dependencies(step))
        branches = [self._branch(step, branch) for branch in step.branches]
        if branches and all(branch.when is not None for branch in step.branches):
            branches.append(BranchNode(None))
        return StepNode(node, dependencies, tuple(branches), filters=step.is_filter)

    def _branch(self, step: Step, branch: Branch) -> BranchNode:
        node = self._node(f"branch.{step.name}.{branch.name}", "branch", branch.name, "branch", branch.summary())
        return BranchNode(node, tuple(map(self._step, branch.steps)), branch.final)

    def _dependencies(self, step: Step) -> Iterable[Dependency]:
        for key, service in step.services.items():
            label = key if key != service.name else ""
            yield self._dependency(service, "service", service.name, details.service_details(service), label)
        for sink in step.sinks.values():
            yield self._dependency(sink, "sink", sink.name or step.name, details.sink_details(sink))

    def _dependency(
        self, item: object, kind: NodeKind, name: str, texts: tuple[str, ...], label: str = ""
    ) -> Dependency:
        """Return the dependency on a service or sink. Steps that share it share one node."""
        first = id(item) not in self._shared
        if first:
            counts: tuple[tuple[str, int], ...] = ()
            if self._counters and is_service(item):
                counts = tuple((self._counters.services.get(item.name) or service_counts(item)).items())
            self._shared[id(item)] = Node(self._id(f"{kind}.{name}"), kind, name, kind, texts, counts)
        return Dependency(self._shared[id(item)], label, first)

    def _node(
        self, id: str, kind: NodeKind, name: str, caption: str, texts: tuple[str, ...], *failure_points: str
    ) -> Node:
        counters = self._counters
        failed = sum(counters.dead_letters.get(point, 0) for point in failure_points) if counters else 0
        return Node(self._id(id), kind, name, caption, texts, (("failed", failed),) if failed else ())

    def _id(self, id: str) -> str:
        """Return an id that no other node has: the given one, printable, with a number if it is taken."""
        base = clean(id)
        number, unique = 1, base
        while unique in self._ids:
            number += 1
            unique = f"{base}-{number}"
        self._ids.add(unique)
        return unique
