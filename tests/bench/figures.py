"""What a benchmark found, its target and the verdict, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One number. With `at_least` or `at_most` it has a target, without it is told for comparison."""

    name: str
    value: float
    unit: str = ""
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""

    @property
    def target(self) -> str:
        if self.at_least is not None:
            return f"≥ {self.at_least:g}"
        return f"≤ {self.at_most:g}" if self.at_most is not None else ""

    @property
    def met(self) -> bool | None:
        if self.at_least is not None:
            return self.value >= self.at_least
        return self.value <= self.at_most if self.at_most is not None else None

    @property
    def verdict(self) -> str:
        return {True: "met", False: "MISSED", None: ""}[self.met]


def show(title: str, figures: Sequence[Figure]) -> None:
    """Print a table on standard output."""
    rows = [("figure", "value", "unit", "target", "verdict", "note")]
    rows += [(f.name, number(f.value), f.unit, f.target, f.verdict, f.note) for f in figures]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    print(f"\n{title}")
    for row in rows:
        cells = [
            cell.rjust(width) if at == 1 else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip(), flush=True)


def number(value: float) -> str:
    """Three digits that matter, or whole thousands."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def exit_code(figures: Sequence[Figure]) -> int:
    """1 when a target was missed."""
    return int(any(figure.met is False for figure in figures))
