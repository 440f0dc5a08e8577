"""Define the graph of a flow, independent of the format in which it is drawn.

The steps are a tree, as in the flow file: a step with branches contains the steps of its branches. `Graph.nodes` and
`Graph.edges` list the same graph flat. A failed element can come from any step, so failures are one edge from the
flow as a whole.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

FLOW = "flow"
"""The start of an edge that comes from the flow as a whole."""

MAX_TEXT = 400
"""The longest text, in characters, that a drawing shows in full. JSON documents contain the complete text."""

NodeKind = Literal["source", "step", "branch", "service", "sink", "result", "store"]
EdgeKind = Literal["flow", "call", "failure", "filtered"]


class Color(NamedTuple):
    """The colors of a kind of node."""

    line: str
    fill: str


COLORS: dict[str, Color] = {
    "source": Color("#2563a8", "#e9f2fb"),
    "step": Color("#64748b", "#ffffff"),
    "branch": Color("#b7791f", "#fdf4df"),
    "service": Color("#6d5bb0", "#f3f0fb"),
    "sink": Color("#0f766e", "#e5f5f2"),
    "result": Color("#2f7d46", "#e8f6ec"),
    "filtered": Color("#94a3b8", "#f1f5f9"),
    "store": Color("#b4474f", "#fcebec"),
}
"""The colors of nodes in drawings, by `Node.style`. The text on them is dark."""


@dataclass(frozen=True, slots=True)
class Node:
    """A node: a source, step, branch, service, sink, result or dead-letter store."""

    id: str
    kind: NodeKind
    name: str
    caption: str
    """The kind in words: `map`, `worker`, `dead letters`."""
    details: tuple[str, ...] = ()
    """Options and limits for display: `timeout 2s`."""
    counts: tuple[tuple[str, int], ...] = ()
    """Live counts with their labels: `("in flight", 12)`."""

    @property
    def style(self) -> str:
        """The name of the style in drawings: the kind, or `filtered` for the node of filtered elements."""
        return "filtered" if self.kind == "result" and self.caption == "filtered" else self.kind

    @property
    def subtitle(self) -> str:
        """The caption, empty if a drawing shows the same word already."""
        return self.caption if self.caption not in (self.name, self.kind) else ""


@dataclass(frozen=True, slots=True)
class Edge:
    """An edge between two nodes, by their ids. It starts at `FLOW` if it comes from the flow as a whole."""

    start: str
    end: str
    kind: EdgeKind
    label: str = ""


@dataclass(frozen=True, slots=True)
class Dependency:
    """A service that a step calls, or a sink that it writes to. `label` is set if the step uses another name for it."""

    node: Node
    label: str = ""
    first: bool = True
    """False if an earlier step uses the same service or sink, so that its node exists already."""


@dataclass(frozen=True, slots=True)
class StepNode:
    """A step with its services, sinks and branches."""

    node: Node
    dependencies: tuple[Dependency, ...] = ()
    branches: tuple[BranchNode, ...] = ()
    filters: bool = False


@dataclass(frozen=True, slots=True)
class BranchNode:
    """A branch of a step. Values that match no branch take the one whose `node` is None."""

    node: Node | None
    steps: tuple[StepNode, ...] = ()
    final: bool = False
    """Whether values at the end of the branch are results, instead of going on to the next step."""


@dataclass(frozen=True, slots=True)
class Graph:
    """The graph of one flow."""

    name: str
    description: str
    window: str
    sources: tuple[Node, ...]
    steps: tuple[StepNode, ...]
    result: Node
    store: Node | None = None
    counts: tuple[tuple[str, int], ...] = ()
    """Live counts of the flow as a whole."""
    filtered: Node = field(default=Node("filtered", "result", "filtered", "filtered"))

    @property
    def inner_nodes(self) -> tuple[Node, ...]:
        """The nodes inside the flow: steps, branches, services and sinks, each once."""
        return tuple(_nodes(self.steps))

    @property
    def end_nodes(self) -> tuple[Node, ...]:
        """The nodes at which elements end: results, filtered elements, dead letters."""
        filtered = (self.filtered,) if any(step.filters for step in walk(self.steps)) else ()
        return (self.result, *filtered, *((self.store,) if self.store else ()))

    @property
    def nodes(self) -> tuple[Node, ...]:
        """All nodes, each once."""
        return (*self.sources, *self.inner_nodes, *self.end_nodes)

    @property
    def edges(self) -> tuple[Edge, ...]:
        """All edges, in the order in which elements take them."""
        first = self.steps[0].node.id
        entries = [Edge(source.id, first, "flow") for source in self.sources]
        return (*entries, *self._sequence(self.steps, [], self.result.id), *self._failures())

    def _failures(self) -> Iterator[Edge]:
        counts = dict(self.result.counts)
        label = f"{counts['failed']:,} failed" if "failed" in counts else "failed"
        if self.store is None:
            yield Edge(FLOW, self.result.id, "failure", label)
            return
        yield Edge(FLOW, self.store.id, "failure", label)
        yield Edge(self.store.id, self.result.id, "failure", "once stored")

    def _sequence(self, steps: tuple[StepNode, ...], open: list[tuple[str, str]], to: str) -> Iterator[Edge]:
        """Yield the edges of consecutive steps.

        `open` lists the nodes, with edge labels, that lead to the first step. The last step leads to the node `to`.
        """
        for step in steps:
            yield from (Edge(start, step.node.id, "flow", label) for start, label in open)
            for dependency in step.dependencies:
                kind: EdgeKind = "call" if dependency.node.kind == "service" else "flow"
                yield Edge(step.node.id, dependency.node.id, kind, dependency.label)
            if step.filters:
                yield Edge(step.node.id, self.filtered.id, "filtered")
            open = [] if step.branches else [(step.node.id, "")]
            for branch in step.branches:
                ends: list[Edge] = []
                yield from self._branch(step, branch, ends)
                for last in ends:
                    if branch.final:
                        yield Edge(last.start, self.result.id, "flow", "final")
                    else:
                        open.append((last.start, last.label))
        yield from (Edge(start, to, "flow", label) for start, label in open)

    def _branch(self, step: StepNode, branch: BranchNode, ends: list[Edge]) -> Iterator[Edge]:
        """Yield the edges inside a branch. The edges that leave it, still without an end, are added to `ends`."""
        if branch.node is None:
            ends.append(Edge(step.node.id, "", "flow", "else"))
            return
        yield Edge(step.node.id, branch.node.id, "flow")
        for edge in self._sequence(branch.steps, [(branch.node.id, "")], ""):
            if edge.end:
                yield edge
            else:
                ends.append(edge)


def walk(steps: Iterable[StepNode]) -> Iterator[StepNode]:
    """Yield all steps, including those of branches."""
    for step in steps:
        yield step
        for branch in step.branches:
            yield from walk(branch.steps)


def clean(text: str) -> str:
    """Put a text on one line and remove control characters, direction marks and unassigned characters."""
    kept = "".join(" " if letter.isspace() else letter for letter in text)
    return " ".join("".join(letter for letter in kept if unicodedata.category(letter)[0] != "C").split())


def shorten(text: str) -> str:
    """Clean a text, and cut it after `MAX_TEXT` characters."""
    text = clean(text)
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1].rstrip() + "…"


def format_counts(counts: Iterable[tuple[str, int]]) -> str:
    """Format live counts: `1,234 received · 12 in flight`."""
    return " · ".join(f"{number:,} {label}" for label, number in counts)


def _nodes(steps: tuple[StepNode, ...]) -> Iterator[Node]:
    for step in steps:
        yield step.node
        yield from (dependency.node for dependency in step.dependencies if dependency.first)
        for branch in step.branches:
            if branch.node is not None:
                yield branch.node
            yield from _nodes(branch.steps)
