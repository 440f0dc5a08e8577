"""Skips records that were written twice, without remembering all of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from penstock.deadletters.dead_letter import DeadLetter

RECENT = 100_000
"""Letters that a reader remembers."""


class Recent:
    """Remembers the last letters that a reader has seen, to skip records that an `add` wrote again after an error.

    A letter that failed again in a redrive is another record: its number of redrives differs.
    """

    def __init__(self, size: int = RECENT) -> None:
        self._size = size
        self._keys: dict[tuple[Any, ...], None] = {}

    def has(self, letter: DeadLetter) -> bool:
        """Check whether a letter was added."""
        return (letter.id, letter.redrives, letter.state) in self._keys

    def unseen(self, letters: Iterable[DeadLetter | None]) -> list[DeadLetter]:
        """Return the letters that were not added before, and add them."""
        found: list[DeadLetter] = []
        for letter in letters:
            if letter is not None and not self.has(letter):
                self.add(letter)
                found.append(letter)
        return found

    def add(self, letter: DeadLetter) -> None:
        """Add a letter, and forget the oldest one above the size."""
        self._keys[letter.id, letter.redrives, letter.state] = None
        if len(self._keys) > self._size:
            del self._keys[next(iter(self._keys))]
