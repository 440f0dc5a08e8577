"""Dead letters in memory: for tests, and for flows whose failures need not outlive the process."""

from __future__ import annotations

import time
from bisect import bisect_right, insort
from collections import Counter
from collections.abc import Mapping, Sequence

from penstock.deadletters.letter import Letter
from penstock.deadletters.sheet import Sheet
from penstock.deadletters.store import PAGE, Filter, Page, Problem
from penstock.errors import StoreError

CAPACITY = 100_000
"""Letters kept unless told otherwise: memory needs a limit too."""


class MemoryStore:
    """A bounded store of letters that ends with the process. When it is full, adding raises `StoreError`."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self.url = "memory:"
        self.patience = 1.0
        self.commits = 0
        self.commit_seconds = 0.0
        self.restarts = 0
        self._capacity = capacity
        self._letters: dict[str, Letter] = {}
        self._ids: list[str] = []
        self._problem: Problem | None = None

    async def open(self) -> None:
        """Nothing to get ready."""

    async def add(self, letters: Sequence[Letter]) -> None:
        """Keep letters; all or none."""
        fresh = {letter.id: letter for letter in letters if letter.id not in self._letters}
        if len(self._letters) + len(fresh) > self._capacity:
            error = StoreError(
                f"the dead letters in memory are full ({self._capacity}); keep them in a database instead: "
                "--dead-letters sqlite:///penstock.db"
            )
            error.permanent = True
            self._problem = Problem(error, time.monotonic())
            raise error
        self._problem = None
        self.commits += 1
        self._letters |= fresh
        for id in fresh:
            insort(self._ids, id)

    async def get(self, id: str) -> Letter | None:
        """One letter, or None."""
        return self._letters.get(id)

    async def page(self, filter: Filter, *, after: str | None = None, limit: int = PAGE) -> Page:
        """Letters in the order of their ids, beginning after one of them."""
        sheet = Sheet(limit)
        start = 0 if after is None else bisect_right(self._ids, after)
        for place in range(start, len(self._ids)):
            letter = self._letters[self._ids[place]]
            if _matches(letter, filter) and not sheet.take(letter):
                return sheet.page(more=True)
        return sheet.page(more=False)

    def counts(self) -> Mapping[str, int]:
        """How many letters there are in each state."""
        return Counter(letter.state for letter in self._letters.values())

    def problem(self) -> Problem | None:
        """That it is full, after letters were refused."""
        return self._problem

    async def aclose(self) -> None:
        """Nothing to let go of."""


def _matches(letter: Letter, filter: Filter) -> bool:
    if filter.since is not None and letter.failed_at < filter.since:
        return False
    if filter.until is not None and letter.failed_at >= filter.until:
        return False
    if filter.min_seq is not None and letter.seq < filter.min_seq:
        return False
    return all(
        wanted is None or wanted == found
        for wanted, found in (
            (filter.flow, letter.flow),
            (filter.run, letter.run),
            (filter.step, letter.step),
            (filter.type, letter.type),
            (filter.state, letter.state),
        )
    )
