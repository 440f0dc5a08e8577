"""Any synchronous operator of reactivex, on the values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from reactivex import Observable, Subject, abc
from reactivex.disposable import CompositeDisposable, SerialDisposable
from reactivex.internal.exceptions import WouldBlockException
from reactivex.scheduler import ImmediateScheduler

from penstock.core.context import RunContext
from penstock.core.element import FILTERED, Element, Operator
from penstock.errors import FlowDefinitionError, TimedOperatorNotSupported, TooManyParts, UnattributedValue

A = TypeVar("A")
B = TypeVar("B")


MAX_PARTS = 16
"""Values that an operator may make of one unless told otherwise."""


def through(
    operator: Callable[[Observable[A]], Observable[B]], *, max_parts: int = MAX_PARTS, name: str = "through"
) -> Operator[A, B]:
    """Send the values through a synchronous reactivex operator, with the credits kept right.

    What the operator gives out belongs to the element that went in: one value replaces its own, none settles it as
    filtered, several, `max_parts` at most, become its parts (as with `flat_map`). A value that the operator gives out
    at its end (`reduce`, `last`, a rest of `buffer_with_count`) belongs to none: it becomes an element of its own,
    which comes last and is counted as received like the others. If the operator raises, the element fails and the
    operator starts anew, without what it remembered. If it completes (`take`), the run takes no further input.

    **Takes in** elements. **Holds back** never. **Gives out** as the operator does. **Ends** when its input does.

    >>> from reactivex import operators as ops
    >>> step = through(ops.distinct_until_changed())
    """
    if max_parts < 1:
        raise ValueError(f"through needs max_parts of at least 1, got {max_parts!r}")

    def step(source: Observable[list[Element[Any]]]) -> Observable[list[Element[Any]]]:
        def subscribe(
            observer: abc.ObserverBase[list[Element[Any]]], scheduler: abc.SchedulerBase | None = None
        ) -> abc.DisposableBase:
            scope = RunContext.of(scheduler, f"step {name}")
            passage = ThroughStage(name, operator, max_parts, observer, scope)
            subscription = source.subscribe(
                passage.on_next, observer.on_error, passage.on_completed, scheduler=scheduler
            )
            return CompositeDisposable(subscription, passage.inner)

        return Observable(subscribe)

    return step


class ThroughStage:
    """The operator of one run, and the elements on both sides of it."""

    def __init__(
        self,
        name: str,
        operator: Callable[[Observable[Any]], Observable[Any]],
        max_parts: int,
        observer: abc.ObserverBase[list[Element[Any]]],
        scope: RunContext,
    ) -> None:
        self._name = name
        self._operator = operator
        self._max_parts = max_parts
        self._observer = observer
        self._scope = scope
        self.inner = SerialDisposable()
        self._values: list[Any] = []
        self._open = False
        """True while a value is on its way through: only then may the operator give something out."""
        self._error: Exception | None = None
        self._finished = False
        self._ending = False
        """True at the end, when what the operator kept comes out."""
        self._start()

    def on_next(self, elements: list[Element[Any]]) -> None:
        """Send each value through; elements that were decided before pass."""
        out: list[Element[Any]] = []
        for element in elements:
            if element.outcome is not None:
                out.append(element)
            elif self._finished:
                element.outcome = FILTERED
                out.append(element)
            else:
                self._send(element, out)
        if out:
            self._observer.on_next(out)

    def on_completed(self) -> None:
        """Let the operator give out what it kept."""
        self._ending = True
        if not self._finished:
            self._push(self._input.on_completed)
        if self._values or self._error is not None:
            self._scope.spawn(self._give_rest(), f"step:{self._name}")
        else:
            self._observer.on_completed()

    async def _give_rest(self) -> None:
        """Values without an element get one of their own, as there is room."""
        for value in self._values:
            element = await self._scope.add_late_element(value)
            if not self._scope.emit(self._observer, [element]):
                return
        if self._error is not None:
            element = await self._scope.add_late_element(None)
            element.fail(self._name, self._error)
            if not self._scope.emit(self._observer, [element]):
                return
        self._observer.on_completed()

    def _start(self) -> None:
        self._input: Subject[Any] = Subject()
        self._values = []
        self._error = None
        output = self._operator(self._input)
        if not hasattr(output, "subscribe"):
            raise FlowDefinitionError(
                f"the operator in step {self._name} gave no Observable; is it called, with its parentheses?"
            )
        self.inner.disposable = output.subscribe(
            self._on_value, self._on_error, self._on_finish, scheduler=ImmediateScheduler.singleton()
        )
        if self._finished:  # it takes nothing at all
            self._scope.close_input()

    def _push(self, push: Callable[[], None]) -> None:
        self._open = True
        try:
            push()
        except Exception as error:
            self._on_error(error)
        self._open = False

    def _send(self, element: Element[Any], out: list[Element[Any]]) -> None:
        self._push(lambda: self._input.on_next(element.value))
        if self._error is not None:
            element.fail(self._name, self._error)
            out.append(element)
            self._start()
            return
        if self._finished:
            self._scope.close_input()
        self._attribute(element, out)

    def _attribute(self, element: Element[Any], out: list[Element[Any]]) -> None:
        values, self._values = self._values, []
        if not values:
            element.outcome = FILTERED
        elif len(values) == 1:
            element.value = values[0]
        else:
            element.begin_parts(lambda _: None)
            out += [element.add_part(value) for value in values]
            element.close_parts()
            return
        out.append(element)

    def _on_value(self, value: Any) -> None:
        if self._open:
            if len(self._values) == self._max_parts and not self._ending:
                raise TooManyParts(self._name, self._max_parts)
            self._values.append(value)
        else:
            self._scope.report_fault(UnattributedValue(self._name))

    def _on_error(self, error: Exception) -> None:
        self._error = TimedOperatorNotSupported(self._name) if isinstance(error, WouldBlockException) else error

    def _on_finish(self) -> None:
        self._finished = True
