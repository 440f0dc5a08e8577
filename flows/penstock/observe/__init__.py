"""Observability: logs and metrics."""

from penstock.observe.collector import HttpCounters, MetricSources, ReloadCounters
from penstock.observe.logs import LEVELS, LogFile, configure_logging
from penstock.observe.metrics import SERIES, PenstockCollector, registry_for

__all__ = [
    "LEVELS",
    "SERIES",
    "HttpCounters",
    "LogFile",
    "MetricSources",
    "PenstockCollector",
    "ReloadCounters",
    "configure_logging",
    "registry_for",
]
