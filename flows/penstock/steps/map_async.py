"""Call a service for each value, many at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from penstock.core.context import RunContext
from penstock.core.element import Element, Operator
from penstock.core.operators import Downstream, async_operator, mark_entered, record_durations
from penstock.services import CallFailed, Service
from penstock.steps.step import MemoryUse, Step, as_service, response_memory, set_option

_PENDING: list[Any] = []
"""Marks an element whose response is not there yet."""


@dataclass(frozen=True)
class MapAsync(Step):
    """Replace each value by the response of a service, or of a coroutine function.

    A function becomes a service with the default limits. With `ordered`, elements continue in the order in which they
    came.

    **Accepts** elements. **Backpressures when** the service makes `max_in_flight` calls: further elements wait, within
    the window. **Emits** each element with its response, at once or in order; one whose call failed for good as failed.
    **Completes when** its input completes and every response is there.

    >>> step = MapAsync(Service("lookup", lookup, max_in_flight=32, timeout=2, attempts=3))
    """

    service: Service
    ordered: bool = field(default=False, kw_only=True)

    kind = "map_async"

    def __post_init__(self) -> None:
        set_option(self, "service", as_service(self.service, self.name, default="map_async"))
        super().__post_init__()

    def operator(self) -> Operator[Any, Any]:
        stage = OrderedCalls if self.ordered else UnorderedCalls
        return async_operator(self.name, partial(stage, self.name, self.service))

    @property
    def default_name(self) -> str:
        return self.service.name

    @property
    def services(self) -> Mapping[str, Service]:
        return {self.service.name: self.service}

    def with_services(self, others: Mapping[str, Service]) -> Step:
        return replace(self, service=others.get(self.service.name, self.service))

    def memory_bound(self, held: int) -> MemoryUse | None:
        return response_memory(self, held)

    def summary(self) -> tuple[str, ...]:
        return ("in order",) if self.ordered else ()


class UnorderedCalls:
    """Makes the calls of one run. Elements continue as their responses arrive."""

    def __init__(self, name: str, service: Service, observer: Downstream, context: RunContext) -> None:
        self._name = name
        self._observer = observer
        self._context = context
        self._histogram = context.histogram(name)
        self._open = 0
        self._ended = False
        self._queue = service.open_queue(self.on_results, context.report_fault)
        self._queue.watch_deadlines(context.deadlines)
        context.on_close(self._queue.close)
        context.watch_queue(self._queue)

    def on_next(self, elements: list[Element[Any]]) -> None:
        """Submit the calls; forward elements that have an outcome already."""
        live = [element for element in elements if element.outcome is None]
        mark_entered(live, self._context.loop.time())
        self._open += len(live)
        if len(live) < len(elements):
            self._observer.on_next([element for element in elements if element.outcome is not None])
        self._queue.submit(live)

    def on_results(self, elements: Sequence[Element[Any]], responses: Sequence[Any]) -> None:
        """Forward the elements with their responses."""
        for element, response in zip(elements, responses, strict=True):
            if type(response) is CallFailed:
                element.fail(self._name, response.error, response.attempts)
            else:
                element.value = response
        self._open -= len(elements)
        record_durations(self._histogram, elements, self._context.loop.time())
        self._context.emit(self._observer, list(elements))
        self._complete()

    def on_completed(self) -> None:
        """Complete when all responses are there."""
        self._ended = True
        self._complete()

    def _complete(self) -> None:
        if self._ended and not self._open:
            self._observer.on_completed()


class OrderedCalls(UnorderedCalls):
    """Makes the calls of one run. An element waits for those that came before it."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._line: deque[Element[Any]] = deque()

    def on_next(self, elements: list[Element[Any]]) -> None:
        live = [element for element in elements if element.outcome is None]
        for element in live:
            element.pending_results = _PENDING
        mark_entered(live, self._context.loop.time())
        self._line.extend(elements)
        self._open += len(elements)
        self._queue.submit(live)
        self._advance()

    def on_results(self, elements: Sequence[Element[Any]], responses: Sequence[Any]) -> None:
        for element, response in zip(elements, responses, strict=True):
            element.pending_results = None
            if type(response) is CallFailed:
                element.fail(self._name, response.error, response.attempts)
            else:
                element.value = response
        record_durations(self._histogram, elements, self._context.loop.time())
        self._advance()
        self._complete()

    def _advance(self) -> None:
        line = self._line
        ready: list[Element[Any]] = []
        while line and line[0].pending_results is None:
            ready.append(line.popleft())
        if ready:
            self._open -= len(ready)
            self._context.emit(self._observer, ready)
