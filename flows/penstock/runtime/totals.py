"""The numbers of a flow: of the runs that are open, and of those that ended. Plain, for whoever asks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from typing import Protocol

from penstock.element import Ledger, Outcome
from penstock.scope import Meter
from penstock.window import Window

EARLIER = "(earlier)"
"""The step that letters are counted at whose own step is gone: all accounts have to agree, and series to be few."""


class Counted(Protocol):
    """A run, as far as its numbers go."""

    kind: str
    window: Window
    ledger: Ledger


class Totals:
    """What one flow did in this process so far."""

    def __init__(self, flow: str) -> None:
        self.flow = flow
        self.meters: dict[str, Meter] = {}
        self.open: set[Counted] = set()
        self.ended: Counter[tuple[str, str]] = Counter()
        """Runs that ended, by kind and reason."""
        self.places: tuple[str, ...] = ()
        """Where its elements may fail."""
        self.store_failures = 0
        self._progress: dict[Counted, tuple[tuple[int, int], float]] = {}
        self._received = 0
        self._dropped = 0
        self._settled: Counter[Outcome] = Counter()
        self._letters: Counter[str] = Counter()
        self._waited = 0.0

    def know(self, places: Iterable[str], steps: Iterable[str]) -> None:
        """Where its elements may fail, and which of its steps are measured, beside what is known already."""
        self.places = tuple(dict.fromkeys((*self.places, *places)))
        for step in steps:
            self.meters.setdefault(step, Meter())

    def forget(self, places: Collection[str], steps: Collection[str]) -> None:
        """Keep these places and steps only: the runs that knew others have ended."""
        self.places = tuple(place for place in self.places if place in places)
        for step in [step for step in self.meters if step not in steps]:
            del self.meters[step]
        for step in [step for step in self._letters if step not in (*places, EARLIER)]:
            self._letters[EARLIER] += self._letters.pop(step)

    def begin(self, run: Counted) -> None:
        """Count a run among the open ones."""
        self.open.add(run)

    def end(self, run: Counted, reason: str) -> None:
        """Add up a run that ended."""
        self.open.discard(run)
        self._progress.pop(run, None)
        self.ended[run.kind, reason] += 1
        self._received += run.ledger.received
        self._dropped += run.ledger.dropped
        for outcome, count in run.ledger.settled.items():
            self._settled[outcome] += count
        for step, count in run.ledger.letters.items():
            self._letters[step] += count
        self._waited += run.window.waited

    @property
    def received(self) -> int:
        """Elements received."""
        return self._received + sum(run.ledger.received for run in self.open)

    @property
    def dropped(self) -> int:
        """Elements that a full buffer dropped; they are among the filtered."""
        return self._dropped + sum(run.ledger.dropped for run in self.open)

    @property
    def in_flight(self) -> int:
        """Elements received and not settled."""
        return sum(run.ledger.in_flight for run in self.open)

    @property
    def capacity(self) -> int:
        """Elements that the open runs may hold."""
        return sum(run.window.elements for run in self.open)

    @property
    def waited(self) -> float:
        """Seconds that sources stood waiting for credits."""
        return self._waited + sum(run.window.waited for run in self.open)

    @property
    def letters(self) -> Counter[str]:
        """Dead letters stored, by step."""
        return sum((run.ledger.letters for run in self.open), self._letters.copy())

    def settled(self, outcome: Outcome) -> int:
        """Elements settled with an outcome."""
        return self._settled[outcome] + sum(run.ledger.settled[outcome] for run in self.open)

    def active(self) -> Counter[str]:
        """Open runs, by kind."""
        return Counter(run.kind for run in self.open)

    def stalled_for(self, now: float) -> float:
        """Seconds that the slowest open run has had elements in flight without moving, as seen from call to call."""
        longest = 0.0
        for run in self.open:
            mark = run.ledger.received, run.ledger.in_flight
            before, since = self._progress.get(run, (None, now))
            if mark != before or not run.ledger.in_flight:
                self._progress[run] = mark, now
            else:
                longest = max(longest, now - since)
        return longest
