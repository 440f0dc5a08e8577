"""What the parts can tell: for each series, the numbers that they hold at this moment."""

from __future__ import annotations

import asyncio
import platform
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TypeAlias

import msgspec
from msgspec import Struct

from penstock.core.context import DurationHistogram
from penstock.core.element import Outcome
from penstock.deadletters.store import STATES
from penstock.observe.logs import LogFile
from penstock.runtime import FlowStatistics, Supervisor

KINDS = ("http", "worker")
REASONS = ("completed", "draining", "disconnected", "stalled", "aborted", "failed")

Readings: TypeAlias = Iterable[tuple[tuple[str, ...], float | DurationHistogram]]
"""Label values, and the number that goes with them."""


class HttpCounters:
    """What the HTTP side counts."""

    def __init__(self) -> None:
        self.answered: Counter[tuple[str, str, str]] = Counter()
        """Requests answered, by route, method and status."""
        self.refused: Counter[str] = Counter()
        """Requests refused before a run was started, by the refusal's name."""


class ReloadCounters:
    """What was loaded while the service ran."""

    def __init__(self) -> None:
        self.active: dict[str, int] = {}
        """The revision that new runs take, by flow."""
        self.outcomes: Counter[tuple[str, str]] = Counter()
        """Flows that were loaded, by name and outcome; the name is empty for those that are not known any more."""

    def forget(self, flow: str) -> None:
        """Count a flow among those that are not known any more."""
        for key in [key for key in self.outcomes if key[0] == flow]:
            self.outcomes["", key[1]] += self.outcomes.pop(key)


class MetricSources(Struct, frozen=True, eq=False):
    """What is watched."""

    supervisor: Supervisor
    requests: HttpCounters
    version: str
    reloads: ReloadCounters = msgspec.field(default_factory=ReloadCounters)
    logs: LogFile | None = None


def _flows(of: MetricSources) -> Iterator[tuple[tuple[str], FlowStatistics]]:
    for name, totals in of.supervisor.totals.items():
        yield (name,), totals


def received_total(of: MetricSources) -> Readings:
    """Elements received."""
    return ((flow, totals.received) for flow, totals in _flows(of))


def settled_total(of: MetricSources) -> Readings:
    """Elements settled, by outcome."""
    for flow, totals in _flows(of):
        for outcome in Outcome:
            yield (*flow, outcome.value), totals.settled(outcome)


def dropped_total(of: MetricSources) -> Readings:
    """Elements that a full buffer dropped; they are among the filtered."""
    return ((flow, totals.dropped) for flow, totals in _flows(of))


def in_flight(of: MetricSources) -> Readings:
    """Elements received and not settled."""
    return ((flow, totals.in_flight) for flow, totals in _flows(of))


def window_capacity(of: MetricSources) -> Readings:
    """Elements that the open runs may hold."""
    return ((flow, totals.capacity) for flow, totals in _flows(of))


def backpressure_seconds_total(of: MetricSources) -> Readings:
    """Time that sources stood waiting for credits."""
    return ((flow, totals.waited) for flow, totals in _flows(of))


def time_since_progress_seconds(of: MetricSources) -> Readings:
    """Time that a run with elements in flight has not moved, as seen from scrape to scrape."""
    now = asyncio.get_running_loop().time()
    return ((flow, totals.seconds_without_progress(now)) for flow, totals in _flows(of))


def step_duration_seconds(of: MetricSources) -> Readings:
    """Time that an element spent in a step."""
    for flow, totals in _flows(of):
        for step, meter in totals.meters.items():
            yield (*flow, step), meter


def service_calls_total(of: MetricSources) -> Readings:
    """Attempts, by what came of them."""
    for name, calls in of.supervisor.calls.items():
        for result, number in calls.statistics().results.items():
            yield (name, result), number


def service_in_flight(of: MetricSources) -> Readings:
    """Calls under way."""
    return (((name,), calls.statistics().in_flight) for name, calls in of.supervisor.calls.items())


def service_waiting(of: MetricSources) -> Readings:
    """Calls that wait for their turn or their next attempt."""
    return (((name,), calls.statistics().waiting) for name, calls in of.supervisor.calls.items())


def service_max_in_flight(of: MetricSources) -> Readings:
    """Calls that may be under way at once."""
    return (((name,), calls.statistics().max_in_flight) for name, calls in of.supervisor.calls.items())


def service_retries_total(of: MetricSources) -> Readings:
    """Attempts after the first."""
    return (((name,), calls.statistics().retries) for name, calls in of.supervisor.calls.items())


def dead_letters_total(of: MetricSources) -> Readings:
    """Dead letters stored, by step."""
    for flow, totals in _flows(of):
        steps = {**dict.fromkeys(totals.places, 0), **totals.letters}
        for step, number in steps.items():
            yield (*flow, step), number


def dead_letters_stored(of: MetricSources) -> Readings:
    """Dead letters in the stores, by state."""
    states = Counter(dict.fromkeys(STATES, 0))
    states.update(of.supervisor.stores.statistics().counts)
    return (((state,), number) for state, number in states.items())


def dead_letter_store_commits_total(of: MetricSources) -> Readings:
    """Commits of dead letters."""
    yield (), of.supervisor.stores.statistics().commits


def dead_letter_store_commit_seconds_total(of: MetricSources) -> Readings:
    """Time spent in commits of dead letters."""
    yield (), of.supervisor.stores.statistics().commit_seconds


def dead_letter_store_restarts_total(of: MetricSources) -> Readings:
    """Processes that wrote dead letters, ended before their time and were started again."""
    yield (), of.supervisor.stores.statistics().restarts


def dead_letter_store_usable(of: MetricSources) -> Readings:
    """Whether dead letters can be stored: 1, or 0 when the store is damaged, replaced or has failed for 30 seconds."""
    return (((name,), usable) for name, usable in of.supervisor.stores.usable().items())


def dead_letter_store_failures_total(of: MetricSources) -> Readings:
    """Failed tries to store dead letters."""
    yield (), of.supervisor.store_failures


def runs_active(of: MetricSources) -> Readings:
    """Open runs."""
    for flow, totals in _flows(of):
        for kind, number in (dict.fromkeys(KINDS, 0) | totals.active()).items():
            yield (*flow, kind), number


def runs_total(of: MetricSources) -> Readings:
    """Runs that ended, by reason."""
    for flow, totals in _flows(of):
        known = {(kind, reason): 0 for kind in KINDS for reason in REASONS}
        for (kind, reason), number in (known | totals.ended).items():
            yield (*flow, kind, reason), number


def worker_restarts_total(of: MetricSources) -> Readings:
    """Workers started again after their run broke."""
    return ((worker, of.supervisor.restarts[worker]) for worker in of.supervisor.workers)


def worker_reschedules_total(of: MetricSources) -> Readings:
    """Next runs of cron workers that were moved to an earlier time because the clock was set back."""
    return ((worker, of.supervisor.reschedules[worker]) for worker in of.supervisor.workers)


def flow_revision(of: MetricSources) -> Readings:
    """The revision that new runs of a flow take."""
    return (((flow,), number) for flow, number in of.reloads.active.items())


def flow_reloads_total(of: MetricSources) -> Readings:
    """Flows that were loaded again, by what came of it; without the name of a flow what could not be read as one."""
    return iter(of.reloads.outcomes.items())


def http_requests_total(of: MetricSources) -> Readings:
    """Requests answered."""
    return iter(of.requests.answered.items())


def http_rejected_total(of: MetricSources) -> Readings:
    """Requests refused before a run was started."""
    return (((reason,), number) for reason, number in of.requests.refused.items())


def log_lines_lost_total(of: MetricSources) -> Readings:
    """Log lines that could not be written."""
    yield (), 0 if of.logs is None else of.logs.lost


def build_info(of: MetricSources) -> Readings:
    """Always 1; the labels tell what runs."""
    yield (of.version, platform.python_version()), 1
