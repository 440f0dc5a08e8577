"""Numbers about dead letters for metrics. Those that need a query are refreshed in the background, not by scrapes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Literal, TypeVar

from penstock.deadletters.dead_letter_queue import DeadLetterQueue
from penstock.deadletters.store import PAGE_LIMIT
from penstock.errors import StoreError, describe
from penstock.support.logger import get_logger

log = get_logger()

REFRESH_SECONDS = 15.0
"""Seconds between two refreshes: about the interval of scrapes."""

OPEN_STATES: tuple[Literal["running", "paused", "stopped"], ...] = ("running", "paused", "stopped")
"""The states of redrives that have not ended."""

K = TypeVar("K")

Numbers = Callable[[], Mapping[K, int]]


class DeadLetterReadings:
    """Numbers about dead letters. Those of the process are read by functions, those of the stores are refreshed."""

    def __init__(self) -> None:
        self.redriven: Numbers[tuple[str, str]] = dict
        """Redriven letters of this process, by flow and result."""
        self.jobs_left: Numbers[str] = dict
        """Redrives that this process worked on, by the state in which it left them."""
        self.expired: Numbers[str] = dict
        """Letters that this process deleted because of `keep`, by flow."""
        self.oldest: Mapping[str, datetime] = {}
        """When the oldest waiting letter of each flow failed."""
        self.jobs: Mapping[str, int] = {}
        """Redrives that have not ended, by state."""

    async def refresh(self, queues: Sequence[DeadLetterQueue]) -> None:
        """Query the stores. Raises `StoreError`, and then changes nothing."""
        oldest: dict[str, datetime] = {}
        jobs = Counter[str](dict.fromkeys(OPEN_STATES, 0))
        seen: set[str] = set()
        for queue in queues:
            for flow, failed_at in (await queue.oldest_waiting()).items():
                oldest[flow] = min(failed_at, oldest.get(flow, failed_at))
            for state in OPEN_STATES:
                ids = {job.id for job in await queue.jobs(state=state, limit=PAGE_LIMIT)} - seen
                seen |= ids  # one store may be open under two names
                jobs[state] += len(ids)
        self.oldest, self.jobs = oldest, jobs

    def forget(self) -> None:
        """Forget the numbers of the stores: another process reads them from now on."""
        self.oldest, self.jobs = {}, {}

    async def keep_fresh(self, queues: Callable[[], Sequence[DeadLetterQueue]]) -> None:
        """Refresh from time to time, until cancelled. While a store fails, the last numbers stay."""
        while True:
            try:
                await self.refresh(queues())
            except StoreError as error:
                log.debug("metrics.store_failed", error=describe(error))
            await asyncio.sleep(REFRESH_SECONDS)
