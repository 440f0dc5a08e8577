"""A dead-letter store in memory, for tests and for flows whose failures need not outlive the process."""

from __future__ import annotations

import time
from bisect import bisect_right, insort
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from msgspec.structs import replace

from penstock.deadletters.dead_letter import DeadLetter
from penstock.deadletters.store import (
    PAGE,
    DeadLetterQuery,
    GroupField,
    Page,
    PageBuilder,
    Problem,
    StoreStatistics,
    check_state,
)
from penstock.errors import StoreError

CAPACITY = 100_000
"""The default maximum number of letters."""


class MemoryStore:
    """Keeps a bounded number of letters in memory. When it is full, `add` raises `StoreError`."""

    editable = True

    def __init__(self, capacity: int = CAPACITY) -> None:
        self.url = "memory:"
        self.timeout = 1.0
        self._commits = 0
        self._capacity = capacity
        self._letters: dict[str, DeadLetter] = {}
        self._ids: list[str] = []
        """The ids of all letters, sorted."""
        self._problem: Problem | None = None

    async def open(self) -> None:
        """Do nothing."""

    async def add(self, letters: Sequence[DeadLetter]) -> None:
        """Store letters, all or none. A letter whose id is already stored is skipped."""
        fresh = {letter.id: letter for letter in letters if letter.id not in self._letters}
        if len(self._letters) + len(fresh) > self._capacity:
            error = StoreError(
                f"dead letters in memory: the limit of {self._capacity} letters is reached; keep them in a database "
                "instead: --dead-letters sqlite:///penstock.db"
            )
            error.permanent = True
            self._problem = Problem(error, time.monotonic())
            raise error
        self._problem = None
        self._commits += 1
        self._letters |= fresh
        for id in fresh:
            insort(self._ids, id)

    async def get(self, id: str) -> DeadLetter | None:
        """Return the letter with this id, or None."""
        return self._letters.get(id)

    async def page(self, query: DeadLetterQuery, *, after: str | None = None, limit: int = PAGE) -> Page:
        """Return letters in the order of their ids, starting after an id."""
        page = PageBuilder(limit)
        start = 0 if after is None else bisect_right(self._ids, after)
        for position in range(start, len(self._ids)):
            letter = self._letters[self._ids[position]]
            if _matches(letter, query) and not page.add(letter):
                return page.page(more=True)
        return page.page(more=False)

    async def count(self, query: DeadLetterQuery, *, by: Sequence[GroupField] = ()) -> Mapping[tuple[str, ...], int]:
        """Count letters by the values of some fields. Without fields, the total is under the key `()`."""
        counts = Counter(tuple(str(getattr(letter, name)) for name in by) for letter in self._matching(query))
        return dict(counts) if by else {(): counts[()]}

    async def update(self, ids: Sequence[str], *, state: str) -> int:
        """Set the state of letters; returns how many of the ids exist. Raises `ValueError` for an unknown state."""
        check_state(state)
        known = {id for id in ids if id in self._letters}
        for id in known:
            self._letters[id] = replace(self._letters[id], state=state)
        return len(known)

    async def delete(self, query: DeadLetterQuery) -> int:
        """Delete letters; returns how many."""
        doomed = [letter.id for letter in self._matching(query)]
        for id in doomed:
            del self._letters[id]
        if doomed:
            self._ids = sorted(self._letters)
            self._problem = None
        return len(doomed)

    def statistics(self) -> StoreStatistics:
        """Return the counters."""
        counts = Counter(letter.state for letter in self._letters.values())
        return StoreStatistics(counts, commits=self._commits)

    def problem(self) -> Problem | None:
        """Return that the store is full, if letters were rejected."""
        return self._problem

    async def aclose(self) -> None:
        """Do nothing: the letters stay."""

    def _matching(self, query: DeadLetterQuery) -> Iterator[DeadLetter]:
        return (letter for letter in self._letters.values() if _matches(letter, query))


def _matches(letter: DeadLetter, query: DeadLetterQuery) -> bool:
    if query.since is not None and letter.failed_at < query.since:
        return False
    if query.until is not None and letter.failed_at >= query.until:
        return False
    if query.min_seq is not None and letter.seq < query.min_seq:
        return False
    return all(
        expected is None or expected == actual
        for expected, actual in (
            (query.flow, letter.flow),
            (query.run, letter.run),
            (query.step, letter.step),
            (query.type, letter.type),
            (query.state, letter.state),
        )
    )
