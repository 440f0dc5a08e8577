"""Settings of all tests."""

from __future__ import annotations

import gc
import os
import sys

import structlog
from hypothesis import settings

from servers import (  # noqa: F401 - fixtures
    _no_server_is_left,
    durable_kafka_server,
    kafka_server,
    nats_server,
    postgres_server,
    s3_server,
)

settings.register_profile("penstock", deadline=None)  # a busy machine makes any example slow; a hang has a timeout
settings.load_profile("penstock")

# Log lines are shown with the test that fails. (The library logs through structlog only where a program configures it;
# `capture_logs` does, and from then on unconfigured loggers would print to standard output.)
structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # a process would compile all modules when it starts: a second of work


def pytest_xdist_auto_num_workers() -> int:
    """Return how many workers `-n auto` starts: more than processors, because many tests wait."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 2 * available


def pytest_collection_finish() -> None:
    """Leave what is there before the first test out of garbage collections: there are millions of objects."""
    gc.collect()
    gc.freeze()
