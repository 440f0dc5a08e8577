"""The layout of a whole picture: sources, the flow as a panel, the results, and the dead letters along the bottom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from penstock.files.pictures.blocks import GAP, TURN, Block, row, stage_block
from penstock.files.pictures.canvas import Box, Canvas, Label
from penstock.files.pictures.cards import Card, Text, card_of
from penstock.files.pictures.parts import Graph
from penstock.files.pictures.words import counted

MARGIN = 20.0
INSIDE = 30.0
"""Between the edge of the panel and the steps."""
HEAD = 48.0
"""Height of the panel's heading, and of a second line with live numbers."""
HEAD_LIVE = 22.0
ROW = 1240.0
"""Width that steps may take before they go on in the next row."""
ROWS = 52.0
"""Between two rows."""
STACK = 16.0
"""Between two sources."""
FALL = 30.0
"""Between the panel and the dead letters below it."""


@dataclass(frozen=True, slots=True)
class Panel:
    """The part of the picture that one run goes through, and its heading."""

    x: float
    y: float
    width: float
    height: float
    heading: tuple[Label, ...]

    @property
    def right(self) -> float:
        return self.x + self.width

    @property
    def bottom(self) -> float:
        return self.y + self.height


@dataclass(frozen=True, slots=True)
class Layout:
    """Everything at its place."""

    width: float
    height: float
    panel: Panel
    canvas: Canvas


def lay_out(graph: Graph) -> Layout:
    """Place everything: no box overlaps another, no line runs through a box, no text is wider than its box."""
    canvas = Canvas()
    rows = [row(blocks) for blocks in in_rows([stage_block(stage) for stage in graph.stages])]
    sources = [card_of(source) for source in graph.sources]
    results = card_of(graph.results)
    rails, height = _rails(rows)

    left = MARGIN + max(card.width for card in sources) + 2 * TURN
    head = HEAD + (HEAD_LIVE if graph.counts else 0)
    above = _stack(sources)[1]
    top = max(MARGIN, MARGIN + above - head - rails[0])
    heading = _heading(graph, left + INSIDE, top)
    widest = [max(block.width for block in rows), *(label.x - left - INSIDE + label.text.width for label in heading)]
    width = 2 * INSIDE + max(widest)
    panel = Panel(left, top, width, head + height + INSIDE, heading)

    rails = [top + head + rail for rail in rails]
    _place_sources(canvas, sources, panel, rails[0])
    _place_rows(canvas, rows, panel, rails)
    store = card_of(graph.store) if graph.store else None
    fall = max(panel.bottom, rails[-1] + results.height / 2) + FALL + (store.height / 2 if store else 0)
    box = Box(results, _right_of(panel, store, graph.failed) + GAP, rails[-1] - results.height / 2)
    leave = rows[-1].leave
    canvas.wire((panel.right if leave is None else panel.x + INSIDE + leave, rails[-1]), (box.x, rails[-1]))
    _place_failures(canvas, panel, box, store, fall, graph.failed)
    canvas.boxes.append(box)

    below = [fall + (store.height / 2 if store else 0), rails[0] - above + _stack(sources)[2]]
    return Layout(box.right + MARGIN, max(below) + MARGIN, panel, canvas)


def in_rows(blocks: Sequence[Block]) -> list[list[Block]]:
    """Blocks in as few rows as they need, which are about equally long."""
    total = sum(block.width + GAP for block in blocks)
    wanted = total / max(1, -(-total // ROW))
    rows: list[list[Block]] = [[]]
    filled = 0.0
    for block in blocks:
        if rows[-1] and (filled + block.width > ROW or filled + block.width / 2 > wanted):
            rows.append([])
            filled = 0.0
        rows[-1].append(block)
        filled += block.width + GAP
    return rows


def _rails(rows: Sequence[Block]) -> tuple[list[float], float]:
    """The rails of rows below each other, seen from their upper edge, and their height."""
    rails = [rows[0].up]
    for above, below in pairwise(rows):
        rails.append(rails[-1] + above.down + ROWS + below.up)
    return rails, rails[-1] + rows[-1].down


def _heading(graph: Graph, x: float, y: float) -> tuple[Label, ...]:
    name = Label(Text.of(graph.name, "head", 420), x, y + 31)
    window = Label(Text.of(graph.window, "quiet", 420), x + name.text.width + 14, y + 31)
    live = (Label(Text.of(counted(graph.counts), "live", 640), x, y + 31 + HEAD_LIVE),) if graph.counts else ()
    return (name, window, *live)


def _stack(cards: Sequence[Card]) -> tuple[list[float], float, float]:
    """Cards below each other: their middles, and what lies above and below the middle of them all."""
    middles = [cards[0].height / 2]
    for above, below in pairwise(cards):
        middles.append(middles[-1] + above.height / 2 + STACK + below.height / 2)
    rail = (middles[(len(middles) - 1) // 2] + middles[len(middles) // 2]) / 2
    return [middle - rail for middle in middles], rail, middles[-1] + cards[-1].height / 2


def _place_sources(canvas: Canvas, cards: Sequence[Card], panel: Panel, rail: float) -> None:
    trunk = panel.x - TURN
    for card, offset in zip(cards, _stack(cards)[0], strict=True):
        box = Box(card, panel.x - 2 * TURN - card.width, rail + offset - card.height / 2)
        canvas.boxes.append(box)
        canvas.wire(
            (box.right, rail + offset),
            (trunk, rail + offset),
            (trunk, rail),
            (panel.x + INSIDE, rail),
            arrow=card is cards[-1],
        )


def _place_rows(canvas: Canvas, rows: Sequence[Block], panel: Panel, rails: Sequence[float]) -> None:
    x = panel.x + INSIDE
    for block, rail in zip(rows, rails, strict=True):
        block.place(canvas, x, rail)
    for (above, rail), (below, next) in pairwise(zip(rows, rails, strict=True)):
        if above.leave is not None:
            turn = next - below.up - ROWS / 2
            right = x + above.width + INSIDE / 2
            left = x - INSIDE / 2
            canvas.wire((x + above.leave, rail), (right, rail), (right, turn), (left, turn), (left, next), (x, next))


def _right_of(panel: Panel, store: Card | None, said: str) -> float:
    """Where the results may begin."""
    failed = Text.of(said, "edge").width
    return max(panel.right, panel.x + INSIDE + failed + GAP + store.width if store else 0)


def _place_failures(canvas: Canvas, panel: Panel, results: Box, store: Card | None, y: float, said: str) -> None:
    """The way of what failed: out of the panel, along the bottom, into the store, and back to the results."""
    x = panel.x + INSIDE
    back = results.x + results.card.width / 2
    canvas.labels.append(Label(Text.of(said, "edge"), x + 12, y - 7, failure=True))
    if store is None:
        canvas.wire((x, panel.bottom), (x, y), (back, y), (back, results.bottom), kind="failure")
        return
    box = Box(store, _right_of(panel, store, said) - store.width, y - store.height / 2)
    canvas.boxes.append(box)
    canvas.wire((x, panel.bottom), (x, y), (box.x, y), kind="failure")
    canvas.wire((box.right, y), (back, y), (back, results.bottom), kind="failure")
    durable = Text.of("once durable", "edge", max(0.0, back - box.right - 12))
    if durable.shown == durable.whole:
        canvas.labels.append(Label(durable, box.right + 6, y - 7, failure=True))
