"""Write a graph as a Mermaid flowchart, which GitHub and many wikis draw (https://mermaid.js.org/syntax/flowchart.html)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from penstock.graph.model import COLORS, FLOW, Edge, Graph, Node, StepNode, format_counts, shorten

_SHAPES = {
    "source": ("([", "])"),
    "step": ("(", ")"),
    "branch": ("([", "])"),
    "service": ("[[", "]]"),
    "sink": ("[/", "/]"),
    "result": ("([", "])"),
    "filtered": ("([", "])"),
    "store": ("[(", ")]"),
}
_ARROWS = {"flow": "-->", "call": "-.->", "failure": "==>", "filtered": "-.->"}
_EDGE_STYLES = {
    "call": f"stroke:{COLORS['service'].line}",
    "failure": f"stroke:{COLORS['store'].line},stroke-width:1.5px",
    "filtered": f"stroke:{COLORS['filtered'].line}",
}
_TEXT_COLOR = "#0f172a"
_CONFIG = """\
---
config:
  flowchart:
    wrappingWidth: 280
    nodeSpacing: 60
    subGraphTitleMargin: {top: 2, bottom: 20}
---"""
"""Mermaid leaves room for one line of title. The margin is for a second line; groups overlap if it is larger."""
_UNSAFE = re.compile(r"[^\w \-.,:/·…+=?!%'$@]|^\d+\.|^[-+]")
"""Characters with a meaning in Mermaid or in HTML, and beginnings of Markdown lists."""


def render_mermaid(graph: Graph) -> str:
    """Return the graph as the text of a Mermaid flowchart."""
    ids = {node.id: f"n{number}" for number, node in enumerate(graph.nodes)} | {FLOW: "flow"}
    title = _label(graph.name, format_counts(graph.counts) or graph.window)
    lines = [
        _CONFIG,
        "flowchart LR",
        *(f"    {_node(node, ids)}" for node in graph.sources),
        f'    subgraph flow["{title}"]',
        "        direction LR",
        *(f"        {line}" for line in _steps(graph.steps, ids)),
        "    end",
        *(f"    {_node(node, ids)}" for node in graph.end_nodes),
        *(f"    {line}" for line in _edges(graph.edges, ids)),
        *(f"    {line}" for line in _styles(graph, ids)),
    ]
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """Escape a text for use between double quotes. Mermaid shows it unchanged, on one line."""
    return _UNSAFE.sub(lambda found: "".join(f"#{ord(letter)};" for letter in found[0]), shorten(text))


def _steps(steps: tuple[StepNode, ...], ids: dict[str, str]) -> Iterator[str]:
    """Yield the nodes of steps. Each branch is a subgraph."""
    for step in steps:
        yield _node(step.node, ids)
        yield from (_node(dependency.node, ids) for dependency in step.dependencies if dependency.first)
        for branch in step.branches:
            if branch.node is not None:
                yield f'subgraph {_subgraph(branch.node, ids)}[" "]'
                yield f"    {_node(branch.node, ids)}"
                yield from (f"    {line}" for line in _steps(branch.steps, ids))
                yield "end"


def _subgraph(branch: Node, ids: dict[str, str]) -> str:
    return f"branch_{ids[branch.id]}"


def _node(node: Node, ids: dict[str, str]) -> str:
    left, right = ("{", "}") if node.caption == "route" else _SHAPES[node.style]
    return f'{ids[node.id]}{left}"{_label(node.name, node.subtitle, *node.details, format_counts(node.counts))}"{right}'


def _label(name: str, *texts: str) -> str:
    """Return a label: the name in bold, and each text on a separate line."""
    return "<br/>".join([f"<b>{escape(name)}</b>", *(escape(text) for text in texts if text)])


def _edges(edges: tuple[Edge, ...], ids: dict[str, str]) -> Iterator[str]:
    for edge in edges:
        label = f'|"{escape(edge.label)}"|' if edge.label else ""
        yield f"{ids[edge.start]} {_ARROWS[edge.kind]}{label} {ids[edge.end]}"
    for kind, style in _EDGE_STYLES.items():
        if numbers := [str(number) for number, edge in enumerate(edges) if edge.kind == kind]:
            yield f"linkStyle {','.join(numbers)} {style}"


def _styles(graph: Graph, ids: dict[str, str]) -> Iterator[str]:
    for style, color in COLORS.items():
        if nodes := [ids[node.id] for node in graph.nodes if node.style == style]:
            dashed = ",stroke-dasharray:4 3" if style == "service" else ""
            yield f"classDef {style} fill:{color.fill},stroke:{color.line},color:{_TEXT_COLOR}{dashed}"
            yield f"class {','.join(nodes)} {style}"
    yield "style flow fill:none,stroke:#cbd5e1"
    for node in graph.nodes:
        if node.kind == "branch":
            yield f"style {_subgraph(node, ids)} fill:none,stroke:{COLORS['branch'].line},stroke-dasharray:2 3"
