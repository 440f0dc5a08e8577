"""Many values for one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from heapq import heappop, heappush
from itertools import count
from typing import Any, TypeVar

from reactivex import Observable, abc
from reactivex.disposable import CompositeDisposable, Disposable

from penstock.awaitables import refuse_awaitable
from penstock.element import FAILED, FILTERED, Element, Failure, Path, Step, path_of
from penstock.operators.each import ERRORS, name_of
from penstock.operators.stream import Stream
from penstock.scope import Scope, cancel

A = TypeVar("A")
B = TypeVar("B")

MAX_PARTS = 256
"""Parts that the step may have in flight at once, unless told otherwise."""


def flat_map(
    function: Callable[[A], Iterable[B]], *, max_parts: int = MAX_PARTS, name: str | None = None
) -> Step[A, B]:
    """Replace each value by the values of an iterable, its parts.

    A part has the `seq` of its element and a number, `part`. The element is settled when all its parts are: as failed
    if one of them failed (it then has one dead letter, with its original input), else as ok; without parts as filtered.
    Iterables are advanced only as far as there is room for parts, so an endless one is no danger.

    **Takes in** elements. **Holds back** while `max_parts` parts are open downstream; waiting elements stay within
    the window. In an ordered run the earliest of them may have one part open in any case. **Gives out** the parts, in
    the order in which their elements came, in an ordered run the earliest first. **Ends** when its input has and the
    last part was made.

    >>> step = flat_map(lambda order: order["lines"], name="lines")
    """
    if max_parts < 1:
        raise ValueError(f"flat_map needs max_parts of at least 1, got {max_parts!r}")
    name = name or name_of(function, "flat_map")

    def step(source: Observable[list[Element[Any]]]) -> Observable[list[Element[Any]]]:
        def subscribe(
            observer: abc.ObserverBase[list[Element[Any]]], scheduler: abc.SchedulerBase | None = None
        ) -> abc.DisposableBase:
            scope = Scope.of(scheduler, f"step {name}")
            expansion = Expansion(name, function, max_parts, observer, scope)
            task = scope.spawn(expansion.run(), f"step:{name}")
            subscription = source.subscribe(
                expansion.on_next, observer.on_error, expansion.on_completed, scheduler=scheduler
            )
            return CompositeDisposable(subscription, Disposable(lambda: cancel(task)))

        return Stream(subscribe)

    return step


class Unfolding:
    """An element that is being replaced by parts, and what its parts are made of."""

    __slots__ = ("element", "following", "step", "values")

    def __init__(self, element: Element[Any], step: str) -> None:
        self.element = element
        self.step = step
        self.values: Iterator[Any] = iter(())
        self.following: Any = _END
        """The value of the next part: one is looked at ahead, to know which one is the last."""

    def begin(self, function: Callable[[Any], Iterable[Any]]) -> None:
        """Look at the first value. Raises what the function raises."""
        values = function(self.element.value)
        refuse_awaitable(values, "the function")
        self.values = iter(values)
        self.following = next(self.values, _END)

    def next(self) -> Any:
        """The value of the next part; `Broken` when the iterable broke there, which ends it."""
        value = self.following
        try:
            self.following = _END if isinstance(value, Broken) else next(self.values, _END)
        except ERRORS as error:
            self.following = Broken(Failure.of(self.step, error))
        return value


class Room:
    """Room for parts. Elements refer to it, so it must not refer to any: see `Element.expand`."""

    __slots__ = ("free", "stirred")

    def __init__(self, free: int) -> None:
        self.free = free
        self.stirred = asyncio.Event()

    def released(self, parts: int) -> None:
        """Parts were settled."""
        self.free += parts
        self.stirred.set()


class Expansion:
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
        scope: Scope,
    ) -> None:
        self._name = name
        self._function = function
        self._room = Room(max_parts)
        self._observer = observer
        self._scope = scope
        self._waiting: list[tuple[Path, Unfolding]] = []
        """A heap: the next one first."""
        self._arrivals = count()
        self._ended = False

    def on_next(self, elements: list[Element[Any]]) -> None:
        """Put elements in line; those that were decided before pass."""
        passing: list[Element[Any]] = []
        for element in elements:
            if element.outcome is None:
                place = path_of(element) if self._scope.ordered else (next(self._arrivals),)
                heappush(self._waiting, (place, Unfolding(element, self._name)))
            else:
                passing.append(element)
        self._room.stirred.set()
        if passing:
            self._observer.on_next(passing)

    def on_completed(self) -> None:
        """No further element will come."""
        self._ended = True
        self._room.stirred.set()

    async def run(self) -> None:
        """Expand one element after the other, or the earliest first."""
        while self._waiting or not self._ended:
            if self._waiting and self._may_go_on(self._waiting[0][1].element):
                if not self._scope.emit(self._observer, self._go_on(self._waiting[0][1])):
                    return
                await asyncio.sleep(0)
            else:
                self._room.stirred.clear()
                await self._room.stirred.wait()
        self._observer.on_completed()

    def _may_go_on(self, element: Element[Any]) -> bool:
        return self._room.free > 0 or (self._scope.ordered and (element.family is None or not element.family.open))

    def _go_on(self, unfolding: Unfolding) -> list[Element[Any]]:
        """The next parts of an element, as many as there is room for; the element itself if it has none."""
        element = unfolding.element
        if element.family is None:
            try:
                unfolding.begin(self._function)
            except ERRORS as error:
                element.fail(self._name, error)
            if unfolding.following is _END:
                element.outcome = element.outcome or FILTERED
                heappop(self._waiting)
                return [element]
            element.expand(self._room.released)
        parts: list[Element[Any]] = []
        room = max(self._room.free, 1)
        while unfolding.following is not _END and len(parts) < room:
            value = unfolding.next()
            parts.append(part := element.add_part(value))
            if isinstance(value, Broken):
                part.outcome, part.failure = FAILED, value.failure
        self._room.free -= len(parts)
        if unfolding.following is _END:
            element.end_parts()
            heappop(self._waiting)
        return parts


class Broken:
    """Stands for the part at which an iterable broke.

    It has the failure, not the error: that refers by its traceback to the elements which refer to this (see `Element`).
    """

    def __init__(self, failure: Failure) -> None:
        self.failure = failure


_END: Any = object()
