"""How one revision of a flow takes over from another.

New runs take the active revision. Those of the one before go on undisturbed to their own end; its workers are drained
before those of the new one start, so that no worker runs twice at once. After its last run a revision is retired.
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
from penstock_http.deployments.revision import RegisteredFlow, Revision, State

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class Rollout:
    """The changes that are under way, a task each. `in_use` are all revisions that may have runs."""

    def __init__(
        self, supervisor: Supervisor, in_use: Callable[[], list[Revision]], evict: Callable[[str], None], keep: str
    ) -> None:
        self._supervisor = supervisor
        self._in_use = in_use
        self._evict = evict
        self._keep = keep
        self._changes: set[asyncio.Task[None]] = set()

    def begin(self, entry: RegisteredFlow, before: Revision | None, after: Revision | None) -> None:
        """Begin to see one revision of a flow take over from another."""
        name = f"revision:{entry.name}:{after.number if after else 'none'}"
        task = asyncio.get_running_loop().create_task(self._change(entry, before, after), name=name)
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)

    async def aclose(self) -> None:
        """The service stops: no further workers are started."""
        for change in self._changes:
            change.cancel()
        await asyncio.gather(*self._changes, return_exceptions=True)

    async def forget(self, revision: Revision) -> None:
        """Release everything that only a rejected revision used."""
        await self._release(revision)
        self._evict(revision.name)

    async def _release(self, revision: Revision) -> None:
        """Close the stores and release the services that only this revision used."""
        rest = [other for other in self._in_use() if other is not revision]
        try:
            await self._supervisor.remove(revision, rest, keep_open=(self._keep,))
        except StoreError as error:
            log.warning("store.write_failed", flow=revision.name, error=describe(error))

    async def _change(self, entry: RegisteredFlow, before: Revision | None, after: Revision | None) -> None:
        async with entry.changing:  # one change after the other: workers of three revisions are not to meet
            if before is not None:
                await self._supervisor.stop_workers(before)
            if after is not None and after.state is State.ACTIVE:
                for worker in after.flow.workers:
                    source = partial(_source, worker)
                    self._supervisor.start_worker(worker.name, after, source, schedule=worker.schedule)
        if before is not None:
            await self._retire(entry, before)

    async def _retire(self, entry: RegisteredFlow, revision: Revision) -> None:
        """See a revision to the end of its last run."""
        await revision.wait_unused()
        await asyncio.gather(*(run.finished for run in self._supervisor.runs_of(revision.plan())))
        await self._release(revision)
        entry.revisions.remove(revision)
        self._evict(entry.name)
        log.info("revision.retired", flow=revision.name, revision=revision.number, digest=revision.digest)


def _source(worker: Worker) -> Source[Any]:
    return worker.source
