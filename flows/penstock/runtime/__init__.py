"""Running flows: a run, and the supervisor of all runs of a process."""

from penstock.runtime.counters import FlowStatistics, ServiceCounters
from penstock.runtime.order import Order
from penstock.runtime.run import Run
from penstock.runtime.schedule import Cron, Every, Once, Schedule
from penstock.runtime.shutdown import Event, Phase
from penstock.runtime.summary import EndReason, ShutdownReport, Summary
from penstock.runtime.supervisor import Supervisor
from penstock.runtime.wiring import RunPlan

__all__ = [
    "Cron",
    "EndReason",
    "Event",
    "Every",
    "FlowStatistics",
    "Once",
    "Order",
    "Phase",
    "Run",
    "RunPlan",
    "Schedule",
    "ServiceCounters",
    "ShutdownReport",
    "Summary",
    "Supervisor",
]
