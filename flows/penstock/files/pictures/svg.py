"""A graph as SVG: drawn here, without any other program, in light and dark colours."""

from __future__ import annotations

from collections.abc import Iterator
from math import copysign
from xml.sax.saxutils import escape, quoteattr

from penstock.files.pictures.canvas import RING, Box, Label, Point, Ring, Wire
from penstock.files.pictures.cards import ABOVE, LEADING, LID, PAD, Text
from penstock.files.pictures.layout import Layout, Panel, lay_out
from penstock.files.pictures.parts import Graph
from penstock.files.pictures.style import style
from penstock.files.pictures.words import clean, counted

CORNER = 8.0
"""Radius of the turns of a line."""
TIP = 6.5
"""Length of an arrow's tip."""


def svg(graph: Graph) -> str:
    """The graph as the text of an SVG file."""
    layout = lay_out(graph)
    width, height = _n(layout.width), _n(layout.height)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" class="ps" role="img" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}" aria-labelledby={quoteattr(f"{graph.name}-title {graph.name}-desc")}>',
            f"<title id={quoteattr(f'{graph.name}-title')}>{_text(f'The flow {graph.name}')}</title>",
            f"<desc id={quoteattr(f'{graph.name}-desc')}>{_text(description(graph))}</desc>",
            f"<style>{escape(style())}</style>",
            *_drawn(layout),
            "</svg>\n",
        ]
    )


def description(graph: Graph) -> str:
    """The picture in words, for whoever does not see it."""
    steps = ", ".join(stage.node.name for stage in graph.stages)
    sources = " and ".join(source.name for source in graph.sources)
    failed = f" What fails is kept at {graph.store.name}." if graph.store else ""
    said = [graph.about, f"From {sources} through {steps} to the results.{failed}", counted(graph.counts)]
    return " ".join(sentence for sentence in said if sentence)


def _drawn(layout: Layout) -> Iterator[str]:
    yield f'<rect class="ground" width="{_n(layout.width)}" height="{_n(layout.height)}" rx="12"/>'
    yield from _panel(layout.panel)
    for wire in layout.canvas.wires:
        yield from _wire(wire)
    for ring in layout.canvas.rings:
        yield _ring(ring)
    for label in layout.canvas.labels:
        yield _label(label)
    for box in layout.canvas.boxes:
        yield from _box(box)


def _panel(panel: Panel) -> Iterator[str]:
    yield (
        f'<rect class="panel" x="{_n(panel.x)}" y="{_n(panel.y)}" width="{_n(panel.width)}" '
        f'height="{_n(panel.height)}" rx="16"/>'
    )
    yield from map(_label, panel.heading)


def _box(box: Box) -> Iterator[str]:
    card = box.card
    about = "".join(f"<title>{_text(' · '.join(card.hidden))}</title>" if card.hidden else "")
    yield f'<g class="{card.node.kind}">{about}{_shape(box)}'
    y = box.y + card.lid * 2 + ABOVE
    for text in card.texts:
        y += LEADING[text.look]
        yield _line(text, box.x + PAD, y - 4)
    yield "</g>"


def _shape(box: Box) -> str:
    card, x, y = box.card, box.x, box.y
    if card.node.kind != "store":
        radius = min(card.height / 2, 18.0) if card.node.kind == "branch" else 10.0
        return (
            f'<rect class="card" x="{_n(x)}" y="{_n(y)}" width="{_n(card.width)}" height="{_n(card.height)}" '
            f'rx="{_n(radius)}"/>'
        )
    half, top, bottom = _n(card.width / 2), _n(y + LID), _n(box.bottom - LID)
    left, right = _n(x), _n(box.right)
    arc = f"A{half} {_n(LID)} 0 0"
    return (
        f'<path class="card" d="M{left} {top}{arc} 1 {right} {top}V{bottom}{arc} 1 {left} {bottom}Z'
        f'M{left} {top}{arc} 0 {right} {top}"/>'
    )


def _wire(wire: Wire) -> Iterator[str]:
    points = list(wire.points)
    (fx, fy), (tx, ty) = points[-2:]
    dx, dy = _sign(tx - fx), _sign(ty - fy)
    if wire.arrow:
        points[-1] = (tx - dx * TIP, ty - dy * TIP)
    yield f'<path class="wire {wire.kind}" d="{path(points)}"/>'
    if wire.arrow:
        bx, by = tx - dx * TIP * 1.25, ty - dy * TIP * 1.25
        wx, wy = dy * TIP * 0.6, dx * TIP * 0.6
        yield (
            f'<path class="tip {wire.kind}" d="M{_n(tx)} {_n(ty)}L{_n(bx + wx)} {_n(by + wy)}'
            f'L{_n(bx - wx)} {_n(by - wy)}Z"/>'
        )


def path(points: list[Point]) -> str:
    """A line through points whose turns are round."""
    parts = [f"M{_n(points[0][0])} {_n(points[0][1])}"]
    for (bx, by), (x, y), (ax, ay) in zip(points, points[1:], points[2:], strict=False):
        room = min(abs(x - bx) + abs(y - by), abs(ax - x) + abs(ay - y)) / 2
        radius = min(CORNER, room)
        into = (x - _sign(x - bx) * radius, y - _sign(y - by) * radius)
        out = (x + _sign(ax - x) * radius, y + _sign(ay - y) * radius)
        parts.append(f"L{_n(into[0])} {_n(into[1])}Q{_n(x)} {_n(y)} {_n(out[0])} {_n(out[1])}")
    parts.append(f"L{_n(points[-1][0])} {_n(points[-1][1])}")
    return "".join(parts)


def _ring(ring: Ring) -> str:
    about = "<title>filtered</title>" if ring.kind == "filtered" else "<title>ends here, as a result</title>"
    return f'<circle class="ring {ring.kind}" cx="{_n(ring.x)}" cy="{_n(ring.y)}" r="{_n(RING)}">{about}</circle>'


def _label(label: Label) -> str:
    return _line(label.text, label.x, label.y, " red" if label.failure else "")


def _line(text: Text, x: float, y: float, more: str = "") -> str:
    return f'<text class="{text.look}{more}" x="{_n(x)}" y="{_n(y)}">{_text(text.shown)}</text>'


def _text(text: str) -> str:
    return escape(clean(text))


def _sign(number: float) -> float:
    return copysign(1.0, number) if number else 0.0


def _n(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0")
