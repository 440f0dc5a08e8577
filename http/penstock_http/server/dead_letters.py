"""Work on dead letters in the background while the service runs: redrives, retention, and numbers for metrics.

Copies are delivered by the stores themselves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import structlog

from penstock.deadletters.dead_letter_queue import DeadLetterQueue
from penstock.deadletters.log import is_queue
from penstock.observe import DeadLetterReadings
from penstock.redrive import Redriver
from penstock.redrive.automatic import AutomaticRedriver
from penstock.redrive.local_desk import LocalDesk
from penstock.redrive.retention import KeptLetters, Retention, kept_letters
from penstock.runtime import Phase, Supervisor
from penstock_http.deployments.registry import FlowRegistry

log: structlog.stdlib.BoundLogger = structlog.get_logger()

RESTART_SECONDS = 15.0
"""Seconds until work that failed is started again."""

Work = Callable[[], Coroutine[Any, Any, None]]


class DeadLetterWork:
    """Everything that happens to dead letters in the background.

    Of several processes each works on jobs, and the one that leads does the rest.

    When the service stops, nothing new begins, and the supervisor drains the jobs: it closes the stores after their
    letters are settled.
    """

    def __init__(self, supervisor: Supervisor, registry: FlowRegistry) -> None:
        self._supervisor = supervisor
        self._registry = registry
        self._redriver = Redriver(supervisor, registry)
        self._automatic = AutomaticRedriver(self._redriver, self._queues, lambda: self._registry.active)
        self._retention = Retention(self._kept)
        self._tasks: list[asyncio.Task[None]] = []
        self._leader_tasks: list[asyncio.Task[None]] = []
        """The tasks that only one process runs."""
        registry.on_lead.append(self._lead)
        self.desk = LocalDesk(supervisor.stores.all, registry, self._redriver, supervisor)
        self.readings = DeadLetterReadings()
        self.readings.redriven = lambda: {
            (flow, str(result)): number for (flow, result), number in self._redriver.statistics().letters.items()
        }
        self.readings.expired = lambda: self._retention.statistics().deleted
        self.readings.jobs_left = lambda: self._redriver.statistics().jobs

    def start(self) -> None:
        """Start the work. The stores are open."""
        self._tasks.append(_begin("jobs", lambda: self._redriver.watch(self._queues)))  # also those of a crash
        if self._registry.leads:
            self._begin_leading()

    async def stop(self) -> None:
        """End the work. The supervisor has drained the jobs."""
        await _end(self._leader_tasks)
        await _end(self._tasks)

    async def _lead(self, leads: bool) -> None:
        """Begin or cease to do what only one process does."""
        if not leads:
            await _end(self._leader_tasks)
            self.readings.forget()
        elif self._tasks and not self._leader_tasks:
            self._begin_leading()

    def _begin_leading(self) -> None:
        self._leader_tasks += [
            _begin("automatic", self._automatic.run),
            _begin("retention", self._retention.run),
            _begin("metrics", lambda: self.readings.keep_fresh(self._queues)),
        ]

    def _queues(self) -> Sequence[DeadLetterQueue]:
        """Return the stores to work on; none when the service stops."""
        return [store for store in self._supervisor.stores.all() if is_queue(store)] if self._is_serving else []

    def _kept(self) -> list[KeptLetters]:
        """Return the letters of the active revisions that have limits; none when the service stops."""
        flows = [revision.flow for revision in self._registry.active] if self._is_serving else []
        return kept_letters(flows, self._supervisor.stores)

    @property
    def _is_serving(self) -> bool:
        return self._supervisor.phase is Phase.SERVING


def _begin(name: str, work: Work) -> asyncio.Task[None]:
    return asyncio.get_running_loop().create_task(_keep_running(name, work), name=f"dead-letters:{name}")


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    tasks.clear()


async def _keep_running(name: str, work: Work) -> None:
    """Do some work until cancelled. An error that it does not handle is a bug, and must not end it for good."""
    while True:
        try:
            return await work()
        except Exception as error:
            log.error("dead_letters.work_failed", work=name, restart_in=RESTART_SECONDS, exc_info=error)
            await asyncio.sleep(RESTART_SECONDS)
