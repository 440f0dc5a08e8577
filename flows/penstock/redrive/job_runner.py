"""Run one redrive job: claim the letters of one batch after the other, and settle them, until something stops it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum
from itertools import groupby
from math import ceil
from typing import TypeVar

from penstock.deadletters import DeadLetter
from penstock.deadletters.dead_letter_queue import DeadLetterQueue, Job, Settled, Settlement
from penstock.errors import JobEnded, RedriveError, ShuttingDown, StoreError, describe
from penstock.redrive.counters import RedriveCounters, RedriveOutcome
from penstock.redrive.flow_run import FlowRun
from penstock.redrive.flows import FlowLookup
from penstock.redrive.job_lease import JobLease
from penstock.redrive.job_runs import JobRuns, RunEnd
from penstock.redrive.pacer import Pacer
from penstock.redrive.settler import Settler
from penstock.redrive.threshold import Threshold
from penstock.runtime import Phase, Supervisor
from penstock.runtime.counters import REMOVED
from penstock.runtime.supervisor import RunnableFlow
from penstock.services import Backoff, first_down
from penstock.support.logger import get_logger

log = get_logger()

T = TypeVar("T")

FIRST_CLAIM = 32
"""Letters of the first claim. The size of later ones follows from the sizes of these letters."""

MAX_CLAIM = 512
"""Maximum letters of one claim. A transaction with more saves little time."""

CLAIM_BYTES = 8 * 1024 * 1024
"""The size of inputs that one claim should not exceed."""

WAIT_SECONDS = 1.0
"""Seconds after which a batch is examined again although nothing has happened here."""

SETTLE_TIMEOUT = 10.0
"""Seconds that the last settlements may take at the end. Letters that are not settled wait until their lease ends."""

RNG = random.Random()  # noqa: S311 - jitter, no secret


class StopReason(StrEnum):
    """Why a runner stops working on a job."""

    COMPLETED = "completed"
    """All letters have outcomes."""
    CHANGED = "changed"
    """The job was paused, stopped or cancelled."""
    THRESHOLD = "threshold"
    """Too many letters failed again."""
    FAILED = "failed"
    """A flow is unknown, or its run failed."""
    DRAINING = "draining"
    """The process stops."""
    LEASE_LOST = "lease lost"
    """Another process works on the job, or may do so because the lease could not be extended."""


class JobRunner:
    """Works on one job, which it has acquired, until the job or `drain` ends that."""

    def __init__(
        self,
        queue: DeadLetterQueue,
        job: Job,
        runner: str,
        supervisor: Supervisor,
        flows: FlowLookup,
        counters: RedriveCounters,
        *,
        lease: float,
        on_progress: Callable[[Job], None] | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue = queue
        self._job = job
        self._runner = runner
        self._supervisor = supervisor
        self._flows = flows
        self._counters = counters
        self._lease = lease
        self._on_progress = on_progress
        self._stop: StopReason | None = None
        self._message: str | None = None
        """Why the job stops, for `Job.message`."""
        self._changed = asyncio.Event()
        """Set when letters were settled, a run ended, or the runner should stop."""
        self._pacer = Pacer(job.options.rate)
        self._settler = Settler(queue, job.id, runner, self._on_settlements)
        self._awaited_service = job.message
        """The service that is down and that the job waits for. Not None if an earlier runner left such a message."""
        self._outstanding: dict[str, DeadLetter] = {}
        """Claimed letters that are not settled yet."""
        self._runs = JobRuns(flows, self._start_run, self._on_run_end)
        self._claim_size = FIRST_CLAIM
        self._log = log.bind(job=job.id)

    async def run(self) -> Job:
        """Work until the job is completed, stopped, paused or cancelled, or until `drain`. Returns the job."""
        self._log.info("redrive.started", letters=self._job.counts.open, batches=len(self._job.batches))
        lease = JobLease(
            self._queue,
            self._job,
            self._runner,
            self._lease,
            on_job=self._update,
            on_lost=lambda: self.drain(StopReason.LEASE_LOST),
            on_expired=self.abort,
        )
        try:
            await self._work(lease)
        except JobEnded:  # cancelled at this moment; `_end` reads the job
            self.drain(StopReason.CHANGED)
        except StoreError as error:  # raised only while this stops: the letters in flight are finished all the same
            self._log.warning("redrive.store_failed", error=describe(error))
        except BaseException:
            self.abort()
            raise
        finally:
            await self._close()
            await lease.stop()
            await self._end(lease)
        counts = self._job.counts
        self._log.info(
            "redrive.ended",
            state=self._job.state,
            reason=self._stop,
            resolved=counts.resolved,
            failed=counts.failed,
            skipped=counts.skipped,
            open=counts.open,
            message=self._job.message,
        )
        return self._job

    def drain(self, reason: StopReason = StopReason.DRAINING) -> None:
        """Claim no further letters; finish those in flight, and settle."""
        if self._stop is None:
            self._stop = reason
        self._pacer.close()
        self._runs.drain()
        self._changed.set()

    def abort(self) -> None:
        """Cancel the letters in flight, and settle."""
        self.drain()
        self._runs.abort()

    async def _work(self, lease: JobLease) -> None:
        records = await self._retry(lambda: self._queue.audit(job=self._job.id, limit=10))
        threshold = Threshold(self._job, records)
        for number in range(len(self._job.batches)):
            if worked := bool(self._job.batches[number].open):
                await self._run_batch(number, threshold, lease)
                if self._stop is not None:
                    return
            if reason := threshold.after_batch(self._job.batches, number, worked=worked):
                self._stop_because(StopReason.THRESHOLD, reason)
                return
        self._update(await self._retry(lambda: self._queue.change_job(self._job.id, None, state="completed")))

    async def _run_batch(self, number: int, threshold: Threshold, lease: JobLease) -> None:
        """Redrive the letters of a batch until none is open."""
        while self._stop is None and (left := self._job.batches[number].open):
            if reason := threshold.in_batch(self._job.batches, number):
                self._stop_because(StopReason.THRESHOLD, reason)
                return
            if self._settler.is_full or len(self._outstanding) >= left:
                await self._wait_for_outcomes(lease)
            elif letters := await self._claim(number):
                self._adapt_claim(letters)
                await self._dispatch(letters)
            else:
                await self._wait_for_outcomes(lease)

    async def _claim(self, batch: int) -> list[DeadLetter]:
        """Claim letters. If this is cancelled meanwhile, they are settled as cancelled: no run has received them."""
        size = self._next_claim()
        call = self._loop.create_task(
            self._retry(lambda: self._queue.claim(self._job.id, self._runner, batch, size, self._lease)),
            name=f"redrive:{self._job.id}:claim",
        )
        try:
            letters = await asyncio.shield(call)
        except asyncio.CancelledError:
            await asyncio.wait((call,), timeout=SETTLE_TIMEOUT)
            if call.done() and call.exception() is None:
                self._cancel(call.result())
            raise
        self._outstanding.update((letter.id, letter) for letter in letters)
        return letters

    async def _dispatch(self, letters: Sequence[DeadLetter]) -> None:
        """Hand letters to the runs of their flows, at the rate of the job. Cancels the rest if the job must stop."""
        rest = list(letters)
        try:
            for name, group in groupby(letters, lambda letter: self._job.options.flow or letter.flow):
                if not await self._run_letters(name, list(group), rest):
                    return
        finally:
            self._cancel(rest)

    async def _run_letters(self, name: str, letters: list[DeadLetter], rest: list[DeadLetter]) -> bool:
        """Hand letters to the run of a flow, and remove them from `rest`. Returns False if the job must stop."""
        while letters:
            await self._wait_for_services(name)
            if not (count := await self._pacer.take(len(letters))) or (run := self._run_of(name)) is None:
                return False
            if await run.put(letters[:count]):
                del letters[:count], rest[:count]
            else:
                self._runs.discard(name, run)
        return True

    async def _wait_for_services(self, name: str) -> None:
        """Wait while a service of a flow is down, up to the time of its next probe."""
        flow = self._flows.flow(name)
        while self._stop is None and flow is not None and (down := first_down(flow.all_services)) is not None:
            self._changed.clear()
            await self._set_awaited_service(down.name)
            await self._wait_for_change(min(down.seconds, WAIT_SECONDS))
        await self._set_awaited_service(None)

    async def _set_awaited_service(self, name: str | None) -> None:
        """Say in the message of the job which service it waits for."""
        if name == self._awaited_service or self._stop is not None:
            return
        self._awaited_service = name
        if name is not None:
            self._log.info("redrive.waiting", service=name)
        message = "" if name is None else f"waiting for the service {name}, which is down"
        self._update(await self._retry(lambda: self._queue.change_job(self._job.id, None, message=message)))

    def _cancel(self, letters: Sequence[DeadLetter]) -> None:
        for letter in letters:
            self._settler.add(Settlement(letter.id, "cancelled"))

    def _run_of(self, name: str) -> FlowRun | None:
        """Return the run of the current revision of a flow. Stops the job if there is none."""
        if self._stop is not None:
            return None
        try:
            return self._runs.of(name)
        except RedriveError as error:
            self._stop_because(StopReason.FAILED, str(error))
        except ShuttingDown:
            self.drain()
        return None

    def _start_run(self, flow: RunnableFlow, on_end: RunEnd) -> FlowRun:
        return FlowRun(flow, self._supervisor, self._queue, self._settler, self._job.options, on_end)

    async def _wait_for_outcomes(self, lease: JobLease) -> None:
        """Wait until letters were settled, or for a while: letters of a process that was killed are leased until then.

        A claim counts letters that are gone, so the job is read if nothing is outstanding.
        """
        if not self._outstanding:
            before = self._job.counts.open
            await self._retry(lease.read)
            if self._job.counts.open < before:
                return
        self._changed.clear()
        await self._set_awaited_service(self._runs.awaited_service)
        await self._wait_for_change(WAIT_SECONDS)

    async def _wait_for_change(self, seconds: float) -> None:
        """Wait until letters were settled, a run ended, or the runner should stop; at most some seconds."""
        if self._stop is None:
            try:
                async with asyncio.timeout(seconds):
                    await self._changed.wait()
            except TimeoutError:
                pass

    def _update(self, job: Job) -> None:
        """Take over the state of the job; stop if it is no longer running."""
        changed = job != self._job
        self._job = job
        self._pacer.set_rate(job.options.rate)
        self._runs.retire_replaced()
        if job.state != "running" and self._stop is None:
            if job.state == "completed":
                self._runs.complete()
            self.drain(StopReason.COMPLETED if job.state == "completed" else StopReason.CHANGED)
        if changed and self._on_progress is not None:
            self._on_progress(job)

    def _on_settlements(self, settlements: Sequence[Settlement], settled: Settled) -> None:
        """Count letters whose outcomes were recorded. The leases of the others were lost."""
        for settlement in settlements:
            letter = self._outstanding.pop(settlement.id, None)
            if letter is not None and settlement.id in settled.ids:
                outcome: RedriveOutcome = settlement.outcome
                if outcome == "failed" and letter.redrives >= settled.job.options.limit:
                    outcome = "parked"
                flow = self._job.options.flow or letter.flow
                self._counters.letters[flow if self._flows.flow(flow) else REMOVED, outcome] += 1
        self._update(settled.job)
        self._changed.set()

    def _on_run_end(self, error: str | None) -> None:
        if error is not None:
            self._stop_because(StopReason.FAILED, error)
        elif self._stop is None and self._supervisor.phase is not Phase.SERVING:
            self.drain()
        self._changed.set()

    def _stop_because(self, reason: StopReason, message: str) -> None:
        """Stop the job with a message for users, unless it stops already for another reason."""
        self._message = self._message or message
        self.drain(reason)

    def _next_claim(self) -> int:
        """Return how many letters to claim: about those of one second at the rate of the job."""
        rate = self._job.options.rate
        return self._claim_size if rate is None else max(1, min(self._claim_size, ceil(rate)))

    def _adapt_claim(self, letters: Sequence[DeadLetter]) -> None:
        """Claim more letters at a time as long as they are small."""
        size = sum(len(letter.input) for letter in letters) / len(letters)
        self._claim_size = max(1, min(MAX_CLAIM, self._claim_size * 2, int(CLAIM_BYTES / max(size, 1))))

    async def _retry(self, call: Callable[[], Awaitable[T]]) -> T:
        """Call the store, again with backoff if it fails. Raises `StoreError` only when the runner stops."""
        backoff, attempt = Backoff(first=0.1, cap=5.0), 0
        while True:
            try:
                return await call()
            except StoreError as error:
                attempt += 1
                wait = backoff.seconds(attempt, RNG)
                self._log.warning("redrive.store_failed", error=describe(error), retry_in=round(wait, 3))
                if self._stop is not None:
                    raise
                await asyncio.sleep(wait)

    async def _close(self) -> None:
        """Wait until the runs have ended and the letters are settled."""
        self.drain()
        await self._runs.finish()
        if left := await self._settler.close(SETTLE_TIMEOUT):
            self._log.error("redrive.letters_not_settled", letters=left, lease=self._lease)

    async def _end(self, lease: JobLease) -> None:
        """Record that the job stopped, and give its lease up."""
        try:
            if self._stop in (StopReason.THRESHOLD, StopReason.FAILED) and self._job.state == "running":
                self._job = await self._queue.change_job(self._job.id, None, state="stopped", message=self._message)
                self._log.warning("redrive.stopped", message=self._message)
                if self._on_progress is not None:
                    self._on_progress(self._job)
            if await lease.give_up() is None:  # it ended, or another has it
                self._job = await self._queue.job(self._job.id) or self._job
        except JobEnded:
            self._job = await self._queue.job(self._job.id) or self._job
        except StoreError as error:
            self._log.warning("redrive.store_failed", error=describe(error))
        self._counters.jobs[self._job.state] += 1
