"""The canvas of a layout: cards, lines, texts and rings at their places."""

from __future__ import annotations

from dataclasses import dataclass, field

from penstock.files.pictures.cards import Card, Text
from penstock.files.pictures.parts import EdgeKind

Point = tuple[float, float]

RING = 5.0
"""Radius of a ring."""


@dataclass(frozen=True, slots=True)
class Box:
    """A card at its place, by its upper left corner."""

    card: Card
    x: float
    y: float

    @property
    def right(self) -> float:
        return self.x + self.card.width

    @property
    def bottom(self) -> float:
        return self.y + self.card.height

    @property
    def middle(self) -> float:
        return self.y + self.card.height / 2


@dataclass(frozen=True, slots=True)
class Wire:
    """A line of straight pieces, with or without an arrow at its end."""

    kind: EdgeKind
    points: tuple[Point, ...]
    arrow: bool = True


@dataclass(frozen=True, slots=True)
class Label:
    """A text beside a wire; `y` is its baseline."""

    text: Text
    x: float
    y: float
    failure: bool = False


@dataclass(frozen=True, slots=True)
class Ring:
    """Where a line ends without going on: `flow` for a result, `filtered` for what is settled there."""

    kind: EdgeKind
    x: float
    y: float


@dataclass(slots=True)
class Canvas:
    """What was placed so far."""

    boxes: list[Box] = field(default_factory=list[Box])
    wires: list[Wire] = field(default_factory=list[Wire])
    labels: list[Label] = field(default_factory=list[Label])
    rings: list[Ring] = field(default_factory=list[Ring])

    def wire(self, *points: Point, kind: EdgeKind = "flow", arrow: bool = True) -> None:
        """Draw a line; points that make no turn are left out."""
        kept = [
            point
            for number, point in enumerate(points)
            if number in (0, len(points) - 1) or not _straight(points[number - 1], point, points[number + 1])
        ]
        if len(set(kept)) > 1:
            self.wires.append(Wire(kind, tuple(kept), arrow))


def _straight(before: Point, point: Point, after: Point) -> bool:
    """Whether a point lies on the line between its neighbours, which all run along one axis."""
    return before[0] == point[0] == after[0] or before[1] == point[1] == after[1]
