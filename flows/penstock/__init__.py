"""Penstock: reactive dataflow with backpressure, settling and durable dead letters."""

from penstock.flow import Flow
from penstock.services import Backoff, Service
from penstock.sources import from_async_iterable, from_iterable, ndjson

__version__ = "0.1.0"

__all__ = ["Backoff", "Flow", "Service", "from_async_iterable", "from_iterable", "ndjson"]
