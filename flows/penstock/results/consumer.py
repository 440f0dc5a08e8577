"""The consumer at the end of a run: it receives the results and settles their elements."""

from __future__ import annotations

from typing import Any

from reactivex import abc

from penstock.core.context import RunContext
from penstock.core.element import Element, Operator


class ResultConsumer(abc.ObserverBase[list[Element[Any]]]):
    """Receives the results of one run: successes, and failures once their dead letters are stored.

    A subclass implements `on_next`. It settles each element with `context.ledger.settle_accepted(elements)` when its
    result was delivered. A subclass that delivers results later overrides `on_completed` too, and calls `complete` when
    all elements are settled. `open`, `close` and `final_operator` may be overridden as well.
    """

    def __init__(self) -> None:
        self._context: RunContext | None = None

    @property
    def context(self) -> RunContext:
        """Return the context of the run. Raises `RuntimeError` before `open`."""
        if self._context is None:
            raise RuntimeError("the consumer is not open: a run opens it")
        return self._context

    def final_operator(self, *, ordered: bool) -> Operator[Any, Any] | None:  # noqa: ARG002 - for subclasses
        """Return an operator to put after the last step, such as one that encodes the values; None for none.

        `ordered`: elements may be put back in order after the operator.
        """
        return None

    def open(self, context: RunContext) -> None:
        """Prepare for a run. Raises `RuntimeError` if the consumer was used in a run before."""
        if self._context is not None:
            raise RuntimeError("the consumer was used in a run before: create one for each run")
        self._context = context

    def on_error(self, error: Exception) -> None:
        """Report that the flow failed as a whole."""
        self.context.report_fault(error)

    def on_completed(self) -> None:
        """Finish after the last element."""
        self.complete()

    def close(self) -> None:
        """Release resources at the end of the run. Elements that remain must not be settled any more."""

    def complete(self) -> None:
        """Report that all elements are settled."""
        if not self.context.done.done():
            self.context.done.set_result(None)


class DiscardResults(ResultConsumer):
    """Discards all results, for runs of which only the effects of the steps matter."""

    def on_next(self, value: list[Element[Any]]) -> None:
        self.context.ledger.settle_accepted(value)
