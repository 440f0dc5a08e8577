"""A flow as a graph: what a picture of it shows, whatever the picture is made of.

The steps are kept as they are written, lanes within stages, because a layout needs that; `nodes` and `edges` are the
same, flat. Failures travel with the elements, so one edge leads from the flow as a whole to its dead letters.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

FLOW = "flow"
"""The end of an edge that is the flow as a whole."""

NodeKind = Literal["source", "step", "branch", "service", "outlet", "sink", "store"]
EdgeKind = Literal["flow", "call", "failure", "filtered"]


@dataclass(frozen=True, slots=True)
class Node:
    """Something in the picture: what it is, what it is called, and what is worth knowing about it."""

    id: str
    kind: NodeKind
    name: str
    caption: str
    """What it is, in a word or two: `map`, `worker`, `dead letters`."""
    facts: tuple[str, ...] = ()
    counts: tuple[tuple[str, int], ...] = ()
    """Live numbers, each with its word: `("in flight", 12)`."""


@dataclass(frozen=True, slots=True)
class Edge:
    """A way from one node to another, by their ids; or from `FLOW`, the flow as a whole."""

    start: str
    end: str
    kind: EdgeKind
    label: str = ""


@dataclass(frozen=True, slots=True)
class Beside:
    """What a step calls or delivers to. The `label` is what the step calls it, where that is another name."""

    node: Node
    label: str = ""
    first: bool = True
    """Whether no step before calls it: a picture shows it once."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A step, with what it calls, and with the lanes that its values part into."""

    node: Node
    beside: tuple[Beside, ...] = ()
    lanes: tuple[Lane, ...] = ()
    filters: bool = False


@dataclass(frozen=True, slots=True)
class Lane:
    """One way through a step with branches; the one without a node is for values that no branch takes."""

    node: Node | None
    stages: tuple[Stage, ...] = ()
    ends: bool = False


@dataclass(frozen=True, slots=True)
class Graph:
    """The whole picture."""

    name: str
    about: str
    window: str
    sources: tuple[Node, ...]
    stages: tuple[Stage, ...]
    results: Node
    store: Node | None = None
    counts: tuple[tuple[str, int], ...] = ()
    """Live numbers of the flow as a whole."""
    filtered: Node = field(default=Node("filtered", "sink", "filtered", "filtered"))

    @property
    def nodes(self) -> tuple[Node, ...]:
        """All nodes, each once: sources, steps with what they call, and where elements go in the end."""
        inside = tuple(_nodes(self.stages))
        filtered = (self.filtered,) if any(stage.filters for stage in walk_stages(self.stages)) else ()
        store = (self.store,) if self.store else ()
        return (*self.sources, *inside, self.results, *filtered, *store)

    @property
    def edges(self) -> tuple[Edge, ...]:
        """All edges, in the order in which elements take them."""
        first = self.stages[0].node.id
        entries = [Edge(source.id, first, "flow", self.window) for source in self.sources]
        return (*entries, *self._line(self.stages, [], self.results.id), *self._failures())

    @property
    def failed(self) -> str:
        """What is said about the way of what failed."""
        return next((f"{number:,} failed" for word, number in self.results.counts if word == "failed"), "failed")

    def _failures(self) -> Iterator[Edge]:
        if self.store is None:
            yield Edge(FLOW, self.results.id, "failure", self.failed)
            return
        yield Edge(FLOW, self.store.id, "failure", self.failed)
        yield Edge(self.store.id, self.results.id, "failure", "once durable")

    def _line(self, stages: tuple[Stage, ...], open: list[tuple[str, str]], to: str) -> Iterator[Edge]:
        """The edges of a line of stages, which `open` ends lead to and which leads `to` another node."""
        for stage in stages:
            yield from (Edge(start, stage.node.id, "flow", label) for start, label in open)
            for beside in stage.beside:
                yield Edge(stage.node.id, beside.node.id, "call" if _is_called(beside) else "flow", beside.label)
            if stage.filters:
                yield Edge(stage.node.id, self.filtered.id, "filtered", "filtered")
            open = [] if stage.lanes else [(stage.node.id, "")]
            for lane in stage.lanes:
                ends: list[Edge] = []
                yield from self._lane(stage, lane, ends)
                for last in ends:
                    if lane.ends:
                        yield Edge(last.start, self.results.id, "flow", "ends")
                    else:
                        open.append((last.start, last.label))
        yield from (Edge(start, to, "flow", label) for start, label in open)

    def _lane(self, stage: Stage, lane: Lane, ends: list[Edge]) -> Iterator[Edge]:
        """The edges of a lane; those that lead out of it, which have no end yet, are put into `ends`."""
        if lane.node is None:
            ends.append(Edge(stage.node.id, "", "flow", "else"))
            return
        yield Edge(stage.node.id, lane.node.id, "flow")
        for edge in self._line(lane.stages, [(lane.node.id, "")], ""):
            if edge.end:
                yield edge
            else:
                ends.append(edge)


def _is_called(beside: Beside) -> bool:
    return beside.node.kind == "service"


def walk_stages(stages: tuple[Stage, ...]) -> Iterator[Stage]:
    """All stages, those on lanes included."""
    for stage in stages:
        yield stage
        for lane in stage.lanes:
            yield from walk_stages(lane.stages)


def _nodes(stages: tuple[Stage, ...]) -> Iterator[Node]:
    for stage in stages:
        yield stage.node
        yield from (beside.node for beside in stage.beside if beside.first)
        for lane in stage.lanes:
            if lane.node is not None:
                yield lane.node
            yield from _nodes(lane.stages)
