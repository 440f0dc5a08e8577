"""What runs tell the people who watch them: logs and metrics."""

from penstock.observe.logs import LEVELS, set_up_logs
from penstock.observe.metrics import SERIES, PenstockCollector, registry_for
from penstock.observe.readings import Reloads, Requests, Watched

__all__ = ["LEVELS", "SERIES", "PenstockCollector", "Reloads", "Requests", "Watched", "registry_for", "set_up_logs"]
