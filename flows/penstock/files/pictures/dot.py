"""A graph as DOT, the language of Graphviz (https://graphviz.org/doc/info/lang.html)."""

from __future__ import annotations

from collections.abc import Iterator

from penstock.files.pictures.parts import FLOW, Edge, Graph, Node
from penstock.files.pictures.words import clean, counted

_SHAPES = {
    "source": 'shape=box style="rounded"',
    "step": 'shape=box style="rounded"',
    "branch": "shape=plaintext",
    "service": 'shape=box style="rounded,dashed"',
    "outlet": "shape=note",
    "sink": 'shape=box style="rounded"',
    "store": 'shape=cylinder color="#c2545b"',
}
_EDGES = {
    "flow": "",
    "call": "style=dashed arrowhead=open",
    "failure": 'color="#c2545b" fontcolor="#c2545b"',
    "filtered": 'style=dotted color="#94a3b8" fontcolor="#64748b"',
}


def dot(graph: Graph) -> str:
    """The graph as the text of a DOT file."""
    inside = [node for node in graph.nodes if node.kind not in ("source", "sink", "store")]
    outside = [node for node in graph.nodes if node.kind in ("source", "sink", "store")]
    return "\n".join(
        [
            f"digraph {quoted(graph.name)} {{",
            '    graph [rankdir=LR compound=true fontname="Helvetica" fontsize=14 nodesep=0.35]',
            '    node [fontname="Helvetica" fontsize=11 color="#64748b"]',
            '    edge [fontname="Helvetica" fontsize=10 color="#64748b"]',
            "    subgraph cluster_flow {",
            f'        label={quoted(graph.name, counted(graph.counts))} style="rounded" color="#cbd5e1"',
            *(f"        {_node(node)}" for node in inside),
            "    }",
            *(f"    {_node(node)}" for node in outside),
            *(f"    {line}" for line in _edges(graph)),
            "}\n",
        ]
    )


def quoted(*lines: str) -> str:
    """A quoted text of some lines. In DOT only quotes and backslashes mean something there."""
    texts = (clean(line).replace("\\", "\\\\").replace('"', '\\"') for line in lines if line)
    return '"' + "\\n".join(texts) + '"'


def _node(node: Node) -> str:
    shape = "shape=diamond" if node.caption == "route" else _SHAPES[node.kind]
    caption = node.caption if node.caption not in (node.name, node.kind) else ""
    return f"{quoted(node.id)} [label={quoted(node.name, caption, *node.facts, counted(node.counts))} {shape}]"


def _edges(graph: Graph) -> Iterator[str]:
    last = graph.stages[-1].node.id
    for edge in graph.edges:
        start, cluster = (last, " ltail=cluster_flow") if edge.start == FLOW else (edge.start, "")
        yield f"{quoted(start)} -> {quoted(edge.end)} [{_about(edge)}{cluster}]"


def _about(edge: Edge) -> str:
    label = f"label={quoted(edge.label)}" if edge.label else ""
    return " ".join(text for text in (label, _EDGES[edge.kind]) if text)
