"""Write a graph as a JSON document, for programs. New versions add fields and never change existing ones.

`nodes` have an `id`, a `kind` (`source`, `step`, `branch`, `service`, `sink`, `result`, `store`), a `name`, a `caption`
(the kind of step, `worker`, `http` …), `details` for display, and `counts` in a live graph. `edges` have the ids of two
nodes (`from`, `to`), a `kind` (`flow`, `call`, `failure`, `filtered`) and a `label`. An edge from `flow` starts at the
flow as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from penstock.graph.model import Edge, Graph, Node


def render_json(graph: Graph) -> str:
    """Return the graph as indented JSON."""
    document: dict[str, Any] = {"name": graph.name, "description": graph.description, "window": graph.window}
    if graph.counts:
        document["counts"] = _counts(graph.counts)
    document["nodes"] = [_node(node) for node in graph.nodes]
    document["edges"] = [_edge(edge) for edge in graph.edges]
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n"


def _node(node: Node) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "id": node.id,
        "kind": node.kind,
        "name": node.name,
        "caption": node.caption,
        "details": node.details,
    }
    return fields | ({"counts": _counts(node.counts)} if node.counts else {})


def _edge(edge: Edge) -> dict[str, str]:
    return {"from": edge.start, "to": edge.end, "kind": edge.kind, "label": edge.label}


def _counts(counts: Iterable[tuple[str, int]]) -> dict[str, int]:
    return {"inFlight" if label == "in flight" else label: number for label, number in counts}
