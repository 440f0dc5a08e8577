"""A sink: the Observer at the end of a run, which settles what it accepted."""

from __future__ import annotations

from typing import Any

from reactivex import abc

from penstock.core.context import RunContext
from penstock.core.element import Element, Operator


class ResultConsumer(abc.ObserverBase[list[Element[Any]]]):
    """Takes the results of one run: the successes, and the failures once their letters are durable.

    A subclass writes `on_next`, which has to see to it that every element is settled (`scope.ledger.accept`) once it
    was really taken, and may write `prepare`, `open` and `on_completed`. By `finish` it says that all is done.
    """

    def __init__(self) -> None:
        self._scope: RunContext | None = None

    @property
    def scope(self) -> RunContext:
        """The run that this sink serves."""
        if self._scope is None:
            raise RuntimeError("this sink was not opened by a run")
        return self._scope

    def final_operator(self, *, ordered: bool) -> Operator[Any, Any] | None:  # noqa: ARG002 - for sinks that need to know
        """A last step for the values before they are parted, such as writing them as bytes.

        `ordered` tells that elements may be put back in order after it.
        """
        return None

    def open(self, scope: RunContext) -> None:
        """Get ready for a run. A sink serves one."""
        if self._scope is not None:
            raise RuntimeError("a sink serves one run; make another")
        self._scope = scope

    def on_error(self, error: Exception) -> None:
        """The flow broke."""
        self.scope.report_fault(error)

    def on_completed(self) -> None:
        """No further element will come."""
        self.complete()

    def close(self) -> None:
        """The run is over, however it ended; what is left is not to be settled any more."""

    def complete(self) -> None:
        """All that came was settled."""
        if not self.scope.done.done():
            self.scope.done.set_result(None)


class DiscardResults(ResultConsumer):
    """Takes every result and keeps none: for runs whose steps are all that matters."""

    def on_next(self, value: list[Element[Any]]) -> None:
        self.scope.ledger.settle_accepted(value)
