"""Settings of all tests."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

import pytest
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
# Processes run in asyncio's event loop, although uvloop is installed; tests/service/test_event_loops.py is about both.
os.environ.setdefault("PENSTOCK_EVENT_LOOP", "asyncio")
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # a process would compile all modules when it starts: a second of work


def pytest_xdist_auto_num_workers() -> int:
    """Return how many workers `-n auto` starts: more than processors, because many tests wait.

    Each costs twenty seconds of a processor, for imports and for servers.
    """
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 5 * available // 2


def pytest_configure(config: pytest.Config) -> None:
    """Let each worker import another part of the tests first.

    All workers import all tests. In a new clone, the first one that imports a file compiles it, which takes longer than
    the rest of the collection; they would all do so at the same time.
    """
    number, count = worker_of(config)
    if count > 1 and config.args_source is pytest.Config.ArgsSource.TESTPATHS:
        files = sorted(str(file) for folder in config.args for file in Path(folder).rglob("test_*.py"))
        start = len(files) * number // count
        config.args[:] = files[start:] + files[:start]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Sort the tests by file, the same in all workers, and begin the share of each worker with long ones.

    A long test that begins as one of the last keeps all others waiting. xdist gives each worker the next n-th of the
    tests, and later parts of others' shares.
    """
    items.sort(key=lambda item: item.path)
    _, count = worker_of(config)
    long = [item for item in items if item.get_closest_marker("long")]
    others = [item for item in items if not item.get_closest_marker("long")]
    items.clear()
    for left in range(count, 0, -1):
        size = (len(long) + len(others)) // left
        first = long[::left]
        rest = others[: max(size - len(first), 0)]
        items += first + rest
        del long[::left], others[: len(rest)]


def worker_of(config: pytest.Config) -> tuple[int, int]:
    """Return which worker this process is, from 0, of how many."""
    worker = getattr(config, "workerinput", {"workerid": "gw0", "workercount": 1})
    return int(worker["workerid"].removeprefix("gw")), int(worker["workercount"])


def pytest_collection_finish() -> None:
    """Leave what is there before the first test out of garbage collections: there are millions of objects."""
    gc.collect()
    gc.freeze()
