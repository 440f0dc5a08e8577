"""Write a graph in DOT, the language of Graphviz (https://graphviz.org/doc/info/lang.html).

The labels of nodes are HTML-like, so that the name of a node is bold and the texts below it are small.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

from penstock.graph.model import COLORS, FLOW, Graph, Node, StepNode, format_counts, shorten

_FONT = "Helvetica,Arial,sans-serif"
_NAME_COLOR = "#0f172a"
_TEXT_COLOR = "#526072"
_COUNT_COLOR = "#0f766e"
_LINE_COLOR = "#64748b"
_NAME_WIDTH, _TEXT_WIDTH, _EDGE_WIDTH, _TITLE_WIDTH = 28, 38, 20, 80
"""The longest lines of a label, in characters."""

_SPACE = '<FONT POINT-SIZE="3"> </FONT>'
_BOX = 'shape=box style="rounded,filled"'
_STYLES = {
    "service": 'shape=box style="rounded,filled,dashed"',
    "sink": 'shape=note style="filled"',
    "store": 'shape=cylinder style="filled"',
}
_EDGE_STYLES = {
    "flow": "",
    "call": f'style=dashed arrowhead=open color="{COLORS["service"].line}" fontcolor="{COLORS["service"].line}"',
    "failure": f'color="{COLORS["store"].line}" fontcolor="{COLORS["store"].line}"',
    "filtered": f'style=dotted color="{COLORS["filtered"].line}"',
}


def render_dot(graph: Graph) -> str:
    """Return the graph as the text of a DOT file."""
    lines = [
        f"digraph {quote(graph.name)} {{",
        f'    graph [rankdir=LR newrank=true compound=true fontname="{_FONT}" nodesep=0.3 ranksep=0.45 pad=0.25]',
        f'    node [fontname="{_FONT}" fontsize=12 fontcolor="{_NAME_COLOR}" margin="0.14,0.08" penwidth=1.2]',
        f'    edge [fontname="{_FONT}" fontsize=9 color="{_LINE_COLOR}" fontcolor="{_TEXT_COLOR}" arrowsize=0.7]',
        *(f"    {_node(node)}" for node in graph.sources),
        "    subgraph cluster_flow {",
        f"        graph [label=<{_title(graph)}> labeljust=l margin=16]",
        '        graph [style="rounded,filled" color="#d5dde7" fillcolor="#f8fafc"]',
        *(f"        {line}" for line in _steps(graph.steps, "main")),
        "    }",
        *(f"    {_node(node, 'main' if node is graph.result else '')}" for node in graph.end_nodes),
        *(f"    {line}" for line in _edges(graph)),
        "}",
    ]
    return "\n".join(lines) + "\n"


def quote(*lines: str) -> str:
    """Return a quoted string of some lines, without escape sequences and HTML entities that Graphviz would replace."""
    texts = (line.replace("\\", "\\\\").replace('"', '\\"').replace("&", "&amp;") for line in lines)
    return '"' + "\\n".join(texts) + '"'


def wrap(text: str, width: int) -> list[str]:
    """Break a text into lines: between words, in words longer than a line after punctuation, or else anywhere."""
    lines = [""]
    for word in shorten(text).split():
        parts = [word] if len(word) <= width else re.findall(r"[^/,&?]*[/,&?]+|[^/,&?]+", word)
        pieces = [part[at : at + width] for part in parts for at in range(0, len(part), width)]
        for number, piece in enumerate(pieces):
            space = " " if lines[-1] and number == 0 else ""
            if len(lines[-1]) + len(space) + len(piece) <= width:
                lines[-1] += space + piece
            else:
                lines.append(piece)
    return [line for line in lines if line]


def _steps(steps: tuple[StepNode, ...], group: str) -> Iterator[str]:
    """Yield the nodes of consecutive steps, which stand on a straight line. Each branch is a cluster."""
    for step in steps:
        yield _node(step.node, group)
        yield from (_node(dependency.node) for dependency in step.dependencies if dependency.first)
        for branch in step.branches:
            if branch.node is not None:
                yield f"subgraph {quote(f'cluster_{branch.node.id}')} {{"
                yield f'    graph [label="" style="rounded,filled" color="{COLORS["branch"].line}70"]'
                yield '    graph [fillcolor="#fffdf7" margin=10]'
                yield f"    {_node(branch.node, branch.node.id)}"
                yield from (f"    {line}" for line in _steps(branch.steps, branch.node.id))
                yield "}"


def _node(node: Node, group: str = "") -> str:
    color = COLORS[node.style]
    attributes = f'{_STYLES.get(node.style, _BOX)} color="{color.line}" fillcolor="{color.fill}"'
    return f"{quote(node.id)} [label=<{_label(node)}> {attributes}{f' group={quote(group)}' if group else ''}]"


def _label(node: Node) -> str:
    """Return the label of a node: its name in bold, and its other texts below."""
    texts = [
        *_lines(node.subtitle, COLORS[node.style].line),
        *(line for text in node.details for line in _lines(text, _TEXT_COLOR)),
        *_lines(format_counts(node.counts), _COUNT_COLOR),
    ]
    names = [f"<B>{_escape_html(line)}</B>" for line in wrap(node.name, _NAME_WIDTH)]
    return _left([*names, *([_SPACE, *texts] if texts else [])])


def _title(graph: Graph) -> str:
    """Return the label of the flow: its name, its description, its window and its live counts."""
    return _left(
        [
            *(f'<FONT POINT-SIZE="14"><B>{_escape_html(line)}</B></FONT>' for line in wrap(graph.name, _TITLE_WIDTH)),
            _SPACE,
            *_lines(graph.description, _TEXT_COLOR, _TITLE_WIDTH),
            *_lines(graph.window, _TEXT_COLOR, _TITLE_WIDTH),
            *_lines(format_counts(graph.counts), _COUNT_COLOR, _TITLE_WIDTH),
        ]
    )


def _lines(text: str, color: str, width: int = _TEXT_WIDTH) -> list[str]:
    return [f'<FONT POINT-SIZE="9" COLOR="{color}">{_escape_html(line)}</FONT>' for line in wrap(text, width)]


def _left(lines: list[str]) -> str:
    """Join the lines of an HTML-like label: aligned to the left, a single one centered."""
    return "".join(f'{line}<BR ALIGN="LEFT"/>' for line in lines) if len(lines) > 1 else "".join(lines)


def _escape_html(text: str) -> str:
    """Escape a text for an HTML-like label, in which Graphviz replaces escape sequences, too."""
    return html.escape(text, quote=False).replace("\\", "\\\\")


def _edges(graph: Graph) -> Iterator[str]:
    tail = _last_column(graph)
    reached: set[str] = set()
    for edge in graph.edges:
        start, end, attributes = edge.start, edge.end, [_EDGE_STYLES[edge.kind]]
        if lines := wrap(edge.label, _EDGE_WIDTH):
            attributes.append(f"label={quote(*(f' {line} ' for line in lines))}")
        if start == FLOW:
            start = tail
            attributes.append("ltail=cluster_flow")
        if edge.kind == "flow":  # the weight keeps steps close to those before them
            attributes.append(f"weight={2 if end == graph.result.id else 10}")
        if edge.kind == "call" and end in reached:  # a shared service stands to the left of all callers but the first
            start, end = end, start
            attributes.append("dir=back arrowtail=open")
        reached.add(edge.end)
        yield f"{quote(start)} -> {quote(end)} [{' '.join(filter(None, attributes))}]"


def _last_column(graph: Graph) -> str:
    """Return the node of the flow that stands farthest to the right.

    The edge of failures starts there, or its label would lie inside the box of the flow.
    """
    columns = dict.fromkeys((node.id for node in graph.inner_nodes), 0)
    reached: set[str] = set()
    for edge in graph.edges:
        if edge.start in columns and edge.end in columns:
            left, right = edge.start, edge.end
            if edge.kind == "call" and edge.end in reached:
                left, right = right, left
            columns[right] = max(columns[right], columns[left] + 1)
            reached.add(edge.end)
    return max(reversed(columns), key=columns.__getitem__)
