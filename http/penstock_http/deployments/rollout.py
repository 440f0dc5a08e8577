"""Replace one revision of a flow by another.

New runs use the active revision. Runs of the previous revision continue to their end. Its workers are drained before
those of the new revision start, so that no worker runs twice at once. A revision is retired after its last run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import structlog

from penstock.errors import StoreError, describe
from penstock.flow.serving import Worker
from penstock.runtime import Supervisor
from penstock.sources import Source
from penstock_http.deployments.revision import RegisteredFlow, Revision, RevisionState

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class Rollout:
    """Runs one task per replacement.

    `in_use` returns all revisions that may have runs. `evict` is called with the name of a flow that may be gone.
    `keep_open` is the URL of a store that stays open even if no flow uses it.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        in_use: Callable[[], list[Revision]],
        evict: Callable[[str], None],
        keep_open: str,
    ) -> None:
        self._supervisor = supervisor
        self._in_use = in_use
        self._evict = evict
        self._keep_open = keep_open
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, registered: RegisteredFlow, old: Revision | None, new: Revision | None) -> None:
        """Start to replace one revision of a flow by another."""
        name = f"revision:{registered.name}:{new.number if new else 'none'}"
        task = asyncio.get_running_loop().create_task(self._replace(registered, old, new), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def aclose(self) -> None:
        """Start no further workers, because the service shuts down."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def discard(self, revision: Revision) -> None:
        """Release everything that only a rejected revision used."""
        await self._release(revision)
        self._evict(revision.name)

    async def _replace(self, registered: RegisteredFlow, old: Revision | None, new: Revision | None) -> None:
        async with registered.rollout_lock:  # one replacement at a time, or workers of three revisions could overlap
            if old is not None:
                await self._supervisor.stop_workers(old)
            if new is not None and new.state is RevisionState.ACTIVE:
                for worker in new.flow.workers:
                    source = partial(_source, worker)
                    self._supervisor.start_worker(worker.name, new, source, schedule=worker.schedule)
        if old is not None:
            await self._retire(registered, old)

    async def _retire(self, registered: RegisteredFlow, revision: Revision) -> None:
        """Wait for the last run of a revision, then remove the revision."""
        await revision.wait_unused()
        await asyncio.gather(*(run.finished for run in self._supervisor.runs_of(revision.plan())))
        await self._release(revision)
        registered.revisions.remove(revision)
        self._evict(registered.name)
        log.info("revision.retired", flow=revision.name, revision=revision.number, digest=revision.digest)

    async def _release(self, revision: Revision) -> None:
        """Close the stores and release the services that only this revision used."""
        others = [other for other in self._in_use() if other is not revision]
        try:
            await self._supervisor.remove(revision, others, keep_open=(self._keep_open,))
        except StoreError as error:
            log.warning("store.write_failed", flow=revision.name, error=describe(error))


def _source(worker: Worker) -> Source[Any]:
    return worker.source
