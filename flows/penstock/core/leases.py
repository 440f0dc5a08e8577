"""Leases: the messages of a broker that a run works on, and the answers that it owes for them.

A source that leases its values sends each with a lease: whatever identifies the message to its `Lessor`. The run
answers each lease exactly once, when the element of its value is settled or when the run ends. The answers of one
iteration of the event loop are passed on together, so that the path of an element contains no call of a broker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from penstock.core.element import CANCELLED, FAILED, MESSAGE_LIMIT, Element, Failure, Outcome

L = TypeVar("L")
K = TypeVar("K", contravariant=True)

MAX_FAILURES = 1024
"""Maximum of messages whose last failure is remembered, for the dead letter of one that is delivered too often."""

CLOSE_SECONDS = 10.0
"""Seconds that a lessor has to pass on the last answers and to close, after which the run ends without it."""


class Answer(StrEnum):
    """What became of a leased message."""

    DONE = "done"
    """Its element succeeded, was filtered, failed with a durable dead letter, or was refused by the source.

    The message is not needed again.
    """
    FAILED = "failed"
    """Its element failed, and no dead letter was stored. The message should be delivered again, after a while."""
    RELEASED = "released"
    """It was not processed, or its element was cancelled. The message should be delivered again at once."""


class Lessor(Protocol[K]):
    """Gives leases, and takes the answers of one run. It may refer to the connection to a broker."""

    def settle(self, answers: Sequence[tuple[K, Answer]]) -> None:
        """Take answers, in the order in which the elements were settled. Must return at once.

        Called at the end of an iteration of the event loop, and for the last time before `close`. An exception is a
        fault of the run.
        """

    def origin(self, lease: K) -> str:
        """Return the name of the message, which is the same each time that it is delivered.

        A dead letter contains it, and the store keeps one letter of a flow for each origin until it is resolved.
        """
        ...

    async def close(self) -> None:
        """Pass on the answers, such as by waiting for an acknowledgement, and release all resources.

        Called once, when all leases of the run are answered, however it ended. It has `CLOSE_SECONDS`.
        """


class Leases(Generic[L]):
    """The leases of one run.

    `redeliver` is whether failed elements are answered with `Answer.FAILED` instead of becoming dead letters. Those
    that the source refused become dead letters all the same. `on_fault` receives what `Lessor.settle` raised.
    """

    def __init__(
        self,
        lessor: Lessor[L],
        loop: asyncio.AbstractEventLoop,
        on_fault: Callable[[BaseException], None],
        *,
        redeliver: bool = False,
    ) -> None:
        self.lessor = lessor
        self.redeliver = redeliver
        self._loop = loop
        self._on_fault = on_fault
        self._open: dict[int, tuple[L, Element[Any]]] = {}
        """The open leases and their elements, by the sequence number of the element."""
        self._refused: set[int] = set()
        self._failures: dict[str, tuple[object, Failure]] = {}
        """The key and the last failure of elements that are delivered again, by their origin."""
        self._answers: list[tuple[L, Answer]] = []
        self._closed = False

    @property
    def open(self) -> list[L]:
        """The leases that are not answered, oldest first; to extend them before they expire."""
        return [lease for lease, _ in self._open.values()]

    def __len__(self) -> int:
        """Return the number of leases that are not answered."""
        return len(self._open)

    def add(self, elements: Sequence[Element[Any]], leases: Sequence[L], *, refused: bool = False) -> None:
        """Record the leases of elements that are about to be emitted."""
        for element, lease in zip(elements, leases, strict=True):
            self._open[element.seq] = lease, element
            if refused:
                self._refused.add(element.seq)

    def release(self, leases: Sequence[L]) -> None:
        """Answer leases whose values were not emitted."""
        for lease in leases:
            self._answer(lease, Answer.RELEASED)

    def on_settled(self, element: Element[Any], outcome: Outcome) -> None:
        """Answer the lease of a settled element. Parts have none; their root is settled after the last of them."""
        if element.parent is None and (entry := self._open.pop(element.seq, None)) is not None:
            answer = self._answer_to(element, outcome)
            if answer is Answer.FAILED and self.redeliver and element.failure is not None:
                self._remember(self.lessor.origin(entry[0]), element.key, element.failure)
            self._answer(entry[0], answer)
            self._refused.discard(element.seq)

    def add_last_failure(self, element: Element[Any], lease: L) -> None:
        """Add the key and the last failure of its message to an element that the source refuses, if this run knows."""
        found = self._failures.pop(self.lessor.origin(lease), None)
        if found is not None and element.failure is not None:
            element.key, last = found
            cause = f"{last.type}: {last.message} (step {last.step})"
            element.failure = msgspec.structs.replace(element.failure, cause=cause[:MESSAGE_LIMIT])

    def is_redelivered(self, element: Element[Any]) -> bool:
        """Return whether a failed element is answered with `Answer.FAILED`, so that it needs no dead letter."""
        seq = element.root.seq
        return self.redeliver and seq in self._open and seq not in self._refused

    def origin(self, element: Element[Any]) -> str | None:
        """Return the origin of an element, or of its root; None if its lease is answered."""
        entry = self._open.get(element.root.seq)
        return None if entry is None else self.lessor.origin(entry[0])

    async def aclose(self) -> BaseException | None:
        """Answer the remaining leases, pass on all answers and close the lessor. Return an error that it raised.

        Called when all tasks of the run have ended. Elements that are not settled by now are cancelled, except those
        with a durable dead letter.
        """
        for lease, element in self._open.values():
            outcome = FAILED if element.dead_letter_id is not None else CANCELLED
            self._answer(lease, self._answer_to(element, outcome))
        self._open.clear()
        self._closed = True
        error: BaseException | None = None
        try:
            self._flush()
        except Exception as raised:
            error = raised
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self.lessor.close()
        except Exception as raised:
            error = error or raised
        return error

    def _remember(self, origin: str, key: object, failure: Failure) -> None:
        self._failures.pop(origin, None)  # it becomes the latest
        if len(self._failures) >= MAX_FAILURES:
            del self._failures[next(iter(self._failures))]
        self._failures[origin] = key, failure

    def _answer(self, lease: L, answer: Answer) -> None:
        if not self._answers and not self._closed:
            self._loop.call_soon(self._flush_reporting)
        self._answers.append((lease, answer))

    def _flush_reporting(self) -> None:
        try:
            self._flush()
        except Exception as error:
            self._on_fault(error)

    def _flush(self) -> None:
        if self._answers:
            answers, self._answers = self._answers, []
            self.lessor.settle(answers)

    def _answer_to(self, element: Element[Any], outcome: Outcome) -> Answer:
        if outcome is CANCELLED:
            return Answer.RELEASED
        if outcome is FAILED and element.dead_letter_id is None and element.seq not in self._refused:
            return Answer.FAILED
        return Answer.DONE
