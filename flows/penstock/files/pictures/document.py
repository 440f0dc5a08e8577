"""A graph as a JSON document, for programs. Fields are added to it, never changed.

`nodes` have an `id`, a `kind` (`source`, `step`, `branch`, `service`, `outlet`, `sink`, `store`), a `name`, a `caption`
(the kind of step, `worker`, `http` …), `facts` for people, and in a live graph `counts`. `edges` go `from` one id `to`
another, with a `kind` (`flow`, `call`, `failure`, `filtered`) and a `label`; those from `flow` stand for all steps.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from penstock.files.pictures.parts import Edge, Graph, Node


def document(graph: Graph) -> str:
    """The graph as JSON, a line an entry."""
    about: dict[str, Any] = {"name": graph.name, "about": graph.about, "window": graph.window}
    if graph.counts:
        about["counts"] = _counts(graph.counts)
    parts = {"nodes": [_node(node) for node in graph.nodes], "edges": [_edge(edge) for edge in graph.edges]}
    return msgspec.json.format(msgspec.json.encode({**about, **parts}), indent=2).decode() + "\n"


def _node(node: Node) -> dict[str, Any]:
    told: dict[str, Any] = {
        "id": node.id,
        "kind": node.kind,
        "name": node.name,
        "caption": node.caption,
        "facts": node.facts,
    }
    return told | ({"counts": _counts(node.counts)} if node.counts else {})


def _edge(edge: Edge) -> dict[str, str]:
    return {"from": edge.start, "to": edge.end, "kind": edge.kind, "label": edge.label}


def _counts(counts: Iterable[tuple[str, int]]) -> dict[str, int]:
    return {"inFlight" if word == "in flight" else word: number for word, number in counts}
