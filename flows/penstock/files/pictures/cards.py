"""Cards: what is written on each node of a picture, line by line, and how large that makes it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from penstock.files.pictures.parts import Node
from penstock.files.pictures.words import broken, clean, counted, fit, width

Look = Literal["caption", "title", "fact", "live", "failed", "head", "quiet", "edge"]

SIZES: dict[Look, float] = {
    "caption": 9.5,
    "title": 13.5,
    "fact": 11.5,
    "live": 11.5,
    "failed": 11.5,
    "head": 16,
    "quiet": 12,
    "edge": 11,
}
BOLD: frozenset[Look] = frozenset(("caption", "title", "live", "failed", "head"))
LEADING: dict[Look, float] = {"caption": 15, "title": 18, "fact": 16, "live": 17, "failed": 17}
"""Pixels from the bottom of the line before to the bottom of a line of this look."""

SPACING = 0.6
"""Pixels between the letters of a caption."""
LIMIT = 216.0
"""Pixels that a line of a card may have."""
LINES = 3
"""Lines that a fact may have."""
FACTS = 6
"""Facts that a card may have; how many more there are is said."""
PAD = 14.0
ABOVE = 8.0
BELOW = 11.0
LID = 10.0
"""Height of the lid of a cylinder."""
LEAST = 84.0


@dataclass(frozen=True, slots=True)
class Text:
    """One line: what is shown, and the whole of it when that was too long."""

    shown: str
    look: Look
    whole: str

    @classmethod
    def of(cls, text: str, look: Look, limit: float = LIMIT) -> Text:
        """A text that is no wider than the limit."""
        text = clean(text.upper() if look == "caption" else text)
        room = limit - SPACING * min(len(text), 30) if look == "caption" else limit
        return cls(fit(text, room, SIZES[look], bold=look in BOLD), look, text)

    @classmethod
    def lines(cls, text: str, look: Look) -> list[Text]:
        """A text on as many lines as it needs, up to `LINES`."""
        parts = broken(clean(text), LIMIT, LINES, SIZES[look])
        return [cls(fit(part, LIMIT, SIZES[look]), look, part) for part in parts]

    @property
    def width(self) -> float:
        """Pixels that it takes at most."""
        spacing = SPACING * len(self.shown) if self.look == "caption" else 0
        return width(self.shown, SIZES[self.look], bold=self.look in BOLD) + spacing


@dataclass(frozen=True, slots=True)
class Card:
    """A node, ready to be placed."""

    node: Node
    texts: tuple[Text, ...]
    width: float
    height: float

    @property
    def lid(self) -> float:
        """What is left free at the top."""
        return LID if self.node.kind == "store" else 0.0

    @property
    def hidden(self) -> tuple[str, ...]:
        """What does not stand on the card in full."""
        rest = self.node.facts[FACTS:] if len(self.node.facts) > FACTS else ()
        return (*(text.whole for text in self.texts if text.shown != text.whole), *map(clean, rest))


def card_of(node: Node, *more: str) -> Card:
    """The card of a node, with some facts more."""
    texts = tuple(_texts(node, more))
    widest = max(text.width for text in texts)
    height = ABOVE + sum(LEADING[text.look] for text in texts) + BELOW
    lids = 2 * LID if node.kind == "store" else 0
    return Card(node, texts, max(LEAST, widest + 2 * PAD), height + lids)


def _texts(node: Node, more: tuple[str, ...]) -> Iterator[Text]:
    if clean(node.name).lower() != clean(node.caption).lower() and node.kind != "branch":
        yield Text.of(node.caption, "caption")
    yield Text.of(node.name, "title")
    facts = (*node.facts, *more)
    shown = facts if len(facts) <= FACTS else facts[: FACTS - 1]
    for fact in shown:
        yield from Text.lines(fact, "fact")
    if len(shown) < len(facts):
        yield Text.of(f"{len(facts) - len(shown)} more", "fact")
    yield from _live(node)


def _live(node: Node) -> Iterator[Text]:
    """Live numbers, what is under way on one line."""
    quick = [(word, number) for word, number in node.counts if word in ("in flight", "waiting")]
    for word, number in node.counts:
        if word not in ("in flight", "waiting"):
            yield Text.of(f"{number:,} {word}", "failed" if word in ("failed", "letters") else "live")
    if quick:
        yield Text.of(counted(quick), "live")
