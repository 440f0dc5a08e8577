"""The numbers of a flow: of the runs that are open, and of those that ended. Plain, for whoever asks."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any, Protocol

from penstock.core.context import DurationHistogram
from penstock.core.element import Outcome
from penstock.core.ledger import Ledger
from penstock.core.window import Window
from penstock.services import Service, ServiceStatistics

EARLIER = "(earlier)"
"""The step that letters are counted at whose own step is gone: all accounts have to agree, and series to be few."""


class RunCounters(Protocol):
    """A run, as far as its numbers go."""

    kind: str
    window: Window
    ledger: Ledger


class FlowStatistics:
    """What one flow did in this process so far."""

    def __init__(self, flow: str) -> None:
        self.flow = flow
        self.meters: dict[str, DurationHistogram] = {}
        self.open: set[RunCounters] = set()
        self.ended: Counter[tuple[str, str]] = Counter()
        """Runs that ended, by kind and reason."""
        self.places: tuple[str, ...] = ()
        """Where its elements may fail."""
        self.store_failures = 0
        self._progress: dict[RunCounters, tuple[tuple[int, int], float]] = {}
        self._received = 0
        self._dropped = 0
        self._settled: Counter[Outcome] = Counter()
        self._letters: Counter[str] = Counter()
        self._waited = 0.0

    def register_steps(self, places: Iterable[str], steps: Iterable[str]) -> None:
        """Where its elements may fail, and which of its steps are measured, beside what is known already."""
        self.places = tuple(dict.fromkeys((*self.places, *places)))
        for step in steps:
            self.meters.setdefault(step, DurationHistogram())

    def unregister_steps(self, places: Collection[str], steps: Collection[str]) -> None:
        """Keep these places and steps only: the runs that knew others have ended."""
        self.places = tuple(place for place in self.places if place in places)
        for step in [step for step in self.meters if step not in steps]:
            del self.meters[step]
        for step in [step for step in self._letters if step not in (*places, EARLIER)]:
            self._letters[EARLIER] += self._letters.pop(step)

    def begin(self, run: RunCounters) -> None:
        """Count a run among the open ones."""
        self.open.add(run)

    def end(self, run: RunCounters, reason: str) -> None:
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
        self._waited += run.window.wait_seconds

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
        return self._waited + sum(run.window.wait_seconds for run in self.open)

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

    def seconds_without_progress(self, now: float) -> float:
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


class ServiceCounters:
    """What services of one name did in this process. A new revision of a flow may replace the service object."""

    def __init__(self) -> None:
        self.services: list[Service] = []
        """Those in use."""
        self._past_results: Counter[str] = Counter()
        self._past_retries = 0

    def use(self, service: Service) -> None:
        """Count a service among those in use, once, and retain it. Equal services are counted separately."""
        if all(known is not service for known in self.services):
            service.retain()
            self.services.append(service)

    def leave(self, service: Service) -> list[asyncio.Future[Any]]:
        """Release a service that is not used any more. Its counts stay. Return the futures to wait for."""
        self.services = [known for known in self.services if known is not service]
        past = service.statistics()
        self._past_results.update(past.results)
        self._past_retries += past.retries
        return service.release()

    def statistics(self) -> ServiceStatistics:
        """Return the sums over all services. Only those in use have calls in flight and waiting."""
        current = [service.statistics() for service in self.services]
        results = self._past_results.copy()
        for each in current:
            results.update(each.results)
        return ServiceStatistics(
            results=dict(results),
            retries=self._past_retries + sum(each.retries for each in current),
            in_flight=sum(each.in_flight for each in current),
            waiting=sum(each.waiting for each in current),
            max_in_flight=sum(each.max_in_flight for each in current),
        )
