"""What runs tell the people who watch them: logs and metrics."""

from penstock.observe.logs import LEVELS, LogFile, set_up_logs
from penstock.observe.metrics import SERIES, PenstockCollector, registry_for
from penstock.observe.readings import Reloads, Requests, Watched

__all__ = [
    "LEVELS",
    "SERIES",
    "LogFile",
    "PenstockCollector",
    "Reloads",
    "Requests",
    "Watched",
    "registry_for",
    "set_up_logs",
]
