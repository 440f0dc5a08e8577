"""A graph as Mermaid, for READMEs and wikis that draw it themselves (https://mermaid.js.org/syntax/flowchart.html)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from penstock.files.pictures.parts import FLOW, Edge, Graph, Node
from penstock.files.pictures.words import clean, counted

_SHAPES = {
    "source": ("([", "])"),
    "step": ("[", "]"),
    "branch": ("([", "])"),
    "service": ("[[", "]]"),
    "outlet": ("[/", "/]"),
    "sink": ("([", "])"),
    "store": ("[(", ")]"),
}
_ARROWS = {"flow": "-->", "call": "-.->", "failure": "==>", "filtered": "-.->"}
_UNSAFE = re.compile(r"[^\w \-.,:/·…+=?!%'$@]|^\d+\.|^[-+]")

STYLE = """\
    classDef service stroke-dasharray: 4 3
    classDef store stroke: #c2545b
    classDef branch font-style: italic"""


def mermaid(graph: Graph) -> str:
    """The graph as the text of a Mermaid flowchart."""
    ids = {node.id: f"n{number}" for number, node in enumerate(graph.nodes)} | {FLOW: "flow"}
    inside = [node for node in graph.nodes if node.kind not in ("source", "sink", "store")]
    outside = [node for node in graph.nodes if node.kind in ("source", "sink", "store")]
    title = "<br/>".join(quoted(text) for text in (graph.name, counted(graph.counts)) if text)
    lines = ["flowchart LR", f'    subgraph flow["{title}"]', "    direction LR"]
    lines += [f"    {_node(node, ids)}" for node in inside]
    lines += ["    end", *(f"    {_node(node, ids)}" for node in outside)]
    lines += [f"    {line}" for line in _edges(graph, ids)]
    return "\n".join([*lines, STYLE, *_classes(graph, ids)]) + "\n"


def quoted(text: str) -> str:
    """A text that Mermaid shows as it is, between quotes: what means something to it is written as a number."""
    return _UNSAFE.sub(lambda found: "".join(f"#{ord(letter)};" for letter in found[0]), clean(text))


def _node(node: Node, ids: dict[str, str]) -> str:
    left, right = _SHAPES[node.kind]
    if node.caption == "route":
        left, right = "{", "}"
    texts = [node.name, *([node.caption] if node.caption not in (node.name, node.kind) else []), *node.facts]
    text = "<br/>".join(quoted(text) for text in [*texts, counted(node.counts)] if text)
    return f'{ids[node.id]}{left}"{text}"{right}'


def _edges(graph: Graph, ids: dict[str, str]) -> Iterator[str]:
    for edge in graph.edges:
        label = f'|"{quoted(edge.label)}"|' if edge.label else ""
        yield f"{ids[edge.start]} {_ARROWS[edge.kind]}{label} {ids[edge.end]}"
    for number, edge in enumerate(graph.edges):
        if style := _style(edge):
            yield f"linkStyle {number} {style}"


def _style(edge: Edge) -> str:
    return {"failure": "stroke: #c2545b, stroke-width: 1.5px", "filtered": "stroke: #94a3b8"}.get(edge.kind, "")


def _classes(graph: Graph, ids: dict[str, str]) -> Iterator[str]:
    for kind in ("service", "store", "branch"):
        if named := [ids[node.id] for node in graph.nodes if node.kind == kind]:
            yield f"    class {','.join(named)} {kind}"
