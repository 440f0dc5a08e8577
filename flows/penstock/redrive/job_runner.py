"""Run one redrive job: its lease, its batches, its threshold, and what stops it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum
from itertools import groupby
from math import ceil
from typing import TypeVar

from penstock.deadletters import DeadLetter
from penstock.deadletters.dead_letter_queue import BatchCounts, DeadLetterQueue, Job, Settled, Settlement
from penstock.errors import JobEnded, JobNotFound, PenstockError, ShuttingDown, StoreError, describe
from penstock.redrive.counters import RedriveCounters, RedriveOutcome
from penstock.redrive.flow_run import FlowRun
from penstock.redrive.flows import FlowLookup
from penstock.redrive.pacer import Pacer
from penstock.redrive.settler import Settler
from penstock.runtime import Supervisor
from penstock.runtime.counters import REMOVED
from penstock.services import Backoff
from penstock.support.logger import get_logger

log = get_logger()

T = TypeVar("T")

FIRST_CLAIM = 32
"""Letters of the first claim. The size of later ones follows from the sizes of these letters."""

MAX_CLAIM = 512
"""Maximum letters of one claim. A transaction with more saves little time."""

CLAIM_BYTES = 8 * 1024 * 1024
"""The size of inputs that one claim should not exceed."""

MIN_OUTCOMES = 50
"""Outcomes in the last batch after which its share of failures is compared while it runs."""

POLL_SECONDS = 1.0
"""How often the state and the rate of the job are read: another process may change them."""

SETTLE_TIMEOUT = 10.0
"""Seconds that the last settlements may take at the end. Letters that are not settled wait until their lease ends."""

RNG = random.Random()  # noqa: S311 - jitter, no secret


class StopReason(StrEnum):
    """Why a runner stops working on a job."""

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
        self._outstanding: dict[str, DeadLetter] = {}
        """Claimed letters that are not settled yet."""
        self._runs: dict[str, FlowRun] = {}
        """The run of each flow that takes letters."""
        self._closing: set[FlowRun] = set()
        """Runs that finish their letters in flight."""
        self._claim_size = FIRST_CLAIM
        self._resumed = False
        """Whether a user resumed the job: then the failures so far do not stop it again."""
        self._before = BatchCounts()
        """The counts of the last batch that do not count for the threshold."""
        self._log = log.bind(job=job.id)
        self._expiry = self._loop.call_later(lease, self._lose_lease)

    async def run(self) -> Job:
        """Work until the job is completed, stopped, paused or cancelled, or until `drain`. Returns the job."""
        self._log.info("redrive.started", letters=self._job.counts.open, batches=len(self._job.batches))
        watch = self._loop.create_task(self._watch(), name=f"redrive:{self._job.id}:watch")
        try:
            await self._work()
        except JobEnded:  # cancelled at this moment; `_end` reads the job
            self.drain(StopReason.CHANGED)
        except StoreError as error:  # raised only while this stops: the letters in flight are finished all the same
            self._log.warning("redrive.store_failed", error=describe(error))
        except BaseException:
            self.abort()
            raise
        finally:
            await self._close()
            watch.cancel()
            self._expiry.cancel()
            await asyncio.wait((watch,))
            await self._end()
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
        for run in list(self._runs.values()):
            self._retire(run)
        self._changed.set()

    def abort(self) -> None:
        """Cancel the letters in flight, and settle."""
        self.drain()
        for run in list(self._closing):
            run.abort()

    async def _work(self) -> None:
        self._resumed = await self._was_resumed()
        last = len(self._job.batches) - 1
        if self._resumed and last >= 0:
            self._before = self._job.batches[last]
        for batch in range(len(self._job.batches)):
            if self._job.batches[batch].open:
                await self._run_batch(batch, is_last=batch == last)
                if self._stop is not None:
                    return
            elif self._resumed or self._is_begun(batch + 1):
                continue  # it was compared before
            if batch < last and self._exceeds(self._job.batches[batch], batch):
                return
        self._update(await self._retry(lambda: self._queue.change_job(self._job.id, None, state="completed")))

    async def _run_batch(self, batch: int, *, is_last: bool) -> None:
        """Redrive the letters of a batch until none is open."""
        while self._stop is None:
            counts = self._job.batches[batch]
            if not counts.open:
                return
            if is_last and self._exceeds(_since(counts, self._before), batch, minimum=MIN_OUTCOMES):
                return
            if self._settler.is_full or len(self._outstanding) >= counts.open:
                await self._wait_for_outcomes()
                continue
            letters = await self._claim(batch)
            if letters:
                self._adapt_claim(letters)
                await self._dispatch(letters)
            else:
                await self._wait_for_outcomes()

    async def _claim(self, batch: int) -> list[DeadLetter]:
        """Claim letters. If this is cancelled meanwhile, they are settled as cancelled: nobody else knows of them."""
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
            if not (count := await self._pacer.take(len(letters))) or (run := self._run_of(name)) is None:
                return False
            if await run.put(letters[:count]):
                del letters[:count], rest[:count]
            elif self._runs.get(name) is run:  # it ended by itself
                self._retire(run)
        return True

    def _cancel(self, letters: Sequence[DeadLetter]) -> None:
        for letter in letters:
            self._settler.add(Settlement(letter.id, "cancelled"))

    def _run_of(self, name: str) -> FlowRun | None:
        """Return the run of the current revision of a flow. Stops the job if there is none."""
        if self._stop is not None:
            return None
        flow = self._flows.flow(name)
        run = self._runs.get(name)
        if run is not None and (run.flow is not flow or run.ended):
            self._retire(run)
            run = None
        if flow is None:
            self._fail(f"the flow {name} is not loaded; load it, or redrive through another one: --through NAME")
            return None
        if run is None:
            try:
                run = FlowRun(flow, self._supervisor, self._queue, self._settler, self._job.options, self._on_run_end)
            except ShuttingDown:
                self.drain()
                return None
            self._runs[name] = run
        return run

    async def _wait_for_outcomes(self) -> None:
        """Wait until letters were settled, or for a while: letters of a process that was killed are leased until then.

        A claim counts letters that are gone, so the job is read if nothing is outstanding.
        """
        if not self._outstanding:
            before = self._job.counts.open
            await self._retry(self._refresh)
            if self._job.counts.open < before:
                return
        self._changed.clear()
        if self._stop is None:
            try:
                async with asyncio.timeout(POLL_SECONDS):
                    await self._changed.wait()
            except TimeoutError:
                pass

    async def _watch(self) -> None:
        """Extend the lease, and follow changes of the job by other processes."""
        next_heartbeat = self._loop.time() + self._lease / 3
        while True:
            await asyncio.sleep(min(POLL_SECONDS, self._lease / 3))
            try:
                if self._loop.time() >= next_heartbeat:
                    sent = self._loop.time()
                    job = await self._queue.acquire_job(self._job.id, self._runner, self._lease)
                    next_heartbeat = self._loop.time() + self._lease / 3
                    if job is None:
                        await self._refresh()
                        if self._job.state in ("running", "paused") and self._stop is None:
                            self._lose_lease()
                    else:
                        self._update(job)
                    self._expiry.cancel()
                    self._expiry = self._loop.call_at(sent + self._lease, self._lose_lease)
                else:
                    await self._refresh()
            except PenstockError as error:
                self._log.warning("redrive.store_failed", error=describe(error))
            for name, run in list(self._runs.items()):
                if self._flows.flow(name) is not run.flow:  # another revision: its first letter starts a run of that
                    self._retire(run)

    def _lose_lease(self) -> None:
        """Abort: another process has the job, or may take it and its letters now."""
        self._log.error("redrive.lease_lost", runner=self._job.runner)
        self.drain(StopReason.LEASE_LOST)
        self.abort()

    async def _refresh(self) -> None:
        job = await self._queue.job(self._job.id)
        if job is None:
            raise JobNotFound(self._job.id)
        self._update(job)

    def _update(self, job: Job) -> None:
        """Take over the state of the job; stop if it is no longer running."""
        changed = job != self._job
        self._job = job
        self._pacer.set_rate(job.options.rate)
        if job.state != "running" and self._stop is None:
            self.drain(StopReason.CHANGED)
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

    def _on_run_end(self, run: FlowRun, error: str | None) -> None:
        self._closing.discard(run)
        if self._runs.get(run.flow.name) is run:
            del self._runs[run.flow.name]
        if error is not None:
            self._fail(error)
        elif self._stop is None and not self._supervisor_is_serving():
            self.drain()
        self._changed.set()

    def _supervisor_is_serving(self) -> bool:
        try:
            self._supervisor.check()
        except ShuttingDown:
            return False
        return True

    def _retire(self, run: FlowRun) -> None:
        """Let a run finish its letters in flight and take no further ones."""
        for name in [name for name, other in self._runs.items() if other is run]:
            del self._runs[name]
        if not run.ended:
            self._closing.add(run)
            run.drain()

    def _fail(self, message: str) -> None:
        self._message = self._message or message
        self.drain(StopReason.FAILED)

    def _exceeds(self, counts: BatchCounts, batch: int, *, minimum: int = 1) -> bool:
        """Stop the job if more letters of a batch failed again than it allows."""
        outcomes, limit = counts.resolved + counts.failed, self._job.options.stop_at
        if limit is None or outcomes < minimum or counts.failed <= limit * outcomes:
            return False
        self._message = (
            f"{counts.failed} of {outcomes} letters of batch {batch + 1} failed again, more than {limit:.0%}; inspect "
            f"them, then continue: penstock dead-letters resume {self._job.id}"
        )
        self.drain(StopReason.THRESHOLD)
        return True

    def _is_begun(self, batch: int) -> bool:
        return batch < len(self._job.batches) and self._job.batches[batch].open < self._job.batches[batch].total

    async def _was_resumed(self) -> bool:
        """Return whether the last action on the job was that a user resumed it."""
        records = await self._retry(lambda: self._queue.audit(job=self._job.id, limit=10))
        return next((record.action == "resume" for record in records if record.action != "rate"), False)

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
        while self._closing:
            await asyncio.wait([run.finished for run in self._closing])
            await asyncio.sleep(0)
        if left := await self._settler.close(SETTLE_TIMEOUT):
            self._log.error("redrive.letters_not_settled", letters=left, lease=self._lease)

    async def _end(self) -> None:
        """Record that the job stopped, and give its lease up."""
        try:
            if self._stop in (StopReason.THRESHOLD, StopReason.FAILED) and self._job.state == "running":
                self._job = await self._queue.change_job(self._job.id, None, state="stopped", message=self._message)
                self._log.warning("redrive.stopped", message=self._message)
                if self._on_progress is not None:
                    self._on_progress(self._job)
            if await self._queue.acquire_job(self._job.id, self._runner, 0.0) is None:  # it ended, or another has it
                self._job = await self._queue.job(self._job.id) or self._job
        except JobEnded:
            self._job = await self._queue.job(self._job.id) or self._job
        except StoreError as error:
            self._log.warning("redrive.store_failed", error=describe(error))
        self._counters.jobs[self._job.state] += 1


def _since(counts: BatchCounts, before: BatchCounts) -> BatchCounts:
    """Return the counts without those before."""
    return BatchCounts(
        total=counts.total, resolved=counts.resolved - before.resolved, failed=counts.failed - before.failed
    )
