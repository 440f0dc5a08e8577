"""Running flows: a run, and the supervisor of all runs of a process."""

import sys
from typing import TextIO, cast

import structlog

from penstock.runtime.counters import FlowStatistics, ServiceCounters
from penstock.runtime.run import Run
from penstock.runtime.schedule import Cron, Every, Once, Schedule
from penstock.runtime.shutdown import Event, Phase
from penstock.runtime.summary import ShutdownReport, Summary
from penstock.runtime.supervisor import Supervisor
from penstock.runtime.wiring import RunPlan
from penstock.support.terminal import MessageStream, console_lines

if not structlog.is_configured():
    # Standard output is for the results of the program that uses this library; structlog would print there.
    structlog.configure(
        processors=[*structlog.get_config()["processors"][:-1], *console_lines(sys.stderr)],
        logger_factory=structlog.PrintLoggerFactory(cast("TextIO", MessageStream(sys.stderr))),
    )

__all__ = [
    "Cron",
    "Event",
    "Every",
    "FlowStatistics",
    "Once",
    "Phase",
    "Run",
    "RunPlan",
    "Schedule",
    "ServiceCounters",
    "ShutdownReport",
    "Summary",
    "Supervisor",
]
