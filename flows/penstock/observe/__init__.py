"""Observability: logs and metrics."""

from penstock.observe.collector import HttpCounters, MetricSources, ReloadCounters
from penstock.observe.dead_letters import DeadLetterReadings
from penstock.observe.logs import LEVELS, LogFile, configure_logging
from penstock.observe.metrics import SERIES, PenstockCollector, registry_for

__all__ = [
    "LEVELS",
    "SERIES",
    "DeadLetterReadings",
    "HttpCounters",
    "LogFile",
    "MetricSources",
    "PenstockCollector",
    "ReloadCounters",
    "configure_logging",
    "registry_for",
]
