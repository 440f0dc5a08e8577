"""Penstock: reactive dataflow with backpressure, settling and durable dead letters."""

from penstock.element import Failure
from penstock.errors import ElementError, FlowError, PenstockError, RunError
from penstock.flow import Flow
from penstock.runtime import Run, Summary, Supervisor
from penstock.services import Backoff, Service
from penstock.sinks import Result
from penstock.sources import Feed, from_async_iterable, from_iterable, from_observable, ndjson, ticks

__version__ = "0.1.0"

__all__ = [
    "Backoff",
    "ElementError",
    "Failure",
    "Feed",
    "Flow",
    "FlowError",
    "PenstockError",
    "Result",
    "Run",
    "RunError",
    "Service",
    "Summary",
    "Supervisor",
    "from_async_iterable",
    "from_iterable",
    "from_observable",
    "ndjson",
    "ticks",
]
