"""Settle the letters of a job in batches: outcomes that arrive during one transaction share the next."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence

from penstock.deadletters.dead_letter_queue import DeadLetterQueue, Settled, Settlement
from penstock.errors import JobNotFound, StoreError, describe
from penstock.services import Backoff
from penstock.support.logger import get_logger

log = get_logger()

BATCH = 512
"""Settlements after which a transaction takes no further ones."""

BACKLOG = 2048
"""Settlements that may wait before no further letters are claimed."""

RNG = random.Random()  # noqa: S311 - jitter, no secret

Entry = tuple[Sequence[Settlement], asyncio.Future[None] | None]


class Settler:
    """Records the outcomes of the letters that one runner claimed for one job.

    If the store fails, it tries again with backoff until `close` ends that.
    """

    def __init__(
        self, queue: DeadLetterQueue, job: str, runner: str, on_settled: Callable[[Sequence[Settlement], Settled], None]
    ) -> None:
        self._queue = queue
        self._job = job
        self._runner = runner
        self._on_settled = on_settled
        self._backoff = Backoff(first=0.1, cap=5.0)
        self._entries: deque[Entry] = deque()
        self._waiting = 0
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def add(self, settlement: Settlement) -> None:
        """Settle one letter soon."""
        self._append(((settlement,), None))

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        """Settle letters, and wait until that is durable. Raises `StoreError` if it is given up. Do not cancel it."""
        if self._closed:
            raise StoreError("the redrive has ended; the letters wait until their lease ends")
        durable: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._append((settlements, durable))
        await durable

    @property
    def is_full(self) -> bool:
        """Whether so many settlements wait for the store that no further letters should be claimed."""
        return self._waiting > BACKLOG

    async def close(self, timeout: float) -> int:
        """Settle what is left, within some seconds. Returns the number of letters that were not settled."""
        if self._task is not None:
            await asyncio.wait((self._task,), timeout=timeout)
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
        for _, durable in self._entries:
            if durable is not None and not durable.done():
                durable.set_exception(StoreError("the redrive has ended; the letters wait until their lease ends"))
                durable.exception()  # its waiter may be gone
        return self._waiting

    def _append(self, entry: Entry) -> None:
        self._entries.append(entry)
        self._waiting += len(entry[0])
        if self._task is None and not self._closed:
            self._task = asyncio.get_running_loop().create_task(self._run(), name=f"redrive:{self._job}:settle")

    async def _run(self) -> None:
        while self._entries:
            count = size = 0
            while count < len(self._entries) and size < BATCH:
                size += len(self._entries[count][0])
                count += 1
            settlements = [each for entry in list(self._entries)[:count] for each in entry[0]]
            settled = await self._settle(settlements)
            done = [self._entries.popleft() for _ in range(count)]
            self._waiting -= size
            if settled is not None:
                self._on_settled(settlements, settled)
            for _, durable in done:
                if durable is not None and not durable.done():
                    durable.set_result(None)
        self._task = None

    async def _settle(self, settlements: Sequence[Settlement]) -> Settled | None:
        """Settle letters, with retries. Returns None if the job does not exist any more."""
        attempt = 0
        while True:
            try:
                return await self._queue.settle(self._job, self._runner, settlements)
            except JobNotFound:
                log.error("redrive.job_disappeared", job=self._job, letters=len(settlements))
                return None
            except StoreError as error:
                attempt += 1
                wait = self._backoff.seconds(attempt, RNG)
                log.warning("store.write_failed", job=self._job, error=describe(error), retry_in=round(wait, 3))
                await asyncio.sleep(wait)
