"""One answer of a service for one value, many at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from penstock.core.context import RunContext
from penstock.core.element import Element, Operator
from penstock.core.operators import Downstream, as_service, async_operator, mark_entered, record_durations
from penstock.services import MAX_IN_FLIGHT, CallFailed, Service

A = TypeVar("A")
B = TypeVar("B")

_PENDING: list[Any] = []
"""Marks an element whose answer is still to come."""


def map_async(
    call: Callable[[A], Any] | Service,
    *,
    max_in_flight: int = MAX_IN_FLIGHT,
    timeout: float = 30.0,
    attempts: int = 1,
    ordered: bool = False,
    name: str | None = None,
) -> Operator[A, Any]:
    """Replace each value by the answer of a coroutine function or a `Service`.

    `max_in_flight`, `timeout` (seconds, of one attempt) and `attempts` describe the service that is made of a
    function; a `Service` brings its own. With `ordered` the elements go on in the order in which they came.

    **Takes in** elements. **Holds back** calls beyond `max_in_flight`; their elements wait, within the window.
    **Gives out** each element with its answer, as soon as it is there, or in order; one whose call failed for good
    goes on as failed. **Ends** when its input has and every answer is there.

    >>> step = map_async(lookup, max_in_flight=32, timeout=2, attempts=3)
    """
    service = as_service(call, name, step="map_async", max_in_flight=max_in_flight, timeout=timeout, attempts=attempts)
    title = name or service.name
    return async_operator(title, partial(OrderedCalls if ordered else UnorderedCalls, title, service))


class UnorderedCalls:
    """The calls of one run; elements go on as their answers come."""

    def __init__(self, name: str, service: Service, observer: Downstream, scope: RunContext) -> None:
        self._name = name
        self._observer = observer
        self._scope = scope
        self._meter = scope.histogram(name)
        self._open = 0
        self._ended = False
        self._queue = service.open_queue(self.on_answers, scope.report_fault)
        scope.on_close(self._queue.close)

    def on_next(self, elements: list[Element[Any]]) -> None:
        """Have the calls made; elements that were decided before pass."""
        live = [element for element in elements if element.outcome is None]
        mark_entered(live, self._scope.loop.time())
        self._open += len(live)
        if len(live) < len(elements):
            self._observer.on_next([element for element in elements if element.outcome is not None])
        self._queue.submit(live)

    def on_answers(self, elements: Sequence[Element[Any]], answers: Sequence[Any]) -> None:
        """Pass on what has its answer."""
        for element, answer in zip(elements, answers, strict=True):
            if type(answer) is CallFailed:
                element.fail(self._name, answer.error, answer.attempts)
            else:
                element.value = answer
        self._open -= len(elements)
        record_durations(self._meter, elements, self._scope.loop.time())
        self._scope.emit(self._observer, list(elements))
        self._complete()

    def on_completed(self) -> None:
        """No further element will come."""
        self._ended = True
        self._complete()

    def _complete(self) -> None:
        if self._ended and not self._open:
            self._observer.on_completed()


class OrderedCalls(UnorderedCalls):
    """The same, but an element waits for those that came before it."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._line: deque[Element[Any]] = deque()

    def on_next(self, elements: list[Element[Any]]) -> None:
        live = [element for element in elements if element.outcome is None]
        for element in live:
            element.pending_results = _PENDING
        mark_entered(live, self._scope.loop.time())
        self._line.extend(elements)
        self._open += len(elements)
        self._queue.submit(live)
        self._advance()

    def on_answers(self, elements: Sequence[Element[Any]], answers: Sequence[Any]) -> None:
        for element, answer in zip(elements, answers, strict=True):
            element.pending_results = None
            if type(answer) is CallFailed:
                element.fail(self._name, answer.error, answer.attempts)
            else:
                element.value = answer
        record_durations(self._meter, elements, self._scope.loop.time())
        self._advance()
        self._complete()

    def _advance(self) -> None:
        line = self._line
        ready: list[Element[Any]] = []
        while line and line[0].pending_results is None:
            ready.append(line.popleft())
        if ready:
            self._open -= len(ready)
            self._scope.emit(self._observer, ready)
