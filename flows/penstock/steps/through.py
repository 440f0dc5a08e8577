"""Apply operators of reactivex: a synchronous one on the values, or one of your own on the elements."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from reactivex import Observable, Subject, abc
from reactivex.disposable import CompositeDisposable, SerialDisposable
from reactivex.internal.exceptions import WouldBlockException
from reactivex.scheduler import ImmediateScheduler

from penstock.core.context import RunContext
from penstock.core.element import FILTERED, Element, Operator
from penstock.core.operators import callable_name
from penstock.errors import FlowDefinitionError, TimedOperatorNotSupported, TooManyParts, UnattributedValue
from penstock.steps.step import MemoryUse, Step, check_count, check_function, describe_function

MAX_PARTS = 16
"""Default of `max_parts`: values that an operator may emit for one."""


@dataclass(frozen=True)
class Through(Step):
    """Send the values through a synchronous operator of reactivex.

    What the operator emits belongs to the element that went in: one value replaces its value, none settles it as
    filtered, several (at most `max_parts`) become its parts, as with `FlatMap`. A value that the operator emits when it
    completes (`reduce`, `last`, the rest of `buffer_with_count`) becomes a new element, which comes last and counts as
    received. If the operator raises, the element fails and the operator starts again, without its state. If it
    completes (`take`), the run takes no further input.

    **Accepts** elements. **Backpressures when** never. **Emits** what the operator emits. **Completes when** its input
    completes.

    >>> from reactivex import operators as ops
    >>> step = Through(ops.distinct_until_changed())
    """

    function: Callable[[Observable[Any]], Observable[Any]]
    max_parts: int = field(default=MAX_PARTS, kw_only=True)

    kind = "through"
    is_timed = False
    is_resumable = False

    def __post_init__(self) -> None:
        check_function("through", self.function)
        check_count("max_parts", self.max_parts)
        super().__post_init__()

    def operator(self) -> Operator[Any, Any]:
        name, function, max_parts = self.name, self.function, self.max_parts

        def step(source: Observable[list[Element[Any]]]) -> Observable[list[Element[Any]]]:
            def subscribe(
                observer: abc.ObserverBase[list[Element[Any]]], scheduler: abc.SchedulerBase | None = None
            ) -> abc.DisposableBase:
                context = RunContext.of(scheduler, f"step {name}")
                stage = ThroughStage(name, function, max_parts, observer, context)
                subscription = source.subscribe(
                    stage.on_next, observer.on_error, stage.on_completed, scheduler=scheduler
                )
                return CompositeDisposable(subscription, stage.inner)

            return Observable(subscribe)

        return step

    @property
    def makes_parts(self) -> bool:
        return True

    def memory_bound(self, held: int) -> MemoryUse | None:
        return MemoryUse(self.name, held * self.max_parts, 0, f"max_parts: {self.max_parts} of each", (self.name,))

    def summary(self) -> tuple[str, ...]:
        return describe_function(self.function, self.name)


@dataclass(frozen=True)
class CustomOperator(Step):
    """Apply an operator on streams of elements, which has at most `max_parts` parts in flight.

    It accepts lists of elements and emits each of them once, after it has set a new value or an outcome.
    """

    function: Operator[Any, Any]
    max_parts: int = field(default=0, kw_only=True)

    kind = "operator"
    is_timed = False

    def __post_init__(self) -> None:
        check_function("operator", self.function)
        check_count("max_parts", self.max_parts, min=0)
        super().__post_init__()

    def operator(self) -> Operator[Any, Any]:
        return self.function

    @property
    def default_name(self) -> str:
        return callable_name(self.function, "operator")

    @property
    def makes_parts(self) -> bool:
        return self.max_parts > 0

    def memory_bound(self, held: int) -> MemoryUse | None:  # noqa: ARG002 - `max_parts` is a limit for the whole run
        return MemoryUse(self.name, self.max_parts, 0, f"max_parts: {self.max_parts} of the operator", (self.name,))


class ThroughStage:
    """Runs the operator in one run, and assigns each emitted value to its element."""

    def __init__(
        self,
        name: str,
        operator: Callable[[Observable[Any]], Observable[Any]],
        max_parts: int,
        observer: abc.ObserverBase[list[Element[Any]]],
        context: RunContext,
    ) -> None:
        self._name = name
        self._operator = operator
        self._max_parts = max_parts
        self._observer = observer
        self._context = context
        self.inner = SerialDisposable()
        self._values: list[Any] = []
        self._open = False
        """Whether a value is being sent: only then may the operator emit."""
        self._error: Exception | None = None
        self._finished = False
        self._ending = False
        """Whether the input has completed, and the operator emits what it kept."""
        self._start()

    def on_next(self, elements: list[Element[Any]]) -> None:
        """Send each value through; forward elements that have an outcome already."""
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
        """Complete the operator, and emit what it kept."""
        self._ending = True
        if not self._finished:
            self._push(self._input.on_completed)
        if self._values or self._error is not None:
            self._context.spawn(self._emit_rest(), f"step:{self._name}")
        else:
            self._observer.on_completed()

    async def _emit_rest(self) -> None:
        """Emit the values that belong to no element as new elements, when there are credits."""
        for value in self._values:
            element = await self._context.add_late_element(value)
            if not self._context.emit(self._observer, [element]):
                return
        if self._error is not None:
            element = await self._context.add_late_element(None)
            element.fail(self._name, self._error)
            if not self._context.emit(self._observer, [element]):
                return
        self._observer.on_completed()

    def _start(self) -> None:
        self._input: Subject[Any] = Subject()
        self._values = []
        self._error = None
        output = self._operator(self._input)
        if not hasattr(output, "subscribe"):
            raise FlowDefinitionError(
                f"step {self._name}: expected an operator that returns an Observable; call its factory: ops.skip(1)"
            )
        self.inner.disposable = output.subscribe(
            self._on_value, self._on_error, self._on_finish, scheduler=ImmediateScheduler.singleton()
        )
        if self._finished:  # it completed on subscription
            self._context.close_input()

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
            self._context.close_input()
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
            self._context.report_fault(UnattributedValue(self._name))

    def _on_error(self, error: Exception) -> None:
        self._error = TimedOperatorNotSupported(self._name) if isinstance(error, WouldBlockException) else error

    def _on_finish(self) -> None:
        self._finished = True
