"""Blocks: the parts of a layout, each with its size around the line that runs through it, its rail.

A block knows how to put itself onto a canvas. Blocks stand in a row, or as lanes above each other; what a step calls
hangs below it. Nothing here looks for room: each block is as large as what it holds, so nothing can overlap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from penstock.files.pictures.canvas import RING, Box, Canvas, Label, Ring
from penstock.files.pictures.cards import Card, Text, card_of
from penstock.files.pictures.parts import Beside, Lane, Stage

GAP = 40.0
"""Between two blocks of a row: an arrow."""
TURN = 22.0
"""Between a step and the trunk that its lanes leave from, and come together in."""
LANES = 26.0
"""Between two lanes."""
HANG = 16.0
"""Between a step and what hangs below it."""
STEM = 18.0
INDENT = 40.0


@dataclass(frozen=True, slots=True)
class Block:
    """A part of the layout, seen from where its line comes in: its size, and where the line goes on, if it does."""

    width: float
    up: float
    down: float
    leave: float | None
    place: Callable[[Canvas, float, float], None]
    """Put it onto a canvas, at the place where its line comes in."""
    arrow: bool = True
    """Whether the line that comes in ends there with an arrow."""


def stage_block(stage: Stage) -> Block:
    """A step, with what hangs below it, and its lanes."""
    again = [f"{_verb(beside)} {beside.node.name}" for beside in stage.beside if not beside.first]
    card = card_of(stage.node, *again)
    hanging = [
        (beside, card_of(beside.node, *([f"for {beside.label}"] if beside.label else [])))
        for beside in stage.beside
        if beside.first
    ]
    half = card.height / 2
    below = sum(HANG + hung.height for _, hung in hanging) + (HANG + 2 * RING if stage.filters else 0)
    width = max([card.width, *(INDENT + hung.width for _, hung in hanging)])

    def place(canvas: Canvas, x: float, rail: float) -> None:
        canvas.boxes.append(Box(card, x, rail - half))
        y = rail + half
        for beside, hung in hanging:
            box = Box(hung, x + INDENT, y + HANG)
            canvas.boxes.append(box)
            called = beside.node.kind == "service"
            turn = ((x + STEM, rail + half), (x + STEM, box.middle), (box.x, box.middle))
            canvas.wire(*turn, kind="call" if called else "flow")
            y = box.bottom
        if stage.filters:
            middle = x + card.width / 2
            canvas.wire((middle, rail + half), (middle, rail + half + HANG), kind="filtered", arrow=False)
            canvas.rings.append(Ring("filtered", middle, rail + half + HANG + RING))

    own = Block(width, half, half + below, card.width, place)
    return _fork(own, card.width, [_lane(lane) for lane in stage.lanes]) if stage.lanes else own


def row(blocks: Sequence[Block]) -> Block:
    """Blocks from left to right, with arrows between them."""
    starts = [0.0]
    for block in blocks:
        starts.append(starts[-1] + block.width + GAP)

    def place(canvas: Canvas, x: float, rail: float) -> None:
        for block, start in zip(blocks, starts, strict=False):
            block.place(canvas, x + start, rail)
        for (block, start), (next, end) in pairwise(zip(blocks, starts, strict=False)):
            if block.leave is not None:
                canvas.wire((x + start + block.leave, rail), (x + end, rail), arrow=next.arrow)

    leave = blocks[-1].leave
    return Block(
        starts[-1] - GAP,
        max(block.up for block in blocks),
        max(block.down for block in blocks),
        None if leave is None else starts[-2] + leave,
        place,
    )


def _lane(lane: Lane) -> Block:
    """A lane: its branch, its steps, and a ring if it ends."""
    if lane.node is None:
        return _beside_line(Text.of("else", "edge"))
    blocks = [_card_block(card_of(lane.node)), *map(stage_block, lane.stages)]
    return row([*blocks, _end(Text.of("result", "edge"))] if lane.ends else blocks)


def _card_block(card: Card) -> Block:
    half = card.height / 2
    return Block(
        card.width, half, half, card.width, lambda canvas, x, rail: canvas.boxes.append(Box(card, x, rail - half))
    )


def _beside_line(text: Text) -> Block:
    """A text above a line that goes through."""
    return Block(
        text.width + 8,
        18,
        6,
        0.0,
        lambda canvas, x, rail: canvas.labels.append(Label(text, x + 4, rail - 6)),
        arrow=False,
    )


def _end(text: Text) -> Block:
    """A ring, and what it means."""

    def place(canvas: Canvas, x: float, rail: float) -> None:
        canvas.rings.append(Ring("flow", x + RING, rail))
        canvas.labels.append(Label(text, x + 2 * RING + 6, rail + 4))

    return Block(2 * RING + 6 + text.width, 10, 10, None, place, arrow=False)


def _fork(own: Block, width: float, lanes: Sequence[Block]) -> Block:
    """A step and its lanes, which come together behind them unless all of them end."""
    rails = [0.0]
    for above, below in pairwise(lanes):
        rails.append(rails[-1] + above.down + LANES + below.up)
    middle = (rails[(len(rails) - 1) // 2] + rails[len(rails) // 2]) / 2
    offsets = [rail - middle for rail in rails]
    start = max(own.width, width) + 2 * TURN
    end = start + max(lane.width for lane in lanes) + TURN
    goes_on = any(lane.leave is not None for lane in lanes)

    def place(canvas: Canvas, x: float, rail: float) -> None:
        own.place(canvas, x, rail)
        trunk = x + start - TURN
        for lane, offset in zip(lanes, offsets, strict=True):
            y = rail + offset
            canvas.wire((x + width, rail), (trunk, rail), (trunk, y), (x + start, y), arrow=lane.arrow)
            lane.place(canvas, x + start, y)
            if lane.leave is not None:
                canvas.wire((x + start + lane.leave, y), (x + end, y), (x + end, rail), arrow=False)

    return Block(
        end,
        max(own.up, lanes[0].up - offsets[0]),
        max(own.down, offsets[-1] + lanes[-1].down),
        end if goes_on else None,
        place,
    )


def _verb(beside: Beside) -> str:
    return "calls" if beside.node.kind == "service" else "to"
