"""Merges what many callers store at once into few durable commits, one after the other."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import structlog

from penstock.deadletters.insert import GROUP
from penstock.deadletters.rows import Columns
from penstock.deadletters.store import Problem
from penstock.deadletters.troubles import concerns_store
from penstock.deadletters.writer import Numbers
from penstock.errors import StoreError, describe

log: structlog.stdlib.BoundLogger = structlog.get_logger()

Load = TypeVar("Load")

Tell = Callable[[list[Exception | None] | Exception], None]
"""Takes what each caller of a group has to be told: None, or why its letters were not stored; or why none were.

If there is no group, but a check was asked for, what came of that instead.
"""


class Hand(Protocol[Load]):
    """Who does the writing while the event loop goes on, one piece of work at a time."""

    @property
    def numbers(self) -> Numbers:
        """What was written so far, and what is there."""
        ...

    @property
    def patience(self) -> float | None:
        """Seconds after which a piece of work may be broken off to close the database; None if it cannot be."""
        ...

    def pack(self, columns: Columns) -> Load:
        """The letters of one caller, ready to be handed over."""
        ...

    async def open(self) -> None:
        """Open the database. Raises what a writer raises."""
        ...

    def work(self, loads: list[Load], *, look_again: bool, tell: Tell) -> None:
        """Check the store and count again, if that is asked for, then store a group; the event loop calls `tell`."""
        ...

    async def aclose(self) -> None:
        """Close the database, when the last piece of work has ended."""
        ...

    def abandon(self) -> None:
        """Wait for nothing any more: end the work under way, if that is possible."""
        ...

    def let_go(self) -> None:
        """Finish the work under way and close the database, without the event loop, which was closed. Blocks."""
        ...


@dataclass(slots=True, eq=False)
class Wish(Generic[Load]):
    """The letters of one caller, how many they are, and the future that it waits for."""

    load: Load
    count: int
    done: asyncio.Future[None]


class Committer(Generic[Load]):
    """Has a hand store what callers wish. What they wish during one commit makes the next one.

    A commit is one hop to the hand and one back, and callers hear of it in the next turn of the event loop: a task
    here, or a second hop, would cost one more turn of a busy loop each.
    """

    def __init__(self, hand: Hand[Load], explain: Callable[[Exception], StoreError]) -> None:
        self._hand = hand
        self._explain = explain
        self._wishes: deque[Wish[Load]] = deque()
        self._look_again = False
        self.problem: Problem | None = None
        """Why the last piece of work failed."""
        self._busy = False
        self._idle = asyncio.Event()
        self._open = False

    @property
    def numbers(self) -> Numbers:
        """What was written so far, and what is there."""
        return self._hand.numbers

    async def open(self) -> None:
        """Have the database opened."""
        self._open, self.problem = True, None
        await self._hand.open()

    def store(self, columns: Columns, count: int) -> asyncio.Future[None]:
        """Store letters, all or none. The commit goes on when the caller is cancelled."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if not count:
            done.set_result(None)
            return done

        try:
            # Now, and not when their turn comes: then it would hold up the commit.
            load = self._hand.pack(columns)
        except Exception as error:
            done.set_exception(self._explain(error))
        else:
            self._wishes.append(Wish(load, count, done))
            self._begin()
        return done

    def look_again(self) -> None:
        """Check the store soon, and count again if another process has changed the database."""
        self._look_again = True
        self._begin()

    async def aclose(self) -> None:
        """Finish what was asked for, then have the database closed."""
        if not self._open:
            return
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._hand.patience):
                    while self._busy:
                        self._idle.clear()
                        await self._idle.wait()
            self._open = False
            await self._hand.aclose()
        except asyncio.CancelledError:  # who closes has no more time
            self._open = False
            self._hand.abandon()
            raise
        finally:
            for wish in self._wishes:  # their turn never came
                wish.done.cancel()

    def let_go(self) -> None:
        """Finish what the hand was given, after the event loop was closed; nobody hears of it any more. Blocks."""
        self._open = False
        self._hand.let_go()

    def _begin(self) -> None:
        if self._busy or not self._open:
            return
        if not self._wishes and not self._look_again:
            self._idle.set()
            return
        self._busy = True
        look_again, self._look_again = self._look_again, False
        group = self._next_group()
        self._hand.work(
            [wish.load for wish in group], look_again=look_again, tell=lambda outcome: self._end(group, outcome)
        )

    def _next_group(self) -> list[Wish[Load]]:
        group: list[Wish[Load]] = []
        size = 0
        while self._wishes and (not group or size + self._wishes[0].count <= GROUP):
            size += self._wishes[0].count
            group.append(self._wishes.popleft())
        return group

    def _end(self, group: list[Wish[Load]], outcome: list[Exception | None] | Exception) -> None:
        self._busy = False
        errors = [outcome] * max(1, len(group)) if isinstance(outcome, Exception) else outcome
        self._note(errors)
        for wish, error in zip(group, errors, strict=bool(group)):
            if wish.done.done():
                continue
            if error is None:
                wish.done.set_result(None)
            else:
                wish.done.set_exception(self._explain(error))
        self._begin()

    def _note(self, errors: Sequence[Exception | None]) -> None:
        """Remember whether the store works, and log when that changes."""
        before, first = self.problem, errors[0]
        if None in errors or first is None:
            self.problem = None
            if before is not None:
                log.info("store.recovered", failed_seconds=round(time.monotonic() - before.since, 3))
        elif concerns_store(first):
            error = self._explain(first)
            self.problem = Problem(error, time.monotonic() if before is None else before.since)
            if before is None or error.permanent > before.error.permanent:
                log.error("store.unusable" if error.permanent else "store.failing", error=describe(error))
