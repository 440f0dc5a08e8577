"""Penstock: reactive dataflow with backpressure, settling and durable dead letters."""

import sys

import structlog

from penstock.element import Failure
from penstock.errors import ElementError, FlowError, PenstockError, RunError
from penstock.flow import Flow
from penstock.runtime import Run, Summary, Supervisor
from penstock.services import Backoff, Service
from penstock.sinks import Result
from penstock.sources import Feed, from_async_iterable, from_iterable, from_observable, ndjson, ticks

if not structlog.is_configured():
    # Standard output belongs to the results of whoever uses this library; structlog would print there.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))

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
