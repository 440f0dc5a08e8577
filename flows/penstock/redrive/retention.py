"""Delete dead letters that are older, or more, than their flow keeps."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from msgspec import Struct

from penstock.deadletters.dead_letter_queue import DeadLetterQueue
from penstock.deadletters.log import is_queue
from penstock.deadletters.store import DeadLetterStore
from penstock.deadletters.stores import Stores
from penstock.deadletters.target import Keep
from penstock.errors import describe
from penstock.support.logger import get_logger

log = get_logger()

INTERVAL_SECONDS = 60.0
"""Seconds between the end of one search for expired letters and the next."""


class KeptLetters(Struct, frozen=True):
    """The letters of one flow, and how long they are kept."""

    flow: str
    keep: Keep
    queue: DeadLetterQueue


class FlowWithLetters(Protocol):
    """A flow, as far as its letters are concerned."""

    @property
    def name(self) -> str: ...

    @property
    def store(self) -> str | DeadLetterStore | None: ...

    @property
    def keep(self) -> Keep | None: ...


class RetentionStatistics(Struct, frozen=True):
    """What was deleted since the start of the process."""

    deleted: Mapping[str, int] = {}
    """Letters by flow."""
    failures: int = 0
    """How often a store failed."""


class Retention:
    """Deletes expired letters in the background. Without limits nothing is deleted.

    `letters` returns the flows with limits, as they are now; see `kept_letters`. Several processes may do this for one
    store at the same time.

    >>> retention = Retention(lambda: kept_letters(flows, supervisor.stores))
    >>> task = asyncio.create_task(retention.run())
    """

    def __init__(self, letters: Callable[[], Iterable[KeptLetters]], *, interval: float = INTERVAL_SECONDS) -> None:
        self._letters = letters
        self._interval = interval
        self._deleted: Counter[str] = Counter()
        self._failures = 0

    async def run(self) -> None:
        """Delete expired letters now, and then every `interval` seconds, until cancelled.

        A store that fails is tried again the next time. A cancel takes effect at once: a transaction that has begun is
        either committed or not, and the next process continues.
        """
        while True:
            for kept in list(self._letters()):
                await self._expire(kept)
            await asyncio.sleep(self._interval)

    def statistics(self) -> RetentionStatistics:
        """Return the counters."""
        return RetentionStatistics(dict(self._deleted), self._failures)

    async def _expire(self, kept: KeptLetters) -> None:
        try:
            count = await kept.queue.expire(kept.keep.seconds, max=kept.keep.max, flow=kept.flow)
        except Exception as error:  # also errors of a driver: the letters of other flows expire nevertheless
            self._failures += 1
            log.warning(
                "dead_letters.expire_failed",
                flow=kept.flow,
                store=kept.queue.url,
                error=describe(error),
                retry_in=self._interval,
            )
            return
        if count:
            self._deleted[kept.flow] += count
            log.info("dead_letters.expired", flow=kept.flow, store=kept.queue.url, letters=count)


def kept_letters(flows: Iterable[FlowWithLetters], stores: Stores) -> list[KeptLetters]:
    """Return the flows whose letters are kept for a limited time, and whose store is open."""
    found: list[KeptLetters] = []
    for flow in flows:
        if flow.keep is None or flow.store is None:
            continue
        store = stores.opened(flow.store)
        if store is not None and is_queue(store):
            found.append(KeptLetters(flow.name, flow.keep, store))
    return found
