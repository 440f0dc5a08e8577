"""Run the redrive jobs of a process."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Sequence

from penstock.deadletters.dead_letter_queue import LEASE_SECONDS, DeadLetterQueue, Job
from penstock.errors import JobNotFound, PenstockError, StoreError, describe
from penstock.redrive.counters import RedriveCounters, RedriveStatistics
from penstock.redrive.expired_leases import release_expired
from penstock.redrive.flows import FlowLookup
from penstock.redrive.job_runner import JobRunner
from penstock.runtime import Phase, Supervisor
from penstock.support.ids import new_id
from penstock.support.logger import get_logger

log = get_logger()

MAX_JOBS = 16
"""Maximum jobs that `start` and `watch` work on at a time in one process. Others wait."""

WATCH_SECONDS = 3.0
"""How often `watch` searches for jobs that no process works on."""

RELEASE_SECONDS = 15.0
"""How often `watch` lets letters of killed runners wait again whose job is paused or has ended."""

FOLLOW_SECONDS = 1.0
"""How often `run` reads a job that another process works on."""


class Redriver:
    """Runs redrive jobs. Each process that does has its own name, `runner`, under which it holds leases.

    `lease` is the seconds after which another process may continue the jobs of a process that was killed.
    A shutdown of the supervisor ends all jobs here, after it has drained their runs; they continue after a restart.
    """

    def __init__(
        self, supervisor: Supervisor, flows: FlowLookup, *, runner: str | None = None, lease: float = LEASE_SECONDS
    ) -> None:
        self.runner = runner or f"{socket.gethostname()}:{os.getpid()}:{new_id()[-8:]}"
        self._supervisor = supervisor
        self._flows = flows
        self._lease = lease
        self._counters = RedriveCounters()
        self._held: set[str] = set()
        """Jobs that this process works on, or tries to acquire. All its calls use one name, so only one may do so."""
        self._runners: dict[str, JobRunner] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self._stopping = asyncio.Event()
        supervisor.before_close.append(self.drain)

    async def run(
        self, queue: DeadLetterQueue, job_id: str, *, on_progress: Callable[[Job], None] | None = None
    ) -> Job:
        """Work on a job until it is no longer running, or until `drain`. Returns the job as it is then.

        While another process works on the job, this one follows it, and continues it if that process was killed.
        Raises `JobNotFound`, and `StoreError` if the store cannot be used at the beginning; later it is tried again. A
        cancel aborts the letters in flight.
        """
        began = False
        while not self._stopping.is_set():
            try:
                job = None if job_id in self._held else await self._work(queue, job_id, on_progress)
                if job is not None:
                    if job.state != "running" or self._supervisor.phase is not Phase.SERVING:
                        return job
                    began = True
                    continue  # the lease was lost, or `drain` was called
                job = await _existing(queue, job_id)
            except StoreError as error:
                if not began:
                    raise
                log.warning("redrive.store_failed", store=queue.url, job=job_id, error=describe(error))
            else:
                if job.state != "running":
                    return job
                if on_progress is not None:
                    on_progress(job)
            try:
                async with asyncio.timeout(FOLLOW_SECONDS):
                    await self._stopping.wait()
            except TimeoutError:
                pass
        return await _existing(queue, job_id)

    def start(self, queue: DeadLetterQueue, job_id: str) -> None:
        """Work on a job in the background. While too many jobs run, `watch` starts it later."""
        if self._stopping.is_set() or job_id in self._tasks or len(self._tasks) >= MAX_JOBS:
            return
        task = asyncio.get_running_loop().create_task(self._run_in_background(queue, job_id), name=f"redrive:{job_id}")
        self._tasks[job_id] = task
        task.add_done_callback(lambda _: self._tasks.pop(job_id, None))

    async def watch(self, queues: Callable[[], Sequence[DeadLetterQueue]]) -> None:
        """Take jobs that no process works on, after a restart or from another process, until it is cancelled.

        Lets letters of killed runners wait again if their jobs are paused or have ended.
        """
        loop, next_release = asyncio.get_running_loop(), 0.0
        while True:
            release = loop.time() >= next_release
            if release:
                next_release = loop.time() + RELEASE_SECONDS
            for queue in queues():
                try:
                    if release:
                        await release_expired(queue)
                    await self._start_free(queue)
                except StoreError as error:
                    log.warning("redrive.store_failed", store=queue.url, error=describe(error))
            await asyncio.sleep(WATCH_SECONDS)

    async def drain(self) -> None:
        """Start no further jobs; finish the letters in flight, settle, and give the leases up."""
        self._stopping.set()
        for runner in self._runners.values():
            runner.drain()
        await self._wait()

    async def abort(self) -> None:
        """Cancel the letters in flight, settle, and give the leases up."""
        self._stopping.set()
        for runner in self._runners.values():
            runner.abort()
        await self._wait()

    def statistics(self) -> RedriveStatistics:
        """Return the counters of this process."""
        return RedriveStatistics(dict(self._counters.letters), len(self._runners), dict(self._counters.jobs))

    async def _work(self, queue: DeadLetterQueue, job_id: str, on_progress: Callable[[Job], None] | None) -> Job | None:
        """Acquire a job and work on it. Returns the job, or None if another process has it or it cannot be run."""
        self._held.add(job_id)
        self._idle.clear()
        try:
            job = await queue.acquire_job(job_id, self.runner, self._lease)
            if job is None:
                return None
            if job.state == "running" and not self._stopping.is_set():
                return await self._run_acquired(queue, job, on_progress)
            await queue.acquire_job(job_id, self.runner, 0.0)  # paused, or `drain` was called
            return job
        finally:
            self._held.discard(job_id)
            if not self._held:
                self._idle.set()

    async def _run_acquired(self, queue: DeadLetterQueue, job: Job, on_progress: Callable[[Job], None] | None) -> Job:
        runner = self._runners[job.id] = JobRunner(
            queue,
            job,
            self.runner,
            self._supervisor,
            self._flows,
            self._counters,
            lease=self._lease,
            on_progress=on_progress,
        )
        try:
            return await runner.run()
        finally:
            del self._runners[job.id]

    async def _run_in_background(self, queue: DeadLetterQueue, job_id: str) -> None:
        try:
            await self.run(queue, job_id)
        except PenstockError as error:
            log.error("redrive.failed", job=job_id, error=describe(error))
        except Exception as error:
            log.error("redrive.failed", job=job_id, error=describe(error), exc_info=error)

    async def _start_free(self, queue: DeadLetterQueue) -> None:
        if self._supervisor.phase is not Phase.SERVING:
            return
        for job in await queue.jobs(state="running"):
            if job.runner is None:
                self.start(queue, job.id)

    async def _wait(self) -> None:
        """Wait until this process works on no job."""
        await self._idle.wait()
        if others := [task for task in self._tasks.values() if task is not asyncio.current_task()]:
            await asyncio.wait(others)


async def _existing(queue: DeadLetterQueue, job_id: str) -> Job:
    if (job := await queue.job(job_id)) is None:
        raise JobNotFound(job_id)
    return job
