"""When the workers of a flow file run."""

from __future__ import annotations

from penstock.files.mistakes import Mistakes
from penstock.files.node import Node
from penstock.files.records import Read
from penstock.runtime.schedule import Cron, Every, Once, Schedule


def check_schedules(workers: Node | None, mistakes: Mistakes) -> None:
    """Note what does not go together, in the document itself, so that no other mistake of a worker hides it."""
    for worker in () if workers is None else workers.values():
        every, cron, zone = (worker.key(name) for name in ("every", "cron", "zone"))
        if every is not None and cron is not None:
            mistakes.add(cron, "a worker runs every so often, or as cron says: give one of them")
        if zone is not None and cron is None:
            mistakes.add(zone, "a zone is for cron: 30 4 * * *")


def schedule_of(worker: Read) -> Schedule:
    """When a worker runs."""
    if worker["cron"] is not None:
        return Cron(worker["cron"], worker["zone"] or "UTC")
    return Once() if worker["every"] is None else Every(worker["every"])
