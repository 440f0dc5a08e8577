"""Define all Prometheus series, and the collector that reads them.

Nothing is counted here: the parts of the process have plain counters, which are read at each scrape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from penstock.core.context import BUCKETS, DurationHistogram
from penstock.observe import collector
from penstock.observe.collector import MetricSources, Readings
from penstock.support.text import sanitize

Counter, Gauge, Histogram = CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily


class MetricSpec(NamedTuple):
    """One series: its kind, its labels, and the function that reads it, which also gives its name and help."""

    kind: type[CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily]
    labels: tuple[str, ...]
    read: Callable[[MetricSources], Readings]

    @property
    def name(self) -> str:
        """The full name of the series."""
        return f"penstock_{self.read.__name__}"

    @property
    def help(self) -> str:
        """The help text of the series."""
        return (self.read.__doc__ or "").rstrip(".")


TABLE = (
    MetricSpec(Counter, ("flow",), collector.received_total),
    MetricSpec(Counter, ("flow", "outcome"), collector.settled_total),
    MetricSpec(Counter, ("flow",), collector.dropped_total),
    MetricSpec(Gauge, ("flow",), collector.in_flight),
    MetricSpec(Gauge, ("flow",), collector.window_capacity),
    MetricSpec(Counter, ("flow",), collector.backpressure_seconds_total),
    MetricSpec(Gauge, ("flow",), collector.time_since_progress_seconds),
    MetricSpec(Histogram, ("flow", "step"), collector.step_duration_seconds),
    MetricSpec(Gauge, ("flow", "service"), collector.flow_service_info),
    MetricSpec(Counter, ("service", "result"), collector.service_calls_total),
    MetricSpec(Histogram, ("service", "result"), collector.service_duration_seconds),
    MetricSpec(Gauge, ("service",), collector.service_in_flight),
    MetricSpec(Gauge, ("service",), collector.service_waiting),
    MetricSpec(Gauge, ("service",), collector.service_max_in_flight),
    MetricSpec(Gauge, ("service",), collector.service_limit),
    MetricSpec(Counter, ("service",), collector.service_retries_total),
    MetricSpec(Gauge, ("service", "state"), collector.service_breaker_state),
    MetricSpec(Counter, ("service",), collector.service_breaker_open_seconds_total),
    MetricSpec(Counter, ("service",), collector.service_breaker_opened_total),
    MetricSpec(Counter, ("service",), collector.service_paced_seconds_total),
    MetricSpec(Gauge, ("service", "state"), collector.service_connections),
    MetricSpec(Gauge, ("service",), collector.service_connections_awaited),
    MetricSpec(Counter, ("flow", "step"), collector.dead_letters_total),
    MetricSpec(Gauge, ("state",), collector.dead_letters_stored),
    MetricSpec(Gauge, ("flow",), collector.dead_letters_oldest_waiting_seconds),
    MetricSpec(Counter, ("flow", "result"), collector.dead_letters_redriven_total),
    MetricSpec(Counter, ("flow",), collector.dead_letters_expired_total),
    MetricSpec(Gauge, ("copy",), collector.dead_letter_copies_behind),
    MetricSpec(Gauge, ("state",), collector.redrives_open),
    MetricSpec(Counter, ("state",), collector.redrives_total),
    MetricSpec(Counter, (), collector.dead_letter_store_commits_total),
    MetricSpec(Counter, (), collector.dead_letter_store_commit_seconds_total),
    MetricSpec(Counter, (), collector.dead_letter_store_failures_total),
    MetricSpec(Gauge, ("store",), collector.dead_letter_store_usable),
    MetricSpec(Counter, (), collector.dead_letter_store_restarts_total),
    MetricSpec(Gauge, ("flow", "kind"), collector.runs_active),
    MetricSpec(Counter, ("flow", "kind", "reason"), collector.runs_total),
    MetricSpec(Counter, ("flow", "worker"), collector.worker_restarts_total),
    MetricSpec(Counter, ("flow", "worker"), collector.worker_reschedules_total),
    MetricSpec(Gauge, ("flow", "worker"), collector.worker_unavailable_seconds),
    MetricSpec(Gauge, ("sink",), collector.sink_unreachable_seconds),
    MetricSpec(Gauge, ("flow",), collector.flow_revision),
    MetricSpec(Counter, ("flow", "outcome"), collector.flow_reloads_total),
    MetricSpec(Counter, ("route", "method", "status"), collector.http_requests_total),
    MetricSpec(Counter, ("reason",), collector.http_rejected_total),
    MetricSpec(Counter, (), collector.log_lines_lost_total),
    MetricSpec(Gauge, (), collector.tls_certificate_expiry_timestamp_seconds),
    MetricSpec(Gauge, ("version", "python"), collector.build_info),
)

SERIES: tuple[str, ...] = tuple(series.name for series in TABLE)
"""The full names of all series, histograms by their base name."""


class PenstockCollector(Collector):
    """Reads all series at scrape time."""

    def __init__(self, sources: MetricSources) -> None:
        self._sources = sources

    def collect(self) -> Iterable[Metric]:
        """Yield one metric family for every series."""
        sources = self._sources.read_services()
        for series in TABLE:
            metric = series.kind(series.name, series.help, labels=series.labels)
            for values, number in series.read(sources):
                labels = [sanitize(value) for value in values]
                if isinstance(metric, HistogramMetricFamily):
                    assert isinstance(number, DurationHistogram)
                    metric.add_metric(labels, buckets=_buckets(number), sum_value=number.total)
                else:
                    assert not isinstance(number, DurationHistogram)
                    metric.add_metric(labels, number)
            yield metric

    def describe(self) -> Iterable[Metric]:
        """Return nothing, because a registry would scrape otherwise."""
        return ()


def registry_for(collector: Collector) -> CollectorRegistry:
    """Make a registry with the series of Penstock, of the process and of the garbage collector."""
    registry = CollectorRegistry()
    registry.register(collector)
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


def _buckets(histogram: DurationHistogram) -> list[tuple[str, float]]:
    """Return cumulative buckets, as Prometheus requires. The last one has no bound."""
    total = 0
    buckets: list[tuple[str, float]] = []
    for bound, count in zip((*map(str, BUCKETS), "+Inf"), histogram.counts, strict=True):
        total += count
        buckets.append((bound, total))
    return buckets
