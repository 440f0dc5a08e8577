"""The failure branch: nothing that failed goes on before its dead letter is durable."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import structlog
from reactivex import Observable, abc

from penstock.deadletters import Letter, Store
from penstock.element import Element, Step
from penstock.scope import CANCEL_SECONDS, Scope
from penstock.services import Backoff

log: structlog.stdlib.BoundLogger = structlog.get_logger()

GROUP = 512
"""Letters stored by one call at most."""

Write = Callable[[list[Element[Any]]], list[Letter]]


def dead_letter(
    store: Store,
    write: Write,
    *,
    backoff: Backoff | None = None,
    on_trouble: Callable[[Exception, float], None] | None = None,
    chance: random.Random | None = None,
) -> Step[Any, Any]:
    """Store the letter of each failed element, many in one durable commit.

    If the store fails, the elements wait unsettled, so the source pauses; the store is tried again with backoff, for as
    long as the run lasts, and `on_trouble(error, seconds until the next try)` is told. Parts of one
    element share one letter.

    **Takes in** failed elements. **Holds back** until their letters are durable. **Gives out** the same elements, now
    with their letters' ids, in the same order. **Ends** when its input has and all letters are stored.
    """
    backoff = backoff or Backoff(first=0.1, cap=5.0)

    def step(source: Observable[list[Element[Any]]]) -> Observable[list[Element[Any]]]:
        def subscribe(
            observer: abc.ObserverBase[list[Element[Any]]], scheduler: abc.SchedulerBase | None = None
        ) -> abc.DisposableBase:
            scope = Scope.of(scheduler, "dead_letter")
            office = PostOffice(store, write, backoff, on_trouble, chance, observer, scope)
            return source.subscribe(office.on_next, observer.on_error, office.on_completed, scheduler=scheduler)

        return Observable(subscribe)

    return step


class PostOffice:
    """The letters of one run, on their way to the store."""

    def __init__(
        self,
        store: Store,
        write: Write,
        backoff: Backoff,
        on_trouble: Callable[[Exception, float], None] | None,
        chance: random.Random | None,
        observer: abc.ObserverBase[list[Element[Any]]],
        scope: Scope,
    ) -> None:
        self._store = store
        self._write = write
        self._backoff = backoff
        self._on_trouble = on_trouble
        self._observer = observer
        self._scope = scope
        self._chance = chance or random.Random()  # noqa: S311 - jitter, no secret
        self._pending: list[Element[Any]] = []
        self._task: asyncio.Task[None] | None = None
        self._ended = False

    def on_next(self, elements: list[Element[Any]]) -> None:
        """Take failed elements in; the first starts the task that stores them."""
        self._pending += elements
        if self._task is None:
            self._task = self._scope.spawn(self._run(), "dead letters")

    def on_completed(self) -> None:
        """No further element will come."""
        self._ended = True
        if self._task is None:
            self._observer.on_completed()

    async def _run(self) -> None:
        while self._pending:
            group, self._pending = self._pending[:GROUP], self._pending[GROUP:]
            await self._deliver(group)
            if not self._scope.emit(self._observer, group):
                return
        self._task = None
        if self._ended:
            self._observer.on_completed()

    async def _deliver(self, group: list[Element[Any]]) -> None:
        fresh: dict[int, Element[Any]] = {}
        for element in group:
            root = element if element.parent is None else element.root
            if root.letter is None:
                fresh.setdefault(id(root), element)
        letters = self._write(list(fresh.values()))
        ids = {root: letter.id for root, letter in zip(fresh, letters, strict=True)}
        if letters:
            await self._store_all(group, letters, ids)
        self._note(group, ids)

    async def _store_all(self, group: list[Element[Any]], letters: list[Letter], ids: dict[int, str]) -> None:
        attempt = 0
        while True:
            storing = asyncio.ensure_future(self._store.add(letters))
            try:
                await asyncio.shield(storing)
                return
            except asyncio.CancelledError:
                # The commit goes on whatever we do, so its end decides: a durable letter means a failed element.
                await asyncio.wait((storing,), timeout=min(self._store.patience, CANCEL_SECONDS / 2))
                if not storing.done():
                    log.error("store.uncertain", letters=len(letters), waited=CANCEL_SECONDS / 2)
                if storing.done() and not storing.cancelled() and storing.exception() is None:
                    self._note(group, ids)
                raise
            except Exception as error:
                attempt += 1
                wait = self._backoff.seconds(attempt, self._chance)
                if self._on_trouble is not None:
                    self._on_trouble(error, wait)
                await asyncio.sleep(wait)

    def _note(self, group: list[Element[Any]], ids: dict[int, str]) -> None:
        ledger = self._scope.ledger
        for element in group:
            root = element if element.parent is None else element.root
            ledger.store(element, root.letter or ids[id(root)])
