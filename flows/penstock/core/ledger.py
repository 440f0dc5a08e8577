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
from penstock.core.window import Window
from penstock.errors import SettledTwice

_RANK = {FILTERED: 0, OK: 1, CANCELLED: 2, FAILED: 3}


def worst_outcome(one: Outcome, other: Outcome) -> Outcome:
    """What an element comes to whose parts came to these."""
    return one if _RANK[one] >= _RANK[other] else other


class Ledger:
    """The accounts of one run: what it received, and how each element was settled.

    `received == ok + failed + filtered + cancelled + in_flight` at every moment, and `in_flight` is 0 once closed.
    """

    __slots__ = (
        "_lettered",
        "closed",
        "dropped",
        "letters",
        "on_settled",
        "parts",
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
        self.on_settled: Callable[[Element[Any], Outcome], None] | None = None
        """Told of each element as it is settled, of parts too: for who keeps a record of what is done."""
        self.parts = 0
        """Parts that are open; they have no credit of their own."""
        self.peak_parts = 0
        """The most that ever were."""
        self._lettered = 0

    @property
    def in_flight(self) -> int:
        """Elements received and not settled."""
        return self.received - sum(self.settled.values())

    def settle(self, elements: Iterable[Element[Any]], outcome: Outcome) -> None:
        """Settle elements, once each, and give their credits back.

        Raises `SettledTwice` for an element that was settled before.
        """
        count = size = 0
        for element in elements:
            if element.settled:
                raise SettledTwice(element.seq, outcome)
            element.settled = True
            if self.on_settled is not None:
                self.on_settled(element, outcome)
            if element.parent is not None:
                self._settle_part(element.parent, outcome)
                continue
            count += 1
            size += element.size
            if element.dead_letter_id is not None:
                self._lettered -= 1
        if count:
            self.settled[outcome] += count
            self.window.release(count, size)

    def count_part(self) -> None:
        """Count a part that was made of an element."""
        self.parts += 1
        if self.parts > self.peak_parts:
            self.peak_parts = self.parts

    def settle_accepted(self, elements: list[Element[Any]]) -> None:
        """Settle elements that a sink accepted, each as was decided on its way.

        What nobody decided about, and is no part, is by far the most, and is settled in one pass.
        """
        size = 0
        unwatched = self.on_settled is None
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
        """Count elements that a buffer dropped before they took a credit: received, and filtered. Not after the run."""
        if self.closed:
            return
        self.received += count
        self.dropped += count
        self.settled[FILTERED] += count

    def mark_stored(self, elements: Sequence[Element[Any]], letters: Sequence[str]) -> None:
        """Note that failed elements have durable letters: from now on they count as failed, come what may.

        The letter of a part is that of the element that it is a part of.
        """
        for element, letter in zip(elements, letters, strict=True):
            (element if element.parent is None else element.root).dead_letter_id = letter
        self._lettered += len(elements)
        self.letters.update([element.failure.step for element in elements if element.failure is not None])

    def close(self) -> None:
        """End the accounts: what is still open is cancelled, save what already has a durable letter."""
        if self.closed:
            return
        self.closed = True
        self.settled[FAILED] += self._lettered
        self._lettered = 0
        self.settled[CANCELLED] += self.in_flight
        self.window.reset()

    def _settle_part(self, parent: Element[Any], outcome: Outcome) -> None:
        family = parent.family
        assert family is not None
        family.open -= 1
        self.parts -= 1
        family.worst = worst_outcome(family.worst, outcome)
        family.released(1)
        if family.complete and not family.open:
            self.settle((parent,), family.worst)
