"""The ledger of a run: it counts and settles every element exactly once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from penstock.core.element import (
    CANCELLED,
    FAILED,
    FILTERED,
    OK,
    Element,
    Outcome,
)
from penstock.core.leases import Leases
from penstock.core.window import Window
from penstock.errors import SettledTwice

_RANK = {FILTERED: 0, OK: 1, CANCELLED: 2, FAILED: 3}


def worst_outcome(one: Outcome, other: Outcome) -> Outcome:
    """Return the outcome of an element whose parts have these outcomes."""
    return one if _RANK[one] >= _RANK[other] else other


class Ledger:
    """The counters of one run: elements received, and settled by outcome.

    `received == ok + failed + filtered + cancelled + in_flight` holds at every moment. `in_flight` is 0 after `close`.
    """

    __slots__ = (
        "_failed_with_letter",
        "_watchers",
        "closed",
        "dropped",
        "leases",
        "letters",
        "open_parts",
        "peak_parts",
        "received",
        "settled",
        "window",
    )

    def __init__(self, window: Window) -> None:
        self.window = window
        self.received = 0
        self.dropped = 0
        self.settled: dict[Outcome, int] = {OK: 0, FAILED: 0, FILTERED: 0, CANCELLED: 0}
        self.letters: Counter[str] = Counter()
        self.closed = False
        self.leases: Leases[Any] | None = None
        """The leases of the run, if its source has any."""
        self._watchers: tuple[Callable[[Element[Any], Outcome], None], ...] = ()
        self.open_parts = 0
        """Parts not yet settled. They hold no credits."""
        self.peak_parts = 0
        """The maximum of `open_parts` so far."""
        self._failed_with_letter = 0

    @property
    def in_flight(self) -> int:
        """Elements received and not yet settled."""
        return self.received - sum(self.settled.values())

    def watch(self, on_settled: Callable[[Element[Any], Outcome], None]) -> None:
        """Call `on_settled` for each element and part that is settled, before its credit returns.

        Elements that `close` settles are not reported.
        """
        self._watchers += (on_settled,)

    def settle(self, elements: Iterable[Element[Any]], outcome: Outcome) -> None:
        """Settle elements, once each, and return their credits.

        Raises `SettledTwice` for an element that was settled before.
        """
        count = size = 0
        for element in elements:
            if element.settled:
                raise SettledTwice(element.seq, outcome)
            element.settled = True
            for watcher in self._watchers:
                watcher(element, outcome)
            if element.parent is not None:
                self._settle_part(element.parent, outcome)
                continue
            count += 1
            size += element.size
            if element.dead_letter_id is not None:
                self._failed_with_letter -= 1
        if count:
            self.settled[outcome] += count
            self.window.release(count, size)

    def count_part(self) -> None:
        """Count a new part of an element."""
        self.open_parts += 1
        if self.open_parts > self.peak_parts:
            self.peak_parts = self.open_parts

    def settle_accepted(self, elements: list[Element[Any]]) -> None:
        """Settle elements that a consumer accepted, each with its own outcome.

        Fast path: elements without an outcome and without a parent, which are by far the most frequent, in one pass.
        """
        size = 0
        unwatched = not self._watchers
        others: list[Element[Any]] = []
        for element in elements:
            if unwatched and element.outcome is None and element.parent is None and not element.settled:
                element.settled = True
                size += element.size
            else:
                others.append(element)
        if count := len(elements) - len(others):
            self.settled[OK] += count
            self.window.release(count, size)
        decided: dict[Outcome, list[Element[Any]]] = {}
        for element in others:
            decided.setdefault(element.outcome or OK, []).append(element)
        for outcome, alike in decided.items():
            self.settle(alike, outcome)

    def count_dropped(self, count: int) -> None:
        """Count elements that a buffer dropped: as received and filtered. They had no credits. No-op after `close`."""
        if self.closed:
            return
        self.received += count
        self.dropped += count
        self.settled[FILTERED] += count

    def mark_stored(self, elements: Sequence[Element[Any]], letters: Sequence[str]) -> None:
        """Record that failed elements have durable letters: from now on they count as failed, even if cancelled.

        The letter of a part belongs to its root element.
        """
        for element, letter in zip(elements, letters, strict=True):
            (element if element.parent is None else element.root).dead_letter_id = letter
        self._failed_with_letter += len(elements)
        self.letters.update([element.failure.step for element in elements if element.failure is not None])

    def close(self) -> None:
        """Close the ledger: open elements count as cancelled, except those that already have a durable letter."""
        if self.closed:
            return
        self.closed = True
        self.settled[FAILED] += self._failed_with_letter
        self._failed_with_letter = 0
        self.settled[CANCELLED] += self.in_flight
        self._watchers = ()  # breaks cycles: they may refer to the run, which refers to this object
        self.window.reset()

    def _settle_part(self, parent: Element[Any], outcome: Outcome) -> None:
        parts = parent.parts
        assert parts is not None
        parts.open -= 1
        self.open_parts -= 1
        parts.worst = worst_outcome(parts.worst, outcome)
        parts.on_settled(1)
        if parts.complete and not parts.open:
            self.settle((parent,), parts.worst)
