"""Penstock: reactive dataflow with backpressure, settling and durable dead letters.

Names are imported when they are first used: `penstock --help` need not wait for what it does not show.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from penstock.core.element import Failure
    from penstock.errors import ElementError, FlowDefinitionError, PenstockError, RunError
    from penstock.expressions import Expression
    from penstock.flow.flow import Flow, Otherwise, When
    from penstock.results import Failed, Ok, Result
    from penstock.runtime import Cron, Every, Once, Run, Summary, Supervisor
    from penstock.services import Backoff, Service
    from penstock.sinks import FileSink
    from penstock.sources import (
        PushSource,
        from_async_iterable,
        from_directory,
        from_file,
        from_iterable,
        from_observable,
        from_stdin,
        generate,
        ndjson,
        ticks,
    )

__all__ = [
    "Backoff",
    "Cron",
    "ElementError",
    "Every",
    "Expression",
    "Failed",
    "Failure",
    "FileSink",
    "Flow",
    "FlowDefinitionError",
    "Ok",
    "Once",
    "Otherwise",
    "PenstockError",
    "PushSource",
    "Result",
    "Run",
    "RunError",
    "Service",
    "Summary",
    "Supervisor",
    "When",
    "from_async_iterable",
    "from_directory",
    "from_file",
    "from_iterable",
    "from_observable",
    "from_stdin",
    "generate",
    "ndjson",
    "ticks",
]

_HOMES = {
    "core.element": ("Failure",),
    "errors": ("ElementError", "FlowDefinitionError", "PenstockError", "RunError"),
    "expressions": ("Expression",),
    "flow": ("Flow", "Otherwise", "When"),
    "sinks": ("FileSink",),
    "runtime": ("Cron", "Every", "Once", "Run", "Summary", "Supervisor"),
    "services": ("Backoff", "Service"),
    "results": ("Failed", "Ok", "Result"),
    "sources": (
        "PushSource",
        "from_async_iterable",
        "from_directory",
        "from_file",
        "from_iterable",
        "from_observable",
        "from_stdin",
        "generate",
        "ndjson",
        "ticks",
    ),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            found = getattr(import_module(f"penstock.{home}"), name)
            globals()[name] = found
            return found
    raise AttributeError(f"module 'penstock' has no attribute {name!r}")
