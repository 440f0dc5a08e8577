"""Forward elements in slices, so that slow steps behind do not hold the event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from time import perf_counter
from typing import Any

from penstock.core.context import RunContext
from penstock.core.element import Element, Operator
from penstock.core.fairness import BUSY_SECONDS
from penstock.core.operators import Downstream, async_operator
from penstock.expressions import Assign, Expression, Fields

FIRST = 4
"""Elements in the first slice of a run."""

UNLIMITED = 1 << 20
"""Elements in a slice while slices are fast: more than a window holds."""


def sliced(name: str) -> Operator[Any, Any]:
    """Forward elements in slices, in front of a step whose work on one element may take long: an expression.

    A step works on all elements of a notification before the event loop goes on, and an expression may take 0.1 s for
    one value. Here the elements wait while the work of an iteration of the event loop has taken its time.

    **Accepts** elements. **Backpressures when** never: waiting elements keep their credits, so the window bounds
    them. **Emits** the elements, in the same order. **Completes when** its input has and no element waits.
    """
    return async_operator(name, Slices)


def in_slices(name: str, operator: Operator[Any, Any], *functions: object) -> Operator[Any, Any]:
    """Put slices in front of an operator if one of its functions is an expression."""
    if not any(isinstance(function, Expression | Fields | Assign) for function in functions):
        return operator
    slices = sliced(name)
    return lambda source: operator(slices(source))


class Slices:
    """Holds the elements of one run that wait for their slice."""

    def __init__(self, observer: Downstream, context: RunContext) -> None:
        self._observer = observer
        self._context = context
        self._slice_size = FIRST
        self._waiting: deque[Element[Any]] = deque()
        self._ended = False
        context.on_close(self._close)

    def on_next(self, elements: list[Element[Any]]) -> None:
        """Forward elements at once, or let them wait."""
        if self._waiting:
            self._waiting.extend(elements)
        elif len(elements) <= self._slice_size and not self._is_spent():
            self._forward(elements)
        else:
            self._waiting.extend(elements)
            self._go_on()

    def on_completed(self) -> None:
        """Complete when no element waits."""
        self._ended = True
        if not self._waiting:
            self._observer.on_completed()

    def _is_spent(self) -> bool:
        return self._context.fairness.is_budget_spent(self._context.loop)

    def _go_on(self) -> None:
        """Forward elements that wait, as long as this iteration of the event loop has time."""
        while self._waiting and not self._is_spent():
            self._forward_slice()
        if self._waiting:
            self._context.fairness.call_later(self._do_waiting, self._context.loop)

    def _do_waiting(self) -> None:
        """Forward at least one slice, when it is the turn of this run."""
        if not self._waiting:  # the run was closed
            return
        self._forward_slice()
        self._go_on()
        if self._ended and not self._waiting:
            self._context.complete(self._observer)

    def _forward_slice(self) -> None:
        count = min(self._slice_size, len(self._waiting))
        elements = [self._waiting.popleft() for _ in range(count)]
        begun = perf_counter()
        if not self._context.emit(self._observer, elements):
            self._waiting.clear()
        self._adapt(perf_counter() - begun, count)

    def _forward(self, elements: list[Element[Any]]) -> None:
        begun = perf_counter()
        self._observer.on_next(elements)
        self._adapt(perf_counter() - begun, len(elements))

    def _adapt(self, seconds: float, count: int) -> None:
        """Choose the size of the next slice by the duration of one of `count` elements."""
        if seconds > BUSY_SECONDS / 2:
            self._slice_size = max(1, count // 4)
        elif count == self._slice_size < UNLIMITED:
            self._slice_size *= 2

    def _close(self) -> list[asyncio.Future[Any]]:
        self._waiting.clear()
        return []
