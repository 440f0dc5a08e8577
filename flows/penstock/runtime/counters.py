"""Counters of flows and services, over open and ended runs."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from functools import reduce
from operator import add
from typing import Any, Protocol

from penstock.core.context import DurationHistogram
from penstock.core.element import Outcome
from penstock.core.ledger import Ledger
from penstock.core.window import Window
from penstock.services import Service, ServiceStatistics

REMOVED = "(removed)"
"""The step that counts the letters of removed steps: totals stay correct, and the number of series small."""

REDRIVE = "redrive"
"""The kind of runs whose elements have dead letters already."""


class RunCounters(Protocol):
    """The part of a run that has its counters."""

    kind: str
    window: Window
    ledger: Ledger


class FlowStatistics:
    """Counters of one flow in this process."""

    def __init__(self, flow: str) -> None:
        self.flow = flow
        self.histograms: dict[str, DurationHistogram] = {}
        self.open: set[RunCounters] = set()
        self.ended: Counter[tuple[str, str]] = Counter()
        """Ended runs, by kind and reason."""
        self.failure_points: tuple[str, ...] = ()
        """The steps at which its elements may fail."""
        self.services: tuple[str, ...] = ()
        """The names of the services that it calls, those of older revisions with open runs too."""
        self.store_failures = 0
        self._progress: dict[RunCounters, tuple[tuple[int, int], float]] = {}
        self._received = 0
        self._dropped = 0
        self._settled: Counter[Outcome] = Counter()
        self._letters: Counter[str] = Counter()
        self._wait_seconds = 0.0

    def register_steps(self, failure_points: Iterable[str], steps: Iterable[str], services: Iterable[str] = ()) -> None:
        """Add steps: those at which elements may fail, those whose duration is measured, and the services of all."""
        self.failure_points = tuple(dict.fromkeys((*self.failure_points, *failure_points)))
        self.services = tuple(dict.fromkeys((*self.services, *services)))
        for step in steps:
            self.histograms.setdefault(step, DurationHistogram())

    def unregister_steps(
        self, failure_points: Collection[str], steps: Collection[str], services: Collection[str] = ()
    ) -> None:
        """Keep only these steps and services. The runs that had others have ended."""
        self.failure_points = tuple(point for point in self.failure_points if point in failure_points)
        self.services = tuple(service for service in self.services if service in services)
        for step in [step for step in self.histograms if step not in steps]:
            del self.histograms[step]
        for step in [step for step in self._letters if step not in (*failure_points, REMOVED)]:
            self._letters[REMOVED] += self._letters.pop(step)

    def begin(self, run: RunCounters) -> None:
        """Add an open run."""
        self.open.add(run)

    def end(self, run: RunCounters, reason: str) -> None:
        """Add the counters of a run that ended."""
        self.open.discard(run)
        self._progress.pop(run, None)
        self.ended[run.kind, reason] += 1
        self._received += run.ledger.received
        self._dropped += run.ledger.dropped
        for outcome, count in run.ledger.settled.items():
            self._settled[outcome] += count
        for step, count in _new_letters(run).items():
            self._letters[step] += count
        self._wait_seconds += run.window.wait_seconds

    @property
    def received(self) -> int:
        """Elements received."""
        return self._received + sum(run.ledger.received for run in self.open)

    @property
    def dropped(self) -> int:
        """Elements dropped by a full buffer. They are also counted as filtered."""
        return self._dropped + sum(run.ledger.dropped for run in self.open)

    @property
    def in_flight(self) -> int:
        """Elements received and not yet settled."""
        return sum(run.ledger.in_flight for run in self.open)

    @property
    def capacity(self) -> int:
        """Maximum elements in flight of all open runs together."""
        return sum(run.window.elements for run in self.open)

    @property
    def wait_seconds(self) -> float:
        """Seconds that sources waited for credits."""
        return self._wait_seconds + sum(run.window.wait_seconds for run in self.open)

    @property
    def letters(self) -> Counter[str]:
        """Stored dead letters, by step. One that fails again in a redrive is the same letter, and counts once."""
        return sum(map(_new_letters, self.open), self._letters.copy())

    def settled(self, outcome: Outcome) -> int:
        """Return the number of elements settled with an outcome."""
        return self._settled[outcome] + sum(run.ledger.settled[outcome] for run in self.open)

    def active(self) -> Counter[str]:
        """Count the open runs, by kind."""
        return Counter(run.kind for run in self.open)

    def seconds_without_progress(self, now: float) -> float:
        """Return how long the slowest open run has had elements in flight without progress, in seconds.

        Progress is observed from call to call.
        """
        longest = 0.0
        for run in self.open:
            mark = run.ledger.received, run.ledger.in_flight
            before, since = self._progress.get(run, (None, now))
            if mark != before or not run.ledger.in_flight:
                self._progress[run] = mark, now
            else:
                longest = max(longest, now - since)
        return longest


_BREAKER_STATES = ("none", "closed", "half_open", "open")


class ServiceCounters:
    """What services of one name did in this process. A new revision of a flow may replace the service object."""

    def __init__(self) -> None:
        self.services: list[Service] = []
        """The services in use."""
        self._past: ServiceStatistics | None = None
        """What services that are not used any more did."""

    def use(self, service: Service) -> None:
        """Count a service among those in use, once, and retain it. Equal services are counted separately."""
        if all(known is not service for known in self.services):
            service.retain()
            self.services.append(service)

    def release(self, service: Service) -> list[asyncio.Future[Any]]:
        """Release a service that is not used any more. Its counts stay. Return the futures to wait for."""
        self.services = [known for known in self.services if known is not service]
        past = service.statistics()
        self._past = past if self._past is None else total((self._past, past), now=())
        return service.release()

    def statistics(self) -> ServiceStatistics:
        """Return the sums over all services. Only those in use have calls in flight and waiting.

        The state of the circuit breaker is that of the service that is worst off.
        """
        current = [service.statistics() for service in self.services]
        return total(current if self._past is None else (self._past, *current), now=current)


def total(all_time: Sequence[ServiceStatistics], now: Sequence[ServiceStatistics]) -> ServiceStatistics:
    """Return the sums over several services: of what all of them did so far, and of what some of them do now."""
    results: Counter[str] = Counter()
    durations: dict[str, DurationHistogram] = {}
    for each in all_time:
        results.update(each.results)
        for result, histogram in each.durations.items():
            durations.setdefault(result, DurationHistogram()).merge(histogram)
    connections = [each.connections for each in now if each.connections is not None]
    return ServiceStatistics(
        results=dict(results),
        retries=sum(each.retries for each in all_time),
        in_flight=sum(each.in_flight for each in now),
        waiting=sum(each.waiting for each in now),
        max_in_flight=sum(each.max_in_flight for each in now),
        paced_seconds=sum(each.paced_seconds for each in all_time),
        limit=sum(each.limit for each in now),
        breaker=max((each.breaker for each in now), key=_BREAKER_STATES.index, default="none"),
        open_seconds=sum(each.open_seconds for each in all_time),
        opened=sum(each.opened for each in all_time),
        next_probe_seconds=min(
            (each.next_probe_seconds for each in now if each.next_probe_seconds is not None), default=None
        ),
        durations=durations,
        connections=reduce(add, connections) if connections else None,
    )


def _new_letters(run: RunCounters) -> Counter[str]:
    """Return the letters that a run has added to the store, by step."""
    return Counter() if run.kind == REDRIVE else run.ledger.letters
