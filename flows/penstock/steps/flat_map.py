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
                scope = RunContext.of(scheduler, f"step {name}")
                expansion = FlatMapStage(name, items, max_parts, observer, scope)
                task = scope.spawn(expansion.run(), f"step:{name}")
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
    """An element that is being replaced by parts, and what its parts are made of."""

    __slots__ = ("element", "lookahead", "step", "values")

    def __init__(self, element: Element[Any], step: str) -> None:
        self.element = element
        self.step = step
        self.values: Iterator[Any] = iter(())
        self.lookahead: Any = _END
        """The value of the next part: one is looked at ahead, to know which one is the last."""

    def begin(self, function: Callable[[Any], Iterable[Any]]) -> None:
        """Look at the first value. Raises what the function raises."""
        values = function(self.element.value)
        reject_awaitable(values, "the function")
        self.values = iter(values)
        self.lookahead = next(self.values, _END)

    def next(self) -> Any:
        """The value of the next part; `FailedPart` when the iterable broke there, which ends it."""
        value = self.lookahead
        try:
            self.lookahead = _END if isinstance(value, FailedPart) else next(self.values, _END)
        except ERRORS as error:
            self.lookahead = FailedPart(Failure.of(self.step, error))
        return value


class PartBudget:
    """Room for parts. Elements refer to it, so it must not refer to any: see `Element.expand`."""

    __slots__ = ("changed", "free")

    def __init__(self, free: int) -> None:
        self.free = free
        self.changed = asyncio.Event()

    def released(self, parts: int) -> None:
        """Parts were settled."""
        self.free += parts
        self.changed.set()


class FlatMapStage:
    """Makes the parts of one run, as far as there is room for them.

    In an ordered run parts wait at the end for those of earlier elements, and hold their room meanwhile. An earlier
    element may come here later, on its way through a slow service or a branch. So it goes first when it comes, and one
    part of it is made whether there is room or not: nothing waits for anything but what is earlier, and the earliest
    always goes on. That is one part beyond `max_parts` for each element in the window, at most.
    """

    def __init__(
        self,
        name: str,
        function: Callable[[Any], Iterable[Any]],
        max_parts: int,
        observer: abc.ObserverBase[list[Element[Any]]],
        scope: RunContext,
    ) -> None:
        self._name = name
        self._function = function
        self._room = PartBudget(max_parts)
        self._observer = observer
        self._scope = scope
        self._waiting: list[tuple[Path, ExpansionState]] = []
        """A heap: the next one first."""
        self._arrivals = count()
        self._ended = False

    def on_next(self, elements: list[Element[Any]]) -> None:
        """Put elements in line; those that were decided before pass."""
        passing: list[Element[Any]] = []
        for element in elements:
            if element.outcome is None:
                place = path_of(element) if self._scope.ordered else (next(self._arrivals),)
                heappush(self._waiting, (place, ExpansionState(element, self._name)))
            else:
                passing.append(element)
        self._room.changed.set()
        if passing:
            self._observer.on_next(passing)

    def on_completed(self) -> None:
        """No further element will come."""
        self._ended = True
        self._room.changed.set()

    async def run(self) -> None:
        """Expand one element after the other, or the earliest first."""
        while self._waiting or not self._ended:
            if self._waiting and self._may_go_on(self._waiting[0][1].element):
                if not self._scope.emit(self._observer, self._go_on(self._waiting[0][1])):
                    return
                await asyncio.sleep(0)
            else:
                self._room.changed.clear()
                await self._room.changed.wait()
        self._observer.on_completed()

    def _may_go_on(self, element: Element[Any]) -> bool:
        return self._room.free > 0 or (self._scope.ordered and (element.parts is None or not element.parts.open))

    def _go_on(self, unfolding: ExpansionState) -> list[Element[Any]]:
        """The next parts of an element, as many as there is room for; the element itself if it has none."""
        element = unfolding.element
        if element.parts is None:
            try:
                unfolding.begin(self._function)
            except ERRORS as error:
                element.fail(self._name, error)
            if unfolding.lookahead is _END:
                element.outcome = element.outcome or FILTERED
                heappop(self._waiting)
                return [element]
            element.begin_parts(self._room.released)
        parts: list[Element[Any]] = []
        room = max(self._room.free, 1)
        while unfolding.lookahead is not _END and len(parts) < room:
            value = unfolding.next()
            parts.append(part := element.add_part(value))
            if isinstance(value, FailedPart):
                part.outcome, part.failure = FAILED, value.failure
        self._room.free -= len(parts)
        if unfolding.lookahead is _END:
            element.close_parts()
            heappop(self._waiting)
        return parts


class FailedPart:
    """Stands for the part at which an iterable broke.

    It has the failure, not the error: that refers by its traceback to the elements which refer to this (see `Element`).
    """

    def __init__(self, failure: Failure) -> None:
        self.failure = failure


_END: Any = object()
