"""Replace one revision of a flow by another, and decide which workers run in this process.

New runs use the active revision. Runs of the previous revision continue to their end. Its workers are drained before
those of the new revision start, so that no worker runs twice at once. A revision is retired after its last run.

A service with several processes runs most workers in one of them, the leader; see `Worker.runs_everywhere`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import structlog

from penstock.errors import StoreError, describe
from penstock.flow.serving import Worker
from penstock.runtime import Supervisor
from penstock.sources import Source
from penstock_http.deployments.progress import FlowProgress, Progress, due_in
from penstock_http.deployments.revision import RegisteredFlow, Revision, RevisionState

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class Rollout:
    """Runs one task per replacement.

    `in_use` returns all revisions that may have runs. `evict` is called with the name of a flow that may be gone.
    `keep_open` is the URL of a store that stays open even if no flow uses it. `process` is the number of this process
    if the service has several; it does not lead at first.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        in_use: Callable[[], list[Revision]],
        evict: Callable[[str], None],
        keep_open: str,
        process: int = 0,
    ) -> None:
        self._supervisor = supervisor
        self._in_use = in_use
        self._evict = evict
        self._keep_open = keep_open
        self._process = process
        self.leads = not process
        """Whether this process runs the workers that only one process runs."""
        self.progress: Progress = {}
        """What is known about these workers from before this process led, or from when it ceased to lead."""
        self._stopped = False
        """Whether no more workers are started here."""
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, registered: RegisteredFlow, old: Revision | None, new: Revision | None) -> None:
        """Start to replace one revision of a flow by another."""
        name = f"revision:{registered.name}:{new.number if new else 'none'}"
        task = asyncio.get_running_loop().create_task(self._replace(registered, old, new), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def lead(self, leads: bool, flows: Iterable[RegisteredFlow], progress: Progress) -> None:
        """Start the workers that only one process runs, or drain them and wait for their end.

        Those that start continue from the `progress` of the previous leader.
        """
        self.leads = leads
        if leads:
            self.progress = progress
        stopped = await asyncio.gather(*(self._follow(flow) for flow in flows))
        if not leads:
            self.progress = {flow: found for flow, found in stopped if found is not None}

    def current_progress(self, flows: Iterable[RegisteredFlow]) -> Progress:
        """Return how far the workers are that only this process runs, while it leads."""
        return {flow.name: self._progress_of(flow.working) for flow in flows if flow.working is not None}

    def _progress_of(self, revision: Revision) -> FlowProgress:
        alone = {worker.name for worker in revision.flow.workers if not worker.runs_everywhere}
        now = {name: due for name, due in self._supervisor.next_due(revision).items() if name in alone}
        return FlowProgress(revision.number, revision.digest, due_in(self.progress, revision) | now)

    async def stop_workers(self, flows: Iterable[RegisteredFlow]) -> None:
        """Drain all workers, wait for their end, and start no further ones."""
        self._stopped = True
        await asyncio.gather(*(self._stop_all(flow) for flow in flows))

    async def aclose(self) -> None:
        """Start no further workers, because the service shuts down."""
        self._stopped = True
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
                registered.working = None
                await self._supervisor.stop_workers(old)
            if new is not None and new.state is RevisionState.ACTIVE:
                registered.working = new
                self._start(new, [worker for worker in new.flow.workers if worker.runs_everywhere or self.leads])
        if old is not None:
            await self._retire(registered, old)

    async def _follow(self, registered: RegisteredFlow) -> tuple[str, FlowProgress | None]:
        """Start or stop those workers of a flow that only the leader runs. Returns how far those are that it stops."""
        async with registered.rollout_lock:
            if (revision := registered.working) is None:
                return registered.name, None  # the task that starts its workers finds out whether this process leads
            workers = [worker for worker in revision.flow.workers if not worker.runs_everywhere]
            running = [worker for worker in workers if (revision.name, worker.name) in self._supervisor.workers]
            if self.leads:
                self._start(revision, [worker for worker in workers if worker not in running])
                return registered.name, None
            stopped = await self._supervisor.stop_workers(revision, [worker.name for worker in running])
            due = due_in(self.progress, revision) | stopped
            return registered.name, FlowProgress(revision.number, revision.digest, due)

    async def _stop_all(self, registered: RegisteredFlow) -> None:
        async with registered.rollout_lock:
            if (revision := registered.working) is not None:
                registered.working = None
                await self._supervisor.stop_workers(revision)

    def _start(self, revision: Revision, workers: Iterable[Worker]) -> None:
        if self._stopped:
            return
        due = due_in(self.progress, revision)
        finished = {name for name, at in due.items() if at is None}
        if due:
            waiting = {name: at.isoformat() for name, at in due.items() if at is not None}
            log.info("workers.continued", flow=revision.name, finished=sorted(finished), due=waiting)
        for worker in workers:
            if worker.name not in finished:
                source = partial(_source, worker, self._process)
                self._supervisor.start_worker(
                    worker.name, revision, source, schedule=worker.schedule, due=due.get(worker.name)
                )

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


def _source(worker: Worker, process: int) -> Source[Any]:
    return worker.source.for_process(process) if process else worker.source
