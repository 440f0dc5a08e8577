"""The failure branch: nothing that failed goes on before its dead letter is durable."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from typing import Any

from penstock.core.context import CANCEL_SECONDS, RunContext
from penstock.core.element import Element, Operator
from penstock.core.operators import Downstream, async_operator
from penstock.deadletters import DeadLetter, DeadLetterStore
from penstock.errors import WriterCrashed, describe
from penstock.services import Backoff
from penstock.support.logger import get_logger
from penstock.support.tasks import detach

log = get_logger()

GROUP = 512
"""Elements whose letters are stored by one call: once there are as many, the next ones wait for the next call."""

CHANCE = random.Random()  # noqa: S311 - jitter, no secret
"""Of all runs that bring none of their own: seeding one costs more than what a small run does with it."""

Write = Callable[[list[Element[Any]]], list[DeadLetter]]

Trouble = Callable[[BaseException, float | None], None]
"""Is told that the store failed, and the seconds until the next try; None if there is none, because the run is over."""

_parent = attrgetter("parent")
_letter = attrgetter("dead_letter_id")


def dead_letter(
    store: DeadLetterStore,
    write: Write,
    *,
    backoff: Backoff | None = None,
    on_trouble: Trouble | None = None,
    chance: random.Random | None = None,
) -> Operator[Any, Any]:
    """Store the letter of each failed element, many in one durable commit.

    If the store fails, the elements wait unsettled, so the source pauses; the store is tried again with backoff, for as
    long as the run lasts, and `on_trouble` is told. Parts of one element share one letter.

    **Takes in** failed elements. **Holds back** until their letters are durable. **Gives out** the same elements, now
    with their letters' ids, in the same order. **Ends** when its input has and all letters are stored.
    """
    backoff = backoff or Backoff(first=0.1, cap=5.0)
    return async_operator("dead_letter", partial(DeadLetterStage, store, write, backoff, on_trouble, chance))


@dataclass(slots=True, eq=False)
class LetterBatch:
    """Failed elements that are stored by one call: all of them, the new letters, and of which element each tells.

    Parts of one element share a letter, so there may be fewer letters than elements.
    """

    elements: list[Element[Any]] = field(default_factory=list[Element[Any]])
    sources: list[Element[Any]] = field(default_factory=list[Element[Any]])
    letters: list[DeadLetter] = field(default_factory=list[DeadLetter])
    parts: bool = False
    """Whether some of the elements are parts, which may share a letter."""
    uncertain_because: str | None = None
    """Why the letters may be stored though the store failed."""

    def note(self, error: BaseException) -> None:
        """The store failed."""
        if isinstance(error, WriterCrashed):
            self.uncertain_because = describe(error)

    def log_uncertain(self, run: str) -> None:
        """Log that letters may be stored whose elements are about to be settled as cancelled."""
        if self.uncertain_because is not None:
            log.error("store.write_uncertain", run=run, letters=len(self.letters), error=self.uncertain_because)

    def log_late_result(self, run: str, error: BaseException | None) -> None:
        """Log what became of letters after nobody waited any more."""
        reason = None if error is None else describe(error)
        log.warning("store.write_finished_late", run=run, letters=len(self.letters), stored=error is None, error=reason)


class DeadLetterStage:
    """The letters of one run, on their way to the store.

    A letter is written when its element comes in, so that there is little left to do between two commits.
    """

    def __init__(
        self,
        store: DeadLetterStore,
        write: Write,
        backoff: Backoff,
        on_trouble: Trouble | None,
        chance: random.Random | None,
        observer: Downstream,
        scope: RunContext,
    ) -> None:
        self._store = store
        self._write = write
        self._backoff = backoff
        self._on_trouble = on_trouble
        self._observer = observer
        self._scope = scope
        self._chance = chance or CHANCE
        self._mails: deque[LetterBatch] = deque()
        self._pending: set[int] = set()
        """The `id()` of roots whose letter was written for one of their parts, and is not durable yet."""
        self._task: asyncio.Task[None] | None = None
        self._ended = False

    def on_next(self, elements: list[Element[Any]]) -> None:
        """Take failed elements in; the first starts the task that stores their letters."""
        if not self._mails or len(self._mails[-1].elements) >= GROUP:
            self._mails.append(LetterBatch())
        mail = self._mails[-1]
        mail.elements += elements
        if any(map(_parent, elements)) or any(map(_letter, elements)):
            mail.parts = True
            elements = self._first_of_each_root(elements)
        mail.sources += elements
        mail.letters += self._write(elements)
        if self._task is None:
            self._task = self._scope.spawn(self._run(), "dead letters")

    def on_completed(self) -> None:
        """No further element will come."""
        self._ended = True
        if self._task is None:
            self._observer.on_completed()

    def _first_of_each_root(self, elements: list[Element[Any]]) -> list[Element[Any]]:
        """The elements whose root has no letter yet, one for each root."""
        firsts: list[Element[Any]] = []
        for element in elements:
            root = element.root
            if root.dead_letter_id is None and id(root) not in self._pending:
                self._pending.add(id(root))
                firsts.append(element)
        return firsts

    async def _run(self) -> None:
        while self._mails:
            mail = self._mails.popleft()
            if mail.letters:
                await self._store_all(mail)
            self._note(mail)
            if not self._scope.emit(self._observer, mail.elements):
                return
        self._task = None
        if self._ended:
            self._observer.on_completed()

    async def _store_all(self, mail: LetterBatch) -> None:
        attempt = 0
        while True:
            storing: asyncio.Future[None] | None = None
            try:
                storing = asyncio.ensure_future(self._store.add(mail.letters))
                await asyncio.shield(storing)
                return
            except asyncio.CancelledError:
                if storing is not None:
                    await self._await_commit(mail, storing)
                raise
            except Exception as error:
                attempt += 1
                wait = self._backoff.seconds(attempt, self._chance)
                self._tell_trouble(mail, error, wait)
            try:
                await asyncio.sleep(wait)
            except asyncio.CancelledError:
                mail.log_uncertain(self._scope.name)
                raise

    async def _await_commit(self, mail: LetterBatch, storing: asyncio.Future[None]) -> None:
        """The commit goes on whatever we do, so its end decides: a durable letter means a failed element."""
        patience = min(self._store.timeout, CANCEL_SECONDS / 2)
        await asyncio.wait((storing,), timeout=patience)
        if not storing.done():
            log.error("store.write_uncertain", run=self._scope.name, letters=len(mail.letters), waited=patience)
            detach(storing, partial(mail.log_late_result, self._scope.name))
        elif storing.cancelled():
            mail.log_uncertain(self._scope.name)
        elif (error := storing.exception()) is None:
            self._note(mail)
        else:
            self._tell_trouble(mail, error, None)
            mail.log_uncertain(self._scope.name)

    def _tell_trouble(self, mail: LetterBatch, error: BaseException, wait: float | None) -> None:
        mail.note(error)
        if self._on_trouble is not None:
            self._on_trouble(error, wait)

    def _note(self, mail: LetterBatch) -> None:
        self._scope.ledger.mark_stored(mail.sources, [letter.id for letter in mail.letters])
        if mail.parts:
            for element in mail.elements:
                root = element.root
                element.dead_letter_id = root.dead_letter_id
                self._pending.discard(id(root))
