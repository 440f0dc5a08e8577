"""Many values for one."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from reactivex import Observable, abc
from reactivex.disposable import CompositeDisposable, Disposable

from penstock.element import Element, Outcome, Step
from penstock.operators.each import name_of
from penstock.operators.in_order import Sequencer
from penstock.operators.stream import Stream
from penstock.scope import Scope, cancel
from penstock.window import Window

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
    the window. **Gives out** the parts, in the order of their elements. **Ends** when its input has and the last part
    was made.

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
            expansion = Expansion(name, function, Window(max_parts), observer, scope)
            task = scope.spawn(expansion.run(), f"step:{name}")
            subscription = source.subscribe(
                expansion.on_next, observer.on_error, expansion.on_completed, scheduler=scheduler
            )
            return CompositeDisposable(subscription, Disposable(lambda: cancel(task)))

        return Stream(subscribe)

    return step


class Expansion:
    """Makes the parts of one run, as far as there is room for them."""

    def __init__(
        self,
        name: str,
        function: Callable[[Any], Iterable[Any]],
        room: Window,
        observer: abc.ObserverBase[list[Element[Any]]],
        scope: Scope,
    ) -> None:
        self._name = name
        self._function = function
        self._room = room
        self._observer = observer
        self._scope = scope
        self._waiting: deque[Element[Any]] = deque()
        self._arrived = asyncio.Event()
        self._ended = False
        # In an ordered run later elements must not take the room that the parts of an earlier one will need.
        self._line_up = Sequencer(self._take) if scope.ordered else self._take

    def on_next(self, elements: list[Element[Any]]) -> None:
        """Put elements in line."""
        self._line_up(elements)

    def _take(self, elements: list[Element[Any]]) -> None:
        """Elements whose turn it is; those that were decided before pass."""
        passing = [element for element in elements if element.outcome is not None]
        self._waiting.extend(element for element in elements if element.outcome is None)
        self._arrived.set()
        if passing:
            self._observer.on_next(passing)

    def on_completed(self) -> None:
        """No further element will come."""
        self._ended = True
        self._arrived.set()

    async def run(self) -> None:
        """Expand one element after the other."""
        while self._waiting or not self._ended:
            if self._waiting:
                await self._expand(self._waiting.popleft())
            else:
                self._arrived.clear()
                await self._arrived.wait()
        self._observer.on_completed()

    async def _expand(self, element: Element[Any]) -> None:
        try:
            values = iter(self._function(element.value))
            following = next(values, _END)
        except Exception as error:
            element.fail(self._name, error)
            self._scope.emit(self._observer, [element])
            return
        if following is _END:
            element.outcome = Outcome.FILTERED
            self._scope.emit(self._observer, [element])
            return
        element.expand(self._room.give)
        while following is not _END:
            while not self._room.free:
                await self._room.room()
            parts: list[Element[Any]] = []
            while following is not _END and self._room.take(1):
                parts.append(part := element.add_part(following))
                if isinstance(following, Broken):
                    part.fail(self._name, following.error)
                    following = _END
                else:
                    following = self._next(values)
            if following is _END:
                element.end_parts()
            if not self._scope.emit(self._observer, parts):
                return
            await asyncio.sleep(0)

    def _next(self, values: Iterator[Any]) -> Any:
        try:
            return next(values, _END)
        except Exception as error:
            return Broken(error)


class Broken:
    """Stands for the part at which an iterable broke."""

    def __init__(self, error: Exception) -> None:
        self.error = error


_END: Any = object()
