"""One run of a flow for a redrive job: its letters become elements, and its outcomes settle the letters."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Literal, Protocol

from penstock.core.element import CANCELLED, FAILED, Element, Outcome
from penstock.core.partial_results import results_of_letter
from penstock.deadletters import DeadLetter, DeadLetterStore
from penstock.deadletters.dead_letter_queue import FailedAgain, JobOptions, Settlement
from penstock.errors import DeadlineExceeded, ServiceUnavailable, StoreError, describe
from penstock.redrive.source import RedriveSource
from penstock.results import DiscardResults
from penstock.runtime import EndReason, Order, Supervisor
from penstock.runtime.counters import REDRIVE
from penstock.runtime.supervisor import RunnableFlow

EXPECTED_ENDS = (EndReason.COMPLETED, EndReason.DRAINING, EndReason.ABORTED)


class OutcomeReceiver(Protocol):
    """Takes the outcomes of letters: a `Settler`, or the redrive of a log."""

    def add(self, settlement: Settlement) -> None:
        """Record the outcome of a letter soon."""
        ...

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        """Record the outcomes of letters that failed again, durably. Raises `StoreError`."""
        ...


class FlowRun:
    """Runs letters through one revision of a flow.

    The run's failure branch gets this object as its store: an element that fails again settles its letter, instead of
    writing another one. A letter that waited for a service that is down, and for which no call to it was made, is
    settled as cancelled: that is no attempt. Letters of elements that the flow itself added, such as sums at its end,
    are stored as usual.

    `on_end` is called when the run has ended and all its letters have outcomes, with the error if it failed.
    """

    def __init__(
        self,
        flow: RunnableFlow,
        supervisor: Supervisor,
        store: DeadLetterStore,
        outcomes: OutcomeReceiver,
        options: JobOptions,
        on_end: Callable[[FlowRun, str | None], None],
    ) -> None:
        self.flow = flow
        self.timeout = store.timeout
        self.ended = False
        self._store = store
        self._outcomes = outcomes
        self._on_end = on_end
        self._open: dict[int, DeadLetter] = {}
        """Letters in flight, by the sequence number of their elements."""
        self._failed: set[int] = set()
        """Elements whose letters failed again, until they are settled."""
        self._source = RedriveSource(self._open.__setitem__, from_start=options.from_start)
        order = Order.KEY if flow.plan().order is Order.KEY else Order.COMPLETION
        self._run = supervisor.start(flow, self._source, DiscardResults(), kind=REDRIVE, ordered=order, letters=self)
        self._run.ledger.watch(self._on_settled)
        self.finished = asyncio.get_running_loop().create_task(self._finish(), name=f"redrive:{self._run.id}")

    async def put(self, letters: Sequence[DeadLetter]) -> bool:
        """Run letters, when those before have been emitted. Returns False, and takes none, if the run takes no more."""
        return await self._source.put(letters)

    @property
    def awaited_service(self) -> str | None:
        """The name of a service that letters wait for, because its circuit breaker is open; else None."""
        return self._run.awaited_service

    def finish(self) -> None:
        """Take no further letters; finish all that it has."""
        self._source.finish()

    def drain(self) -> None:
        """Take no further letters; finish those in flight. The others are settled as cancelled."""
        self._cancel(self._source.end())
        self._run.drain()

    def abort(self) -> None:
        """Cancel all elements in flight."""
        self._cancel(self._source.end())
        self._run.abort()

    async def add(self, letters: Sequence[DeadLetter]) -> None:
        """Settle the letters of elements that failed again, durably. Store those of other elements."""
        ours = [letter for letter in letters if letter.seq in self._open or letter.seq in self._failed]
        if len(ours) < len(letters):
            known = {letter.id for letter in ours}
            await self._store.add([letter for letter in letters if letter.id not in known])
        originals: dict[int, DeadLetter] = {}
        settlements: list[Settlement] = []
        for letter in ours:
            if self._is_untried(letter.type, letter.attempts):
                continue  # settled as cancelled when its element is settled
            if (original := self._open.pop(letter.seq, None)) is not None:
                originals[letter.seq] = original
                settlements.append(Settlement(original.id, "failed", failed_again(letter, original)))
        self._failed |= originals.keys()
        try:
            if settlements:
                await self._outcomes.settle(settlements)
        except StoreError:  # the failure branch tries again
            self._open |= originals
            self._failed -= originals.keys()
            raise

    def _on_settled(self, element: Element[object], outcome: Outcome) -> None:
        if element.parent is not None:
            return
        self._failed.discard(element.seq)
        letter = self._open.pop(element.seq, None)
        if letter is None:
            return
        failure = element.failure
        if failure is not None and self._is_untried(failure.type, failure.attempts):
            self._outcomes.add(Settlement(letter.id, "cancelled"))
        elif outcome is FAILED and failure is not None:  # the failure branch made no letter for it
            error = FailedAgain(
                step=failure.step,
                type=failure.type,
                message=failure.message,
                attempts=failure.attempts,
                cause=failure.cause,
                partial_results=results_of_letter(element),
                revision=letter.revision if self._run.revision is None else self._run.revision,
            )
            self._outcomes.add(Settlement(letter.id, "failed", error))
        else:
            settled: Literal["cancelled", "resolved"] = "cancelled" if outcome in (CANCELLED, FAILED) else "resolved"
            self._outcomes.add(Settlement(letter.id, settled))

    def _is_untried(self, type: str, attempts: int) -> bool:
        """Return whether an element failed because a service is down, and no call to it was made.

        A deadline can also pass for another reason, and then as often as the letter is redriven.
        """
        if attempts:
            return False
        return type == ServiceUnavailable.__name__ or (
            type == DeadlineExceeded.__name__
            and any(service.statistics().breaker in ("open", "half_open") for service in self.flow.all_services)
        )

    async def _finish(self) -> None:
        error: str | None = None
        try:
            summary = await self._run.finished
            if summary.reason not in EXPECTED_ENDS:
                error = f"run {summary.run} of the flow {summary.flow} ended as {summary.reason}: {summary.error}"
        except Exception as bug:  # of the run itself, which has logged it
            error = describe(bug)
        finally:
            self.ended = True
            self._cancel([*self._source.end(), *self._open.values()])
            self._open.clear()
            self._on_end(self, error)

    def _cancel(self, letters: Sequence[DeadLetter]) -> None:
        for letter in letters:
            self._outcomes.add(Settlement(letter.id, "cancelled"))


def failed_again(letter: DeadLetter, original: DeadLetter) -> FailedAgain:
    """Return the fields of the letter that the failure branch made, for the letter that was redriven.

    A flow that is not deployed, as in a command, has no revision: then the one of the earlier failure stays.
    """
    return FailedAgain(
        step=letter.step,
        type=letter.type,
        message=letter.message,
        attempts=letter.attempts,
        cause=letter.cause,
        partial_results=letter.partial_results,
        revision=original.revision if letter.revision is None else letter.revision,
    )
