"""The failure branch: store the dead letter of each failed element before its result is reported."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import compress
from operator import attrgetter
from typing import Any

from penstock.core.context import CANCEL_SECONDS, RunContext
from penstock.core.element import Element, Operator
from penstock.core.operators import Downstream, async_operator
from penstock.deadletters import DeadLetter, LetterWriter
from penstock.errors import WriterCrashed, describe
from penstock.services import Backoff
from penstock.support.logger import get_logger
from penstock.support.tasks import detach

log = get_logger()

BATCH_SIZE = 512
"""Maximum elements whose letters are stored by one call. Further elements wait for the next call."""

RNG = random.Random()  # noqa: S311 - jitter, no secret
"""The default for all runs: seeding a new one costs more than a small run uses it."""

MakeLetters = Callable[[list[Element[Any]]], list[DeadLetter]]

OnError = Callable[[BaseException, float | None], None]
"""Called when the store failed, with the seconds until the next attempt; None if the run is over."""

_parent = attrgetter("parent")
_letter = attrgetter("dead_letter_id")


def dead_letter(
    store: LetterWriter,
    make_letters: MakeLetters,
    *,
    backoff: Backoff | None = None,
    on_error: OnError | None = None,
    rng: random.Random | None = None,
) -> Operator[Any, Any]:
    """Store the letter of each failed element, many in one durable commit.

    If the store fails, the elements wait unsettled, so the source pauses. The store is tried again with backoff for as
    long as the run lasts, and `on_error` is called each time. Parts of one element share one letter. An element that
    its broker delivers again (`Leases.is_redelivered`) gets none.

    **Accepts** failed elements. **Backpressures when** their letters are not durable yet. **Emits** the same elements,
    now with the ids of their letters, in the same order. **Completes when** its input has completed and all letters are
    stored.
    """
    backoff = backoff or Backoff(first=0.1, cap=5.0)
    return async_operator("dead_letter", partial(DeadLetterStage, store, make_letters, backoff, on_error, rng))


@dataclass(slots=True, eq=False)
class LetterBatch:
    """Failed elements that are stored by one call.

    `sources` are the elements that the letters describe. Parts of one element share a letter, so there may be fewer
    letters than elements.
    """

    elements: list[Element[Any]] = field(default_factory=list[Element[Any]])
    sources: list[Element[Any]] = field(default_factory=list[Element[Any]])
    letters: list[DeadLetter] = field(default_factory=list[DeadLetter])
    parts: bool = False
    """Whether some of the elements are parts, which may share a letter."""
    uncertain_because: str | None = None
    """Why the letters may be stored although the store failed."""

    def note_error(self, error: BaseException) -> None:
        """Record that the store failed."""
        if isinstance(error, WriterCrashed):
            self.uncertain_because = describe(error)

    def log_uncertain(self, run: str) -> None:
        """Log that letters may be stored although their elements are about to be settled as cancelled."""
        if self.uncertain_because is not None:
            log.error("store.write_uncertain", run=run, letters=len(self.letters), error=self.uncertain_because)

    def log_late_result(self, run: str, error: BaseException | None) -> None:
        """Log the result of a commit that ended after the run."""
        reason = None if error is None else describe(error)
        log.warning("store.write_finished_late", run=run, letters=len(self.letters), stored=error is None, error=reason)


class DeadLetterStage:
    """Stores the letters of one run.

    A letter is created when its element arrives, so that little work is left between two commits.
    """

    def __init__(
        self,
        store: LetterWriter,
        make_letters: MakeLetters,
        backoff: Backoff,
        on_error: OnError | None,
        rng: random.Random | None,
        observer: Downstream,
        context: RunContext,
    ) -> None:
        self._store = store
        self._make_letters = make_letters
        self._backoff = backoff
        self._on_error = on_error
        self._observer = observer
        self._context = context
        self._rng = rng or RNG
        self._batches: deque[LetterBatch] = deque()
        self._pending: set[int] = set()
        """The `id()` of roots that have a letter for one of their parts that is not durable yet."""
        self._task: asyncio.Task[None] | None = None
        self._ended = False

    def on_next(self, elements: list[Element[Any]]) -> None:
        """Create the letters of failed elements. The first call starts the task that stores them.

        Elements that their broker delivers again get none.
        """
        leases = self._context.ledger.leases
        if leases is not None and leases.redeliver:
            redelivered = list(map(leases.is_redelivered, elements))
            if any(redelivered):
                self._observer.on_next(list(compress(elements, redelivered)))
                elements = [element for element, again in zip(elements, redelivered, strict=True) if not again]
                if not elements:
                    return
        if not self._batches or len(self._batches[-1].elements) >= BATCH_SIZE:
            self._batches.append(LetterBatch())
        batch = self._batches[-1]
        batch.elements += elements
        if any(map(_parent, elements)) or any(map(_letter, elements)):
            batch.parts = True
            elements = self._first_of_each_root(elements)
        batch.sources += elements
        batch.letters += self._make_letters(elements)
        if self._task is None:
            self._task = self._context.spawn(self._run(), "dead letters")

    def on_completed(self) -> None:
        """Complete when all letters are stored."""
        self._ended = True
        if self._task is None:
            self._observer.on_completed()

    def _first_of_each_root(self, elements: list[Element[Any]]) -> list[Element[Any]]:
        """Return the elements whose root has no letter yet, one for each root."""
        firsts: list[Element[Any]] = []
        for element in elements:
            root = element.root
            if root.dead_letter_id is None and id(root) not in self._pending:
                self._pending.add(id(root))
                firsts.append(element)
        return firsts

    async def _run(self) -> None:
        while self._batches:
            batch = self._batches.popleft()
            if batch.letters:
                await self._store_all(batch)
            self._mark_stored(batch)
            if not self._context.emit(self._observer, batch.elements):
                return
        self._task = None
        if self._ended:
            self._observer.on_completed()

    async def _store_all(self, batch: LetterBatch) -> None:
        attempt = 0
        while True:
            storing: asyncio.Future[None] | None = None
            try:
                storing = asyncio.ensure_future(self._store.add(batch.letters))
                await asyncio.shield(storing)
                return
            except asyncio.CancelledError:
                if storing is not None:
                    await self._await_commit(batch, storing)
                raise
            except Exception as error:
                attempt += 1
                wait = self._backoff.seconds(attempt, self._rng)
                self._report_error(batch, error, wait)
            try:
                await asyncio.sleep(wait)
            except asyncio.CancelledError:
                batch.log_uncertain(self._context.name)
                raise

    async def _await_commit(self, batch: LetterBatch, storing: asyncio.Future[None]) -> None:
        """Wait for a commit, which continues after a cancellation. A durable letter means `failed`."""
        timeout = min(self._store.timeout, CANCEL_SECONDS / 2)
        await asyncio.wait((storing,), timeout=timeout)
        if not storing.done():
            log.error("store.write_uncertain", run=self._context.name, letters=len(batch.letters), waited=timeout)
            detach(storing, partial(batch.log_late_result, self._context.name))
        elif storing.cancelled():
            batch.log_uncertain(self._context.name)
        elif (error := storing.exception()) is None:
            self._mark_stored(batch)
        else:
            self._report_error(batch, error, None)
            batch.log_uncertain(self._context.name)

    def _report_error(self, batch: LetterBatch, error: BaseException, wait: float | None) -> None:
        batch.note_error(error)
        if self._on_error is not None:
            self._on_error(error, wait)

    def _mark_stored(self, batch: LetterBatch) -> None:
        self._context.ledger.mark_stored(batch.sources, [letter.id for letter in batch.letters])
        if batch.parts:
            for element in batch.elements:
                root = element.root
                element.dead_letter_id = root.dead_letter_id
                self._pending.discard(id(root))
