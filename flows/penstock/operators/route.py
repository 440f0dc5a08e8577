"""The parting of the ways: success, failure, and what was filtered."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple, TypeVar

from reactivex import Observable, abc
from reactivex.disposable import Disposable

from penstock.element import FAILED, OK, Element
from penstock.operators.stream import Stream

T = TypeVar("T")


class Branches(NamedTuple):
    """The streams that `route` parts a stream in. Each takes one subscriber."""

    success: Observable[list[Element[Any]]]
    failure: Observable[list[Element[Any]]]
    filtered: Observable[list[Element[Any]]]


def route(source: Observable[list[Element[T]]]) -> Branches:
    """Part a stream by what was decided about its elements, with one look at each.

    **Takes in** elements; it subscribes to its input when all three branches are subscribed. **Holds back** never.
    **Gives out** each element on one of the branches. **Ends** all branches when its input ends.
    """
    fork = Fork(source)
    return Branches(*(Stream(partial(fork.subscribe, branch)) for branch in range(3)))


class Fork:
    """One input, three outputs."""

    def __init__(self, source: Observable[list[Element[Any]]]) -> None:
        self._source = source
        self._outputs: dict[int, abc.ObserverBase[list[Element[Any]]]] = {}
        self._input: abc.DisposableBase | None = None
        self._left = 0

    def subscribe(
        self, branch: int, observer: abc.ObserverBase[list[Element[Any]]], scheduler: abc.SchedulerBase | None = None
    ) -> abc.DisposableBase:
        """Take the output of one branch; the last to come starts the input."""
        if branch in self._outputs:
            raise RuntimeError("a branch of route takes one subscriber")
        self._outputs[branch] = observer
        if len(self._outputs) == 3:
            self._input = self._source.subscribe(self.on_next, self.on_error, self.on_completed, scheduler=scheduler)
        return Disposable(self._leave)

    def on_next(self, elements: list[Element[Any]]) -> None:
        """Give each element to its branch; the usual case, all of them good, copies nothing."""
        for element in elements:
            if element.outcome is not None and element.outcome is not OK:
                break
        else:
            self._outputs[0].on_next(elements)
            return
        parts: tuple[list[Element[Any]], ...] = ([], [], [])
        for element in elements:
            outcome = element.outcome
            way = 0 if outcome is None or outcome is OK else 1 if outcome is FAILED else 2
            parts[way].append(element)
        for branch, part in enumerate(parts):
            if part:
                self._outputs[branch].on_next(part)

    def _leave(self) -> None:
        """One branch is no longer wanted; the input lives as long as one is."""
        self._left += 1
        if self._left == 3 and self._input is not None:
            self._input.dispose()
            self._input = None  # it refers to the source's task, and that, cancelled, to this by its traceback

    def on_error(self, error: Exception) -> None:
        """The flow broke: all branches end."""
        for output in self._outputs.values():
            output.on_error(error)

    def on_completed(self) -> None:
        """The input ended: all branches end."""
        for output in self._outputs.values():
            output.on_completed()
