"""Background work on dead letters while the service runs: redrive jobs."""

from __future__ import annotations

from collections.abc import Callable

from penstock.deadletters.queue import DeadLetterQueue, Job
from penstock.redrive.local_desk import LocalDesk
from penstock.runtime import Supervisor
from penstock_http.deployments.registry import FlowRegistry


class Waiting:
    """Leaves jobs to other processes."""

    async def run(
        self, queue: DeadLetterQueue, job_id: str, *, on_progress: Callable[[Job], None] | None = None
    ) -> Job:
        raise NotImplementedError

    def start(self, queue: DeadLetterQueue, job_id: str) -> None:
        pass

    async def drain(self) -> None:
        pass


class DeadLetterWork:
    """Everything that happens to dead letters in the background."""

    def __init__(self, supervisor: Supervisor, registry: FlowRegistry) -> None:
        self.desk = LocalDesk(supervisor.stores.all, registry, Waiting(), supervisor)
