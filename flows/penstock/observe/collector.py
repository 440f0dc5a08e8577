"""Read the value of each metric from the counters of the process.

The docstring of a function is the help text of its series.
"""

from __future__ import annotations

import asyncio
import platform
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import product
from typing import TypeAlias, get_args

import msgspec
from msgspec import Struct

from penstock.core.context import DurationHistogram
from penstock.core.element import Outcome
from penstock.deadletters.dead_letter_queue import JobState
from penstock.deadletters.store import STATES
from penstock.observe.dead_letters import OPEN_STATES, DeadLetterReadings
from penstock.observe.logs import LogFile
from penstock.runtime import EndReason, FlowStatistics, Supervisor
from penstock.services import ServiceStatistics
from penstock.services.circuit_breaker import BreakerState
from penstock.sinks.shared import outage_seconds
from penstock.support.ids import now

KINDS = ("http", "worker", "redrive")

JOB_STATES: tuple[str, ...] = get_args(JobState)

BREAKER_STATES: tuple[str, ...] = get_args(BreakerState)

REDRIVE_RESULTS = ("resolved", "failed", "parked", "cancelled")

Readings: TypeAlias = Iterable[tuple[tuple[str, ...], float | DurationHistogram]]
"""Label values, and the value of the series for them."""


class HttpCounters:
    """Counters of the HTTP API."""

    def __init__(self) -> None:
        self.responses: Counter[tuple[str, str, str]] = Counter()
        """Responses, by route, method and status."""
        self.rejected: Counter[str] = Counter()
        """Requests rejected before a run was started, by problem code."""


class ReloadCounters:
    """Counters of flows that were loaded while the service ran."""

    def __init__(self) -> None:
        self.active: dict[str, int] = {}
        """The revision that new runs use, by flow."""
        self.outcomes: Counter[tuple[str, str]] = Counter()
        """Loaded flows, by name and outcome. The name is empty for removed flows."""

    def forget(self, flow: str) -> None:
        """Move the counts of a removed flow to the empty name."""
        for key in [key for key in self.outcomes if key[0] == flow]:
            self.outcomes["", key[1]] += self.outcomes.pop(key)


class MetricSources(Struct, frozen=True, eq=False):
    """The objects that metrics are read from."""

    supervisor: Supervisor
    requests: HttpCounters
    version: str
    reloads: ReloadCounters = msgspec.field(default_factory=ReloadCounters)
    logs: LogFile | None = None
    dead_letters: DeadLetterReadings = msgspec.field(default_factory=DeadLetterReadings)
    services: Mapping[str, ServiceStatistics] = msgspec.field(default_factory=dict[str, ServiceStatistics])
    """What the services did so far, by name: read once for all series of a scrape."""
    tls_expires: Callable[[], float] | None = None
    """When the certificate of the service expires, in seconds since 1970; None without TLS."""

    def read_services(self) -> MetricSources:
        """Return the same sources with the statistics that the services have now."""
        counters = self.supervisor.service_counters
        return msgspec.structs.replace(self, services={name: each.statistics() for name, each in counters.items()})


def _flows(sources: MetricSources) -> Iterator[tuple[tuple[str], FlowStatistics]]:
    for name, statistics in sources.supervisor.flow_statistics.items():
        yield (name,), statistics


def _known(sources: MetricSources, flow: str) -> str:
    """Return a flow as the value of a label: empty for flows that are not served, whose number has no limit."""
    return flow if flow in sources.supervisor.flow_statistics else ""


def received_total(sources: MetricSources) -> Readings:
    """Elements received."""
    return ((flow, statistics.received) for flow, statistics in _flows(sources))


def settled_total(sources: MetricSources) -> Readings:
    """Elements settled, by outcome."""
    for flow, statistics in _flows(sources):
        for outcome in Outcome:
            yield (*flow, outcome.value), statistics.settled(outcome)


def dropped_total(sources: MetricSources) -> Readings:
    """Elements dropped by a full buffer; they are also counted as filtered."""
    return ((flow, statistics.dropped) for flow, statistics in _flows(sources))


def in_flight(sources: MetricSources) -> Readings:
    """Elements received and not settled."""
    return ((flow, statistics.in_flight) for flow, statistics in _flows(sources))


def window_capacity(sources: MetricSources) -> Readings:
    """Maximum elements in flight of all open runs together."""
    return ((flow, statistics.capacity) for flow, statistics in _flows(sources))


def backpressure_seconds_total(sources: MetricSources) -> Readings:
    """Time that sources waited for credits."""
    return ((flow, statistics.wait_seconds) for flow, statistics in _flows(sources))


def time_since_progress_seconds(sources: MetricSources) -> Readings:
    """Time that a run with elements in flight has made no progress, as observed from scrape to scrape."""
    time = asyncio.get_running_loop().time()
    return ((flow, statistics.seconds_without_progress(time)) for flow, statistics in _flows(sources))


def step_duration_seconds(sources: MetricSources) -> Readings:
    """Time that an element spent in a step."""
    for flow, statistics in _flows(sources):
        for step, histogram in statistics.histograms.items():
            yield (*flow, step), histogram


def flow_service_info(sources: MetricSources) -> Readings:
    """Always 1; the labels are a flow and a service that it calls."""
    for flow, statistics in _flows(sources):
        for service in statistics.services:
            yield (*flow, service), 1


def service_calls_total(sources: MetricSources) -> Readings:
    """Attempts to call a service, by result."""
    for name, service in sources.services.items():
        for result, number in service.results.items():
            yield (name, result), number


def service_duration_seconds(sources: MetricSources) -> Readings:
    """Time that an attempt to call a service took, by result; a result appears with its first attempt."""
    for name, service in sources.services.items():
        for result, histogram in service.durations.items():
            if result == "ok" or any(histogram.counts):
                yield (name, result), histogram


def service_in_flight(sources: MetricSources) -> Readings:
    """Calls in flight."""
    return (((name,), service.in_flight) for name, service in sources.services.items())


def service_waiting(sources: MetricSources) -> Readings:
    """Calls that wait for other calls, for the rate limit, or for their next attempt."""
    return (((name,), service.waiting) for name, service in sources.services.items())


def service_max_in_flight(sources: MetricSources) -> Readings:
    """Maximum calls in flight."""
    return (((name,), service.max_in_flight) for name, service in sources.services.items())


def service_limit(sources: MetricSources) -> Readings:
    """Calls that may be in flight now: the maximum, or fewer by the circuit breaker or an adaptive limit."""
    return (((name,), service.limit) for name, service in sources.services.items())


def service_retries_total(sources: MetricSources) -> Readings:
    """Attempts after the first one of a call."""
    return (((name,), service.retries) for name, service in sources.services.items())


def service_breaker_state(sources: MetricSources) -> Readings:
    """State of the circuit breaker: 1 for the current one, 0 for the others; nothing for services without one."""
    for name, service in sources.services.items():
        if (current := service.breaker) != "none":
            for state in BREAKER_STATES:
                yield (name, state), state == current


def service_breaker_open_seconds_total(sources: MetricSources) -> Readings:
    """Time that the circuit breaker was not closed: until a call succeeded again."""
    return (((name,), service.open_seconds) for name, service in sources.services.items())


def service_breaker_opened_total(sources: MetricSources) -> Readings:
    """How often the circuit breaker has opened."""
    return (((name,), service.opened) for name, service in sources.services.items())


def service_connections(sources: MetricSources) -> Readings:
    """Connections to a service over HTTP, open or being opened, by state: idle ones wait for a request."""
    for name, service in sources.services.items():
        if (connections := service.connections) is not None:
            yield (name, "busy"), connections.open - connections.idle
            yield (name, "idle"), connections.idle


def service_connections_awaited(sources: MetricSources) -> Readings:
    """Requests to a service over HTTP that wait for a connection."""
    for name, service in sources.services.items():
        if (connections := service.connections) is not None:
            yield (name,), connections.awaited


def service_paced_seconds_total(sources: MetricSources) -> Readings:
    """Time that calls waited because responses of the service asked for it."""
    return (((name,), service.paced_seconds) for name, service in sources.services.items())


def dead_letters_total(sources: MetricSources) -> Readings:
    """Dead letters stored, by step. One that fails again in a redrive is not counted again."""
    for flow, statistics in _flows(sources):
        steps = {**dict.fromkeys(statistics.failure_points, 0), **statistics.letters}
        for step, number in steps.items():
            yield (*flow, step), number


def dead_letters_stored(sources: MetricSources) -> Readings:
    """Dead letters in the stores, by state."""
    states = Counter[str](dict.fromkeys(STATES, 0))
    states.update(sources.supervisor.stores.statistics().counts)
    return (((state,), number) for state, number in states.items())


def dead_letters_oldest_waiting_seconds(sources: MetricSources) -> Readings:
    """Time since the oldest waiting dead letter failed; 0 if none waits. Refreshed every 15 seconds."""
    ages = dict.fromkeys(sources.supervisor.flow_statistics, 0.0)
    for flow, failed_at in sources.dead_letters.oldest.items():
        name = _known(sources, flow)
        ages[name] = max(ages.get(name, 0.0), (now() - failed_at).total_seconds())
    return (((flow,), age) for flow, age in ages.items())


def dead_letters_redriven_total(sources: MetricSources) -> Readings:
    """Dead letters redriven, by result."""
    flows = sources.supervisor.flow_statistics
    counts = Counter[tuple[str, str]](dict.fromkeys(product(flows, REDRIVE_RESULTS), 0))
    for (flow, result), number in sources.dead_letters.redriven().items():
        counts[_known(sources, flow), result] += number
    return iter(counts.items())


def dead_letters_expired_total(sources: MetricSources) -> Readings:
    """Dead letters deleted because of their age or number, as the flow declares."""
    counts = Counter[str](dict.fromkeys(sources.supervisor.flow_statistics, 0))
    for flow, number in sources.dead_letters.expired().items():
        counts[_known(sources, flow)] += number
    return (((flow,), number) for flow, number in counts.items())


def dead_letter_copies_behind(sources: MetricSources) -> Readings:
    """Dead letters that are stored and not yet copied, by copy."""
    behind = Counter[str]()
    for (_, copy), statistics in sources.supervisor.stores.copies().items():
        behind[copy] += statistics.behind
    return (((copy,), number) for copy, number in (behind or {"": 0}).items())


def redrives_open(sources: MetricSources) -> Readings:
    """Redrives that have not ended, by state. Refreshed every 15 seconds."""
    jobs = dict.fromkeys(OPEN_STATES, 0) | dict(sources.dead_letters.jobs)
    return (((state,), number) for state, number in jobs.items())


def redrives_total(sources: MetricSources) -> Readings:
    """Redrives that this process worked on, by the state in which it left them."""
    jobs = dict.fromkeys(JOB_STATES, 0) | dict(sources.dead_letters.jobs_left())
    return (((state,), number) for state, number in jobs.items())


def dead_letter_store_commits_total(sources: MetricSources) -> Readings:
    """Commits of dead letters."""
    yield (), sources.supervisor.stores.statistics().commits


def dead_letter_store_commit_seconds_total(sources: MetricSources) -> Readings:
    """Time spent in commits of dead letters."""
    yield (), sources.supervisor.stores.statistics().commit_seconds


def dead_letter_store_restarts_total(sources: MetricSources) -> Readings:
    """Processes that wrote dead letters, ended unexpectedly and were restarted."""
    yield (), sources.supervisor.stores.statistics().restarts


def dead_letter_store_usable(sources: MetricSources) -> Readings:
    """Whether dead letters can be stored: 1, or 0 when the store is damaged, replaced or has failed for 30 seconds."""
    return (((name,), usable) for name, usable in sources.supervisor.stores.usable().items())


def dead_letter_store_failures_total(sources: MetricSources) -> Readings:
    """Failed attempts to store dead letters."""
    yield (), sources.supervisor.store_failures


def runs_active(sources: MetricSources) -> Readings:
    """Open runs."""
    for flow, statistics in _flows(sources):
        for kind, number in (dict.fromkeys(KINDS, 0) | statistics.active()).items():
            yield (*flow, kind), number


def runs_total(sources: MetricSources) -> Readings:
    """Runs that ended, by reason."""
    for flow, statistics in _flows(sources):
        known = {(kind, reason): 0 for kind in KINDS for reason in EndReason}
        for (kind, reason), number in (known | statistics.ended).items():
            yield (*flow, kind, reason), number


def worker_restarts_total(sources: MetricSources) -> Readings:
    """Workers restarted after a failed run."""
    return ((worker, sources.supervisor.restarts[worker]) for worker in sources.supervisor.workers)


def worker_unavailable_seconds(sources: MetricSources) -> Readings:
    """Time that a worker could not receive, because its runs failed or its source has no connection; 0 if it can."""
    return iter(sources.supervisor.unavailable_workers().items())


def sink_unreachable_seconds(_: MetricSources) -> Readings:
    """Time that values have waited for a sink in use whose server cannot be reached; 0 if none waits."""
    longest: dict[str, float] = {}
    for sink, seconds in outage_seconds():
        longest[sink] = max(seconds, longest.get(sink, 0.0))
    return (((sink,), seconds) for sink, seconds in longest.items())


def worker_reschedules_total(sources: MetricSources) -> Readings:
    """Next runs of cron workers that were moved to an earlier time because the clock was set back."""
    return ((worker, sources.supervisor.reschedules[worker]) for worker in sources.supervisor.workers)


def flow_revision(sources: MetricSources) -> Readings:
    """The revision that new runs of a flow use."""
    return (((flow,), number) for flow, number in sources.reloads.active.items())


def flow_reloads_total(sources: MetricSources) -> Readings:
    """Flows loaded again, by outcome; without a flow name if the file could not be read as a flow."""
    return iter(sources.reloads.outcomes.items())


def http_requests_total(sources: MetricSources) -> Readings:
    """HTTP requests, by route, method and status."""
    return iter(sources.requests.responses.items())


def http_rejected_total(sources: MetricSources) -> Readings:
    """Requests rejected before a run was started, by reason."""
    return (((reason,), number) for reason, number in sources.requests.rejected.items())


def log_lines_lost_total(sources: MetricSources) -> Readings:
    """Log lines that could not be written."""
    yield (), 0 if sources.logs is None else sources.logs.lost


def tls_certificate_expiry_timestamp_seconds(sources: MetricSources) -> Readings:
    """When the certificate of the service expires, in seconds since 1970; only with TLS."""
    if sources.tls_expires is not None:
        yield (), sources.tls_expires()


def build_info(sources: MetricSources) -> Readings:
    """Always 1; the labels have the versions."""
    yield (sources.version, platform.python_version()), 1
