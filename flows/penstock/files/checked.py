"""Shapes of texts that other parts of Penstock understand: they say themselves what is wrong with one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from penstock.errors import FlowError
from penstock.files.mistakes import Mistakes
from penstock.files.node import Kind, Node
from penstock.files.scalars import Text
from penstock.files.shapes import MISSING, Missing, Schema, Shape
from penstock.runtime.schedule import Cron, zone_named

MAX_CRON = 200
"""Characters of a cron expression."""


@dataclass(frozen=True, slots=True)
class Checked(Shape):
    """A text for which `check` raises neither `FlowError` nor `ValueError`."""

    check: Callable[[str], object]

    @property
    def kinds(self) -> frozenset[Kind]:
        return frozenset({"text"})

    @property
    def wanted(self) -> str:
        return "a text"

    def read(self, node: Node, mistakes: Mistakes, /) -> str | Missing:
        text = Text().read(node, mistakes)
        if text is MISSING:
            return MISSING
        try:
            self.check(text)
        except (FlowError, ValueError, TypeError) as error:
            mistakes.add(node, str(error))
            return MISSING
        return text

    def rules(self, definitions: dict[str, Schema], /) -> Schema:
        return Text().rules(definitions)


def _cron(text: str) -> Cron:
    """A schedule by its cron expression; each part of a list in it costs time, so its length has a limit."""
    if len(text) > MAX_CRON:
        raise FlowError(f"found a cron expression of {len(text)} characters, expected at most {MAX_CRON}")
    return Cron(text)


CRON = Checked(_cron, about="When it runs, as cron writes it: 30 4 * * 1-5")
ZONE = Checked(zone_named, about="The time zone of cron (UTC): Europe/Berlin")
