"""Letters as a person at a terminal reads them: a table of many, or one in full."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from penstock.any_json import as_json
from penstock.console import printable
from penstock.deadletters.dead_letter import DeadLetter

HEADS = ("ID", "TIME", "FLOW", "KEY", "STEP", "TYPE", "MESSAGE")

CELL = 32
"""Characters of a cell at most, save of the id and the message."""

LEAST_MESSAGE = 20
"""Characters of a message that are shown however narrow the terminal is."""


class Table:
    """Letters line by line, in columns as wide as the first page needs them.

    On a terminal the message is cut to what is left of the line; in a pipe it is whole, so that it can be searched.
    """

    def __init__(self) -> None:
        self._room = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        self._widths: list[int] = []

    def lines(self, letters: Sequence[DeadLetter]) -> Iterator[str]:
        """The lines of a page; the first page has the heads above it."""
        rows = [row_of(letter) for letter in letters]
        if not self._widths:
            rows.insert(0, HEADS)
            self._widths = [max(len(row[column]) for row in rows) for column in range(len(HEADS) - 1)]
        for row in rows:
            yield self._line(row)

    def _line(self, row: Sequence[str]) -> str:
        *cells, message = row
        line = "  ".join(cut(cell, width).ljust(width) for cell, width in zip(cells, self._widths, strict=True))
        if self._room is not None:
            message = cut(message, max(LEAST_MESSAGE, self._room - len(line) - 2))
        return f"{line}  {message}"


def row_of(letter: DeadLetter) -> tuple[str, ...]:
    """The cells of a letter."""
    key = "" if letter.key is None else str(letter.key)
    cells = (time_of(letter.failed_at, "seconds"), letter.flow, key, letter.step, letter.type)
    return (letter.id, *(cut(printable(cell), CELL) for cell in cells), printable(letter.message))


def in_full(letter: DeadLetter) -> Iterator[str]:
    """All that is known of a letter, a fact a line, and last what came in."""
    facts = {
        "id": letter.id,
        "state": letter.state,
        "flow": letter.flow,
        "run": letter.run,
        "revision": "none" if letter.revision is None else f"{letter.revision}",
        "seq": f"{letter.seq}" if letter.part is None else f"{letter.seq}, part {letter.part}",
        "key": "none" if letter.key is None else str(letter.key),
        "started": time_of(letter.started_at, "microseconds"),
        "failed": time_of(letter.failed_at, "microseconds"),
        "step": letter.step,
        "type": letter.type,
        "message": letter.message,
        "attempts": str(letter.attempts),
        "cause": letter.cause or "none",
        "found": "nothing" if letter.partial_results is None else as_json(letter.partial_results).decode(),
        "input": size_of(letter),
    }
    for name, text in facts.items():
        yield f"{name:<10}{printable(text)}"
    # What is no UTF-8 becomes escapes; its own line breaks stay.
    yield from map(printable, letter.input.decode(errors="backslashreplace").rstrip("\n").split("\n"))


def size_of(letter: DeadLetter) -> str:
    """How much came in, and how much of it is here."""
    kept = len(letter.input)
    return f"{kept} bytes" if kept == letter.input_size else f"{letter.input_size} bytes came in, {kept} are kept"


def time_of(time: datetime, precision: str) -> str:
    """A time in UTC, in the form in which `--since` takes it."""
    return time.astimezone(UTC).replace(tzinfo=None).isoformat(timespec=precision) + "Z"


def cut(text: str, width: int) -> str:
    """A text of a width at most; a longer one ends in an ellipsis."""
    return text if len(text) <= width else text[: width - 1] + "…"
