"""Shapes of durations, sizes and rates: a text with a unit, or a plain number."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from penstock.files.mistakes import Mistakes
from penstock.files.node import Kind, Node
from penstock.files.quantities import DURATION, RATE, SIZE, nearest_quantity, read_duration, read_rate, read_size
from penstock.files.scalars import finite, integral
from penstock.files.shapes import MISSING, Missing, Schema, Shape, whole


@dataclass(frozen=True, slots=True)
class Amount(Shape):
    """A quantity of more than nothing, or with `least=0` also of nothing."""

    least: int | None = None

    pattern: ClassVar[str]
    type: ClassVar[str]

    def __post_init__(self) -> None:
        if self.least not in (None, 0):
            raise ValueError(f"the least amount is either left out, for more than 0, or 0; got {self.least}")

    @property
    def kinds(self) -> frozenset[Kind]:
        return frozenset({"text", "integer", "number"})

    @property
    def wanted(self) -> str:
        return f"{self.said} of more than 0" if self.least is None else self.said

    @property
    @abstractmethod
    def said(self) -> str:
        """What is wanted, apart from its bounds."""

    def rules(self, _definitions: dict[str, Schema], /) -> Schema:
        if self.least is None:
            bound, pattern = {"exclusiveMinimum": 0}, f"(?=.*[1-9]){self.pattern}"
        else:
            bound, pattern = {"minimum": 0}, self.pattern
        types = [self.type, "string"]
        return {"type": types, **bound, "pattern": whole(pattern), "patternErrorMessage": f"wanted is {self.wanted}"}

    def amount(self, node: Node, mistakes: Mistakes, parse: Callable[[str], float | None]) -> float | Missing:
        """The amount, read by `parse` if it is a text."""
        amount = parse(node.value) if node.kind == "text" else node.value
        if node.kind not in self.kinds or amount is None or not finite(amount):
            meant = nearest_quantity(node.value, self.pattern) if node.kind == "text" else None
            self.refuse(node, mistakes, f'did you mean "{meant}"?' if meant else None)
            return MISSING
        if amount < 0 or (amount == 0 and self.least is None):
            return self.refuse(node, mistakes)
        return amount


@dataclass(frozen=True, slots=True)
class Duration(Amount):
    """A span of time, in seconds."""

    pattern: ClassVar[str] = DURATION
    type: ClassVar[str] = "number"

    @property
    def said(self) -> str:
        return "a duration such as 250ms, 2s or 1h30m"

    def read(self, node: Node, mistakes: Mistakes, /) -> float | Missing:
        seconds = self.amount(node, mistakes, read_duration)
        return MISSING if seconds is MISSING else float(seconds)


@dataclass(frozen=True, slots=True)
class Size(Amount):
    """A number of bytes."""

    pattern: ClassVar[str] = SIZE
    type: ClassVar[str] = "integer"

    @property
    def said(self) -> str:
        return "a size such as 16MiB, 64kB or 512B"

    def read(self, node: Node, mistakes: Mistakes, /) -> int | Missing:
        if node.kind == "number" and not integral(node):
            return self.refuse(node, mistakes)
        bytes = self.amount(node, mistakes, read_size)
        return MISSING if bytes is MISSING else int(bytes)


@dataclass(frozen=True, slots=True)
class Rate(Amount):
    """How many a second."""

    pattern: ClassVar[str] = RATE
    type: ClassVar[str] = "number"

    @property
    def said(self) -> str:
        return "a rate such as 10/s, 600/m or 5000/h"

    def read(self, node: Node, mistakes: Mistakes, /) -> float | Missing:
        rate = self.amount(node, mistakes, read_rate)
        return MISSING if rate is MISSING else float(rate)
