"""Settings of all tests."""

from __future__ import annotations

import sys

import structlog
from hypothesis import settings

settings.register_profile("penstock", deadline=None)  # a busy machine makes any example slow; a hang has a timeout
settings.load_profile("penstock")

# Log lines are shown with the test that fails. (The library logs through structlog only where a program configures it;
# `capture_logs` does, and from then on unconfigured loggers would print to standard output.)
structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
