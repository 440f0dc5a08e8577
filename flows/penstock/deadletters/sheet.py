"""A page of letters while it is filled: with as many as were asked for, and no more bytes than fit."""

from __future__ import annotations

from penstock.any_json import as_json
from penstock.deadletters.letter import Letter
from penstock.deadletters.store import PAGE_BYTES, Page


class Sheet:
    """Takes letters in the order of their ids until it is full; at least one, however large."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._letters: list[Letter] = []
        self._bytes = 0

    def take(self, letter: Letter) -> bool:
        """Whether the letter is on this page; if not, the next one begins with it."""
        if self._letters and (len(self._letters) >= self._limit or self._bytes > PAGE_BYTES):
            return False
        self._letters.append(letter)
        self._bytes += size_of(letter)
        return True

    def page(self, *, more: bool) -> Page:
        """The page, and whether another one comes behind it."""
        return Page(self._letters, self._letters[-1].id if more and self._letters else None)


def size_of(letter: Letter) -> int:
    """How large a letter is: the bytes of its input, and of what was found. All else that it has is short."""
    return len(letter.input) + (0 if letter.found is None else len(as_json(letter.found)))
