"""The series that Prometheus scrapes, named once, and the collector that reads the parts' plain numbers for them.

Nothing is counted here: parts keep plain numbers, and the collector asks for them when it is scraped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from penstock.core.context import BUCKETS, DurationHistogram
from penstock.observe import collector as readings
from penstock.observe.collector import MetricSources, Readings
from penstock.support.text import sanitize

Counter, Gauge, Histogram = CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily


class MetricSpec(NamedTuple):
    """One series: its kind, its labels, and the function that reads it, which gives it its name and its help."""

    kind: type[CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily]
    labels: tuple[str, ...]
    read: Callable[[MetricSources], Readings]

    @property
    def name(self) -> str:
        """The full name."""
        return f"penstock_{self.read.__name__}"

    @property
    def help(self) -> str:
        """What it says."""
        return (self.read.__doc__ or "").rstrip(".")


TABLE = (
    MetricSpec(Counter, ("flow",), readings.received_total),
    MetricSpec(Counter, ("flow", "outcome"), readings.settled_total),
    MetricSpec(Counter, ("flow",), readings.dropped_total),
    MetricSpec(Gauge, ("flow",), readings.in_flight),
    MetricSpec(Gauge, ("flow",), readings.window_capacity),
    MetricSpec(Counter, ("flow",), readings.backpressure_seconds_total),
    MetricSpec(Gauge, ("flow",), readings.time_since_progress_seconds),
    MetricSpec(Histogram, ("flow", "step"), readings.step_duration_seconds),
    MetricSpec(Counter, ("service", "result"), readings.service_calls_total),
    MetricSpec(Gauge, ("service",), readings.service_in_flight),
    MetricSpec(Gauge, ("service",), readings.service_waiting),
    MetricSpec(Gauge, ("service",), readings.service_max_in_flight),
    MetricSpec(Counter, ("service",), readings.service_retries_total),
    MetricSpec(Counter, ("flow", "step"), readings.dead_letters_total),
    MetricSpec(Gauge, ("state",), readings.dead_letters_stored),
    MetricSpec(Counter, (), readings.dead_letter_store_commits_total),
    MetricSpec(Counter, (), readings.dead_letter_store_commit_seconds_total),
    MetricSpec(Counter, (), readings.dead_letter_store_failures_total),
    MetricSpec(Gauge, ("store",), readings.dead_letter_store_usable),
    MetricSpec(Counter, (), readings.dead_letter_store_restarts_total),
    MetricSpec(Gauge, ("flow", "kind"), readings.runs_active),
    MetricSpec(Counter, ("flow", "kind", "reason"), readings.runs_total),
    MetricSpec(Counter, ("flow", "worker"), readings.worker_restarts_total),
    MetricSpec(Counter, ("flow", "worker"), readings.worker_reschedules_total),
    MetricSpec(Gauge, ("flow",), readings.flow_revision),
    MetricSpec(Counter, ("flow", "outcome"), readings.flow_reloads_total),
    MetricSpec(Counter, ("route", "method", "status"), readings.http_requests_total),
    MetricSpec(Counter, ("reason",), readings.http_rejected_total),
    MetricSpec(Counter, (), readings.log_lines_lost_total),
    MetricSpec(Gauge, ("version", "python"), readings.build_info),
)

SERIES: tuple[str, ...] = tuple(series.name for series in TABLE)
"""The full names of all series, histograms by their base name."""


class PenstockCollector(Collector):
    """Reads what is watched at scrape time."""

    def __init__(self, watched: MetricSources) -> None:
        self._watched = watched

    def collect(self) -> Iterable[Metric]:
        """One family for every series."""
        for series in TABLE:
            metric = series.kind(series.name, series.help, labels=series.labels)
            for values, number in series.read(self._watched):
                labels = [sanitize(value) for value in values]
                if isinstance(metric, HistogramMetricFamily):
                    assert isinstance(number, DurationHistogram)
                    metric.add_metric(labels, buckets=_buckets(number), sum_value=number.total)
                else:
                    assert not isinstance(number, DurationHistogram)
                    metric.add_metric(labels, number)
            yield metric

    def describe(self) -> Iterable[Metric]:
        """Nothing: a registry would scrape to find out."""
        return ()


def registry_for(collector: Collector) -> CollectorRegistry:
    """A registry with Penstock's series, the process's and the garbage collector's."""
    registry = CollectorRegistry()
    registry.register(collector)
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


def _buckets(meter: DurationHistogram) -> list[tuple[str, float]]:
    """The buckets as Prometheus wants them: cumulative, the last one without a bound."""
    total = 0
    buckets: list[tuple[str, float]] = []
    for bound, count in zip((*map(str, BUCKETS), "+Inf"), meter.counts, strict=True):
        total += count
        buckets.append((bound, total))
    return buckets
