"""Hold the lease on a redrive job: extend it, and follow what other processes change."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from penstock.deadletters.dead_letter_queue import DeadLetterQueue, Job
from penstock.errors import JobNotFound, PenstockError, describe
from penstock.support.logger import get_logger

log = get_logger()

POLL_SECONDS = 1.0
"""How often the state and the rate of the job are read: another process may change them."""


class JobLease:
    """The right of one runner to work on a job and on the letters that it has claimed.

    `on_job` gets the job whenever it was read. `on_lost` is called when another runner has the job: the letters that
    this one has claimed stay leased until it has finished them. `on_expired` is called when the lease could not be
    extended in time, so that another runner may have the letters too.
    """

    def __init__(
        self,
        queue: DeadLetterQueue,
        job: Job,
        runner: str,
        seconds: float,
        *,
        on_job: Callable[[Job], None],
        on_lost: Callable[[], None],
        on_expired: Callable[[], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue = queue
        self._id = job.id
        self._runner = runner
        self._seconds = seconds
        self._on_job = on_job
        self._on_lost = on_lost
        self._on_expired = on_expired
        self._lost = False
        self._expiry = self._loop.call_later(seconds, self._expire)
        """Called when the lease ends. The job was acquired just now."""
        self._task = self._loop.create_task(self._keep(), name=f"redrive:{job.id}:lease")

    async def read(self) -> Job:
        """Read the job, and return it. Raises `JobNotFound` and `StoreError`."""
        job = await self._queue.job(self._id)
        if job is None:
            raise JobNotFound(self._id)
        self._on_job(job)
        return job

    async def stop(self) -> None:
        """Extend the lease no more."""
        self._task.cancel()
        await asyncio.wait((self._task,))
        self._expiry.cancel()

    async def give_up(self) -> Job | None:
        """Let other runners have the job at once. Returns it, or None if it has ended, or another runner has it."""
        return await self._queue.acquire_job(self._id, self._runner, 0.0)

    async def _keep(self) -> None:
        """Extend the lease three times while it lasts, and read the job in between."""
        next_heartbeat = self._loop.time() + self._seconds / 3
        while True:
            await asyncio.sleep(min(POLL_SECONDS, self._seconds / 3))
            try:
                if self._loop.time() >= next_heartbeat:
                    await self._extend()
                    next_heartbeat = self._loop.time() + self._seconds / 3
                else:
                    await self.read()
            except PenstockError as error:
                log.warning("redrive.store_failed", job=self._id, error=describe(error))

    async def _extend(self) -> None:
        """Extend the lease. Of a job that has ended or that another runner has, only that on the letters in flight."""
        sent = self._loop.time()
        job = await self._queue.acquire_job(self._id, self._runner, self._seconds)
        self._expiry.cancel()
        self._expiry = self._loop.call_at(sent + self._seconds, self._expire)
        if job is None:
            job = await self.read()
            if job.state in ("running", "paused"):
                self._lose(job.runner)
        else:
            self._on_job(job)

    def _lose(self, holder: str | None) -> None:
        if not self._lost:
            self._lost = True
            log.error("redrive.lease_lost", job=self._id, runner=holder)
            self._on_lost()

    def _expire(self) -> None:
        self._lose(None)
        self._on_expired()
