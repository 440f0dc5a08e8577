"""Replace each value by several."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from typing import Any

from reactivex import Observable, abc
from reactivex.disposable import CompositeDisposable, Disposable

from penstock.core.context import RunContext, cancel
from penstock.core.element import FAILED, FILTERED, Element, Failure, Operator, Path, path_of
from penstock.core.operators import ERRORS, RunObservable, callable_name
from penstock.steps.step import MemoryUse, Step, check_count, check_function, describe_function
from penstock.support.tasks import reject_awaitable

MAX_PARTS = 256
"""Default of `max_parts`: parts of one run in flight at once."""


@dataclass(frozen=True)
class FlatMap(Step):
    """Replace each value by the values of an iterable, its parts.

    A part has the `seq` of its element and a number, `part`. The element is settled when all its parts are: as failed
    if one of them failed (it then has one dead letter, with its original input), else as ok; without parts as filtered.
    An iterable is advanced only while parts are free, so it may be endless.

    **Accepts** elements. **Backpressures when** `max_parts` parts are in flight downstream: elements wait, within the
    window. In an ordered run the earliest of them may have one more part in flight. **Emits** the parts, in the order
    in which their elements came; in an ordered run the earliest first. **Completes when** its input completes and the
    last part is emitted.

    >>> step = FlatMap(lambda order: order["lines"], name="lines")
    """

    items: Callable[[Any], Iterable[Any]]
    max_parts: int = field(default=MAX_PARTS, kw_only=True)

    kind = "flat_map"
    is_timed = False

    def __post_init__(self) -> None:
        check_function("flat_map", self.items)
        check_count("max_parts", self.max_parts)
        super().__post_init__()

    def operator(self) -> Operator[Any, Any]:
        name, items, max_parts = self.name, self.items, self.max_parts

        def step(source: Observable[list[Element[Any]]]) -> Observable[list[Element[Any]]]:
            def subscribe(
                observer: abc.ObserverBase[list[Element[Any]]], scheduler: abc.SchedulerBase | None = None
            ) -> abc.DisposableBase:
                context = RunContext.of(scheduler, f"step {name}")
                expansion = FlatMapStage(name, items, max_parts, observer, context)
                task = context.spawn(expansion.run(), f"step:{name}")
                subscription = source.subscribe(
                    expansion.on_next, observer.on_error, expansion.on_completed, scheduler=scheduler
                )
                return CompositeDisposable(subscription, Disposable(lambda: cancel(task)))

            return RunObservable(subscribe)

        return step

    @property
    def default_name(self) -> str:
        return callable_name(self.items, "flat_map")

    @property
    def makes_parts(self) -> bool:
        return True

    def memory_bound(self, held: int) -> MemoryUse | None:
        why = f"max_parts: {self.max_parts}, and in an ordered run one for each of {held} that may wait"
        return MemoryUse(self.name, self.max_parts + held, 0, why, (self.name,))

    def summary(self) -> tuple[str, ...]:
        return (*describe_function(self.items, self.name), f"max {self.max_parts:,} parts")


class ExpansionState:
    """An element that is being replaced by parts, and the iterator over their values."""

    __slots__ = ("element", "lookahead", "step", "values")

    def __init__(self, element: Element[Any], step: str) -> None:
        self.element = element
        self.step = step
        self.values: Iterator[Any] = iter(())
        self.lookahead: Any = _END
        """The value of the next part. It is read ahead, to know which part is the last."""

    def begin(self, function: Callable[[Any], Iterable[Any]]) -> None:
        """Read the first value. Raises what the function raises."""
        values = function(self.element.value)
        reject_awaitable(values, "the function")
        self.values = iter(values)
        self.lookahead = next(self.values, _END)

    def next(self) -> Any:
        """Return the value of the next part. A `FailedPart`, where the iterable raised, is the last one."""
        value = self.lookahead
        try:
            self.lookahead = _END if isinstance(value, FailedPart) else next(self.values, _END)
        except ERRORS as error:
            self.lookahead = FailedPart(Failure.of(self.step, error))
        return value


class PartBudget:
    """How many more parts may be in flight. Elements refer to it, so it refers to none: see `Element.begin_parts`."""

    __slots__ = ("changed", "free")

    def __init__(self, free: int) -> None:
        self.free = free
        self.changed = asyncio.Event()

    def released(self, parts: int) -> None:
        """Count parts that were settled."""
        self.free += parts
        self.changed.set()


class FlatMapStage:
    """Makes the parts of one run, within the budget.

    In an ordered run, parts wait at the end for those of earlier elements, and use the budget meanwhile. An earlier
    element may arrive here later, after a slow service or a branch. Then it goes first, and one part of it is made even
    if the budget is used up: elements wait only for earlier ones, and the earliest always continues. So each element in
    the window may have one part beyond `max_parts`.
    """

    def __init__(
        self,
        name: str,
        function: Callable[[Any], Iterable[Any]],
        max_parts: int,
        observer: abc.ObserverBase[list[Element[Any]]],
        context: RunContext,
    ) -> None:
        self._name = name
        self._function = function
        self._budget = PartBudget(max_parts)
        self._observer = observer
        self._context = context
        self._waiting: list[tuple[Path, ExpansionState]] = []
        """A heap: the next element first."""
        self._arrivals = count()
        self._ended = False

    def on_next(self, elements: list[Element[Any]]) -> None:
        """Add elements to those that wait; forward elements that have an outcome already."""
        passing: list[Element[Any]] = []
        for element in elements:
            if element.outcome is None:
                position = path_of(element) if self._context.ordered else (next(self._arrivals),)
                heappush(self._waiting, (position, ExpansionState(element, self._name)))
            else:
                passing.append(element)
        self._budget.changed.set()
        if passing:
            self._observer.on_next(passing)

    def on_completed(self) -> None:
        """End the task after the last part."""
        self._ended = True
        self._budget.changed.set()

    async def run(self) -> None:
        """Expand elements as they came; in an ordered run the earliest first."""
        while self._waiting or not self._ended:
            if self._waiting and self._may_expand(self._waiting[0][1].element):
                if not self._context.emit(self._observer, self._next_parts(self._waiting[0][1])):
                    return
                await asyncio.sleep(0)
            else:
                self._budget.changed.clear()
                await self._budget.changed.wait()
        self._observer.on_completed()

    def _may_expand(self, element: Element[Any]) -> bool:
        return self._budget.free > 0 or (self._context.ordered and (element.parts is None or not element.parts.open))

    def _next_parts(self, expansion: ExpansionState) -> list[Element[Any]]:
        """Return the next parts of an element, within the budget; the element itself if it has no parts."""
        element = expansion.element
        if element.parts is None:
            try:
                expansion.begin(self._function)
            except ERRORS as error:
                element.fail(self._name, error)
            if expansion.lookahead is _END:
                element.outcome = element.outcome or FILTERED
                heappop(self._waiting)
                return [element]
            element.begin_parts(self._budget.released)
        parts: list[Element[Any]] = []
        room = max(self._budget.free, 1)
        while expansion.lookahead is not _END and len(parts) < room:
            value = expansion.next()
            parts.append(part := element.add_part(value))
            if isinstance(value, FailedPart):
                part.outcome, part.failure = FAILED, value.failure
        self._budget.free -= len(parts)
        if expansion.lookahead is _END:
            element.close_parts()
            heappop(self._waiting)
        return parts


class FailedPart:
    """Marks the part at which an iterable raised.

    It holds the failure, not the error: the traceback of the error refers to elements that refer to this (see
    `Element`).
    """

    def __init__(self, failure: Failure) -> None:
        self.failure = failure


_END: Any = object()
