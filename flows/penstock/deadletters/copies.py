"""Delivers the letters of a store to its copies: later, at least once, and without delaying the store."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Protocol, TypeGuard

from msgspec import Struct

from penstock.backends.server_url import hide_password
from penstock.deadletters.dead_letter import DeadLetter
from penstock.deadletters.dead_letter_queue import LEASE_SECONDS
from penstock.deadletters.store import DeadLetterStore
from penstock.errors import StoreError, describe
from penstock.support.environment import substitute
from penstock.support.logger import get_logger

log = get_logger()

BATCH = 500
"""Maximum number of letters that a copy stores at a time."""

POLL_SECONDS = 5.0
"""How often the outbox is read for letters of other processes, and for letters whose lease has expired."""

NOTICE_SECONDS = 0.1
"""How often a copier looks whether this process has stored letters. It compares two numbers in memory."""

FIRST_WAIT, LONGEST_WAIT = 0.2, 30.0
"""Seconds between attempts while a copy is unavailable. They double up to the longest."""

LONGEST_POSTPONEMENT = 60.0
"""The longest time that a letter which failed alone is passed over."""

POSTPONED_LETTERS = 1000
"""Letters whose postponements are remembered."""

DRAIN_SECONDS = 1.0
"""Seconds that `aclose` takes at most to deliver letters. The others stay in the outbox.

A process takes 2 seconds at most to close its stores.
"""


class Outbox(DeadLetterStore, Protocol):
    """A store that records durably, in the same commit as the letters, which copies still need them."""

    copies: tuple[str, ...]
    """The names of the copies that new letters are recorded for. It may be replaced at any time."""

    async def take_uncopied(self, copy: str, count: int, lease: float) -> list[DeadLetter]:
        """Return letters that a copy needs, oldest first. No process gets them again for `lease` seconds."""
        ...

    async def mark_copied(self, copy: str, ids: Sequence[str]) -> None:
        """Record that a copy has letters."""
        ...

    async def postpone_uncopied(self, copy: str, ids: Sequence[str], seconds: float) -> None:
        """Change the lease of letters that a copy could not store: it ends in some seconds."""
        ...

    async def count_uncopied(self) -> Mapping[str, int]:
        """Return how many letters each copy needs."""
        ...


class CopyStatistics(Struct, frozen=True):
    """Counters of one copy in this process."""

    delivered: int = 0
    """Letters that the copy has stored. A letter that was delivered twice counts twice."""
    failed: int = 0
    """Attempts that failed."""
    behind: int = 0
    """Letters that the copy needs, those of other processes included, as far as this process knows."""
    available: bool = True
    """Whether the last attempt succeeded."""


class Copier:
    """Delivers letters to one copy, in a task.

    A batch that fails is tried again with backoff. Since one letter may be the cause, letters are then delivered one by
    one until one of them is stored; a letter that fails alone is passed over for a while.
    """

    def __init__(
        self,
        outbox: Outbox,
        name: str,
        create: Callable[[], DeadLetterStore],
        *,
        lease: float = LEASE_SECONDS,
        rng: random.Random | None = None,
    ) -> None:
        self.name = name
        self._outbox = outbox
        self._create = create
        self._lease = lease
        self._rng = rng or random.Random()  # noqa: S311 - jitter, no secret
        self._copy: DeadLetterStore | None = None
        """The copy, if it is open."""
        self._delivered = self._failed = self._behind = 0
        self._size = BATCH
        self._postponed: dict[str, float] = {}
        """Letters that failed alone, with the seconds that they were postponed last; the latest ones only."""
        self._failing_since: float | None = None
        self._wait = FIRST_WAIT
        self._counted_at = -POLL_SECONDS
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start the task."""
        self._task = asyncio.create_task(self._run(), name=f"copy of dead letters to {self.name}")

    def statistics(self) -> CopyStatistics:
        """Return the counters."""
        return CopyStatistics(self._delivered, self._failed, self._behind, self._failing_since is None)

    async def aclose(self) -> None:
        """Deliver what is in the outbox, for `DRAIN_SECONDS` at most, then close the copy."""
        self._stopping.set()
        task, self._task = self._task, None
        if task is not None:
            try:
                await asyncio.wait((task,), timeout=DRAIN_SECONDS)
            finally:
                if not task.done():
                    log.warning("copy.letters_pending", copy=self.name, dead_letters=self._outbox.url)
                    task.cancel()
                    await asyncio.wait((task,))
        copy, self._copy = self._copy, None
        if copy is not None:
            try:
                await copy.aclose()
            except StoreError as error:
                log.warning("copy.close_failed", copy=self.name, error=describe(error))

    async def _run(self) -> None:
        while True:
            commits = self._outbox.statistics().commits
            try:
                delivered = await self._deliver()
            except Exception as error:  # of the primary: its own commits report it
                log.warning("copy.outbox_unreadable", copy=self.name, error=describe(error))
                delivered = None
            if self._stopping.is_set() and not delivered:
                return
            if delivered is None:
                await self._sleep(self._next_wait())
            elif not delivered and self._failing_since is not None:  # the letters that failed are postponed
                await self._sleep(self._wait)
            elif not delivered:
                await self._await_letters(commits)

    async def _deliver(self) -> int | None:
        """Deliver some letters; returns how many, or None if that failed."""
        size = self._size
        letters = await self._outbox.take_uncopied(self.name, size, self._lease)
        await self._count()
        if not letters:
            return 0
        ids = [letter.id for letter in letters]
        try:
            await self._store(letters)
        except Exception as error:
            self._note_failure(error)
            self._size = 1
            await self._outbox.postpone_uncopied(self.name, ids, self._postponement(ids))
            return None
        await self._outbox.mark_copied(self.name, ids)
        for id in ids:
            self._postponed.pop(id, None)
        self._delivered += len(ids)
        self._behind = max(0, self._behind - len(ids))
        self._size = min(BATCH, size * 4)
        self._note_success()
        return len(ids)

    async def _store(self, letters: Sequence[DeadLetter]) -> None:
        async with asyncio.timeout(self._lease / 2):  # later, another process may deliver the letters too
            if self._copy is None:
                copy = self._create()
                await copy.open()
                self._copy = copy
            await self._copy.add(letters)

    async def _count(self) -> None:
        if time.monotonic() - self._counted_at >= POLL_SECONDS:
            self._counted_at = time.monotonic()
            self._behind = (await self._outbox.count_uncopied()).get(self.name, 0)

    async def _await_letters(self, commits: int) -> None:
        """Wait until this process has stored letters or postponed ones are due, for `POLL_SECONDS` at most."""
        deadline = time.monotonic() + min((POLL_SECONDS, *self._postponed.values()))
        while time.monotonic() < deadline and not self._stopping.is_set():
            if self._outbox.statistics().commits != commits:
                return
            await self._sleep(NOTICE_SECONDS)

    def _postponement(self, ids: Sequence[str]) -> float:
        """Return for how many seconds letters are passed over. Grows for a letter that fails alone again and again."""
        if len(ids) > 1:
            return 0.0
        seconds = min(LONGEST_POSTPONEMENT, max(1.5 * self._wait, 2 * self._postponed.pop(ids[0], 0.0)))
        self._postponed[ids[0]] = seconds
        if len(self._postponed) > POSTPONED_LETTERS:
            del self._postponed[next(iter(self._postponed))]
        return seconds

    def _next_wait(self) -> float:
        wait, self._wait = self._wait, min(LONGEST_WAIT, self._wait * 2)
        return wait * self._rng.uniform(0.5, 1.0)

    async def _sleep(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    def _note_failure(self, error: Exception) -> None:
        self._failed += 1
        if self._failing_since is None:
            self._failing_since = time.monotonic()
            log.error("copy.unavailable", copy=self.name, dead_letters=self._outbox.url, error=describe(error))

    def _note_success(self) -> None:
        since, self._failing_since, self._wait = self._failing_since, None, FIRST_WAIT
        if since is not None:
            failed_seconds = round(time.monotonic() - since, 3)
            log.info("copy.recovered", copy=self.name, dead_letters=self._outbox.url, failed_seconds=failed_seconds)


class Copies:
    """The copies of one store."""

    def __init__(self, outbox: Outbox, create: Callable[[str], DeadLetterStore]) -> None:
        self._outbox = outbox
        self._create = create
        self._copiers: dict[str, Copier] = {}
        """By name."""

    def include(self, urls: Iterable[str]) -> bool:
        """Whether all URLs are those of copies."""
        return all(copy_name(url) in self._copiers for url in urls)

    def add(self, urls: Iterable[str]) -> None:
        """Add copies. A copy gets the letters that are stored from now on, and those that it lacked when it ended."""
        for url in urls:
            name = copy_name(url)
            if name not in self._copiers:
                copier = self._copiers[name] = Copier(self._outbox, name, partial(self._create, url))
                copier.start()
        self._outbox.copies = tuple(self._copiers)

    async def retain(self, urls: Iterable[str]) -> None:
        """End all other copies. Letters that they lack stay in the outbox; new ones are not recorded for them."""
        names = set(map(copy_name, urls))
        ending = [self._copiers.pop(name) for name in set(self._copiers) - names]
        self._outbox.copies = tuple(self._copiers)
        await asyncio.gather(*(copier.aclose() for copier in ending))

    def statistics(self) -> dict[str, CopyStatistics]:
        """Return the counters by the name of the copy."""
        return {name: copier.statistics() for name, copier in self._copiers.items()}

    async def aclose(self) -> None:
        """Deliver what can be delivered soon, and close the copies. Call it before the store is closed."""
        await self.retain(())


def copy_name(url: str) -> str:
    """Return the name of a copy in the outbox and in metrics: its URL without user, password and secret options."""
    return hide_password(substitute(url))


def is_outbox(store: DeadLetterStore) -> TypeGuard[Outbox]:
    """Check whether a store can have copies."""
    return hasattr(store, "take_uncopied")
