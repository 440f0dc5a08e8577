"""Where something stands in a file: line and column, counted from 1."""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A place in a file, shown as `file:line:column`, which editors and terminals can jump to; or a file as a whole."""

    file: str
    line: int = 0
    """0 for the file as a whole."""
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


class Placed(Protocol):
    """Anything that knows its place."""

    @property
    def place(self) -> Place: ...


class Lines:
    """The lines of a text, to turn offsets into places."""

    __slots__ = ("_file", "_starts")

    def __init__(self, text: str, file: str) -> None:
        self._file = file
        self._starts = [0, *(offset + 1 for offset, character in enumerate(text) if character == "\n")]

    def place(self, offset: int) -> Place:
        """The place of the character at this offset."""
        line = bisect_right(self._starts, offset)
        return Place(self._file, line, offset - self._starts[line - 1] + 1)


_BRACKET = re.compile(r"""\"(?:\\.|[^\"\\])*\" | (?P<open>[{\[]) | (?P<close>[}\]])""", re.DOTALL | re.VERBOSE)
"""Brackets of JSON; those inside strings are skipped."""


def too_deep(text: str, lines: Lines, deepest: int) -> Place:
    """Where brackets stand more than so many levels inside one another, in a text that is too deep to be read."""
    depth = 0
    for found in _BRACKET.finditer(text):
        depth += (found["open"] is not None) - (found["close"] is not None)
        if depth > deepest:
            return lines.place(found.start())
    return lines.place(0)
