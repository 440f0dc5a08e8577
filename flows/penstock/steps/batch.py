"""Call a service once for many values."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeGuard

from msgspec import Struct

from penstock.core.context import RunContext
from penstock.core.deadlines import ExpiryTimer
from penstock.core.element import NEVER, Element, Operator
from penstock.core.operators import Downstream, async_operator, mark_entered, record_durations
from penstock.errors import InvalidCallResult
from penstock.services import CallFailed, Service
from penstock.steps.step import (
    MemoryUse,
    Step,
    as_service,
    check_count,
    check_seconds,
    response_memory,
    set_option,
)
from penstock.support.text import format_duration


@dataclass(frozen=True)
class Batch(Step):
    """Collect values, call a service once for all of them, and replace each by its own response.

    The service, or function, takes a list of values and returns a list of the same length, in the same order; an
    exception in it fails its element alone. A call that fails for good fails all its elements. The call is made when
    `size` elements are there, or the first has waited for `max_wait` seconds.

    **Accepts** elements. **Backpressures when** the service makes `max_in_flight` calls: further elements wait, within
    the window. **Emits** each element with its own response. **Completes when** its input completes and every response
    is there.

    >>> step = Batch(Service("prices", prices_of, timeout=2), size=50, max_wait=0.02)
    """

    service: Service
    size: int = field(kw_only=True)
    max_wait: float = field(kw_only=True)

    kind = "batch"

    def __post_init__(self) -> None:
        set_option(self, "service", as_service(self.service, self.name, default="batch", batch=True))
        check_count("size", self.size)
        check_seconds("max_wait", self.max_wait)
        super().__post_init__()

    def operator(self) -> Operator[Any, Any]:
        return async_operator(self.name, partial(BatchStage, self.name, self.service, self.size, self.max_wait))

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
        return (f"size {self.size}, max wait {format_duration(self.max_wait)}",)


class BatchCall(Struct, eq=False):
    """Elements that one call is made for."""

    elements: list[Element[Any]]
    value: list[Any]

    @classmethod
    def of(cls, elements: list[Element[Any]]) -> BatchCall:
        """Return the call for some elements."""
        return cls(elements, [element.value for element in elements])

    @property
    def deadline(self) -> float:
        """The latest deadline of the elements."""
        return max(element.deadline for element in self.elements)


def split(batch: BatchCall, now: float) -> tuple[BatchCall | None, float]:
    """Remove the elements whose deadlines have passed from a batch, if not all have; see `Split`."""
    live = [element for element in batch.elements if element.deadline > now]
    expired = [element for element in batch.elements if element.deadline <= now] if live else []
    if expired:
        rest = BatchCall.of(live)
        batch.elements, batch.value = rest.elements, rest.value
    earliest = min(element.deadline for element in batch.elements)
    return (BatchCall.of(expired) if expired else None), earliest


class BatchStage:
    """Collects the elements of one run into batches."""

    def __init__(
        self,
        name: str,
        service: Service,
        size: int,
        max_wait: float,
        observer: Downstream,
        context: RunContext,
    ) -> None:
        self._name = name
        self._size = size
        self._max_wait = max_wait
        self._observer = observer
        self._context = context
        self._histogram = context.histogram(name)
        self._pending: list[Element[Any]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._open = 0
        self._ended = False
        self._queue = service.open_queue(self.on_results, context.report_fault)
        self._queue.watch_deadlines(context.deadlines, split)
        self._expiry = ExpiryTimer(context.loop, self._expire_pending)
        context.on_close(self._close)
        context.watch_queue(self._queue)

    def on_next(self, elements: list[Element[Any]]) -> None:
        """Collect elements; forward elements that have an outcome already."""
        live = [element for element in elements if element.outcome is None]
        mark_entered(live, self._context.loop.time())
        self._open += len(live)
        self._pending += live
        if len(live) < len(elements):
            self._observer.on_next([element for element in elements if element.outcome is not None])
        while len(self._pending) >= self._size:
            self._call()
        if self._pending and self._timer is None:
            self._timer = self._context.loop.call_later(self._max_wait, self._call)
        if self._pending and self._context.deadlines is not None:
            self._expiry.watch(min(element.deadline for element in self._pending))

    def on_results(self, batches: Sequence[BatchCall], responses: Sequence[Any]) -> None:
        """Replace each value by its own response."""
        for batch, response in zip(batches, responses, strict=True):
            elements = batch.elements
            if type(response) is CallFailed:
                for element in elements:
                    element.fail(self._name, response.error, response.attempts)
            elif not _is_list(response) or len(response) != len(elements):
                error = InvalidCallResult(
                    f"{self._name}: expected a list of {len(elements)} responses, one for each value"
                )
                for element in elements:
                    element.fail(self._name, error)
            else:
                self._assign(elements, response)
            self._open -= len(elements)
            record_durations(self._histogram, elements, self._context.loop.time())
            self._context.emit(self._observer, elements)
        self._complete()

    def on_completed(self) -> None:
        """Call the service for the rest: no further element will come."""
        self._ended = True
        if self._pending:
            self._call()
        self._complete()

    def _assign(self, elements: list[Element[Any]], responses: Sequence[Any]) -> None:
        for element, response in zip(elements, responses, strict=True):
            if isinstance(response, BaseException):
                element.fail(self._name, response)
            else:
                element.value = response

    def _call(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        elements, self._pending = self._pending[: self._size], self._pending[self._size :]
        self._queue.submit((BatchCall.of(elements),))

    def _expire_pending(self, now: float) -> float:
        """Fail elements whose deadlines pass before their batch is called. Return when to check again."""
        expired = [element for element in self._pending if element.deadline <= now]
        if expired:
            self._pending = [element for element in self._pending if element.deadline > now]
            if not self._pending and self._timer is not None:
                self._timer.cancel()
                self._timer = None
            batch = BatchCall.of(expired)
            self.on_results((batch,), (CallFailed(self._queue.deadline_exceeded(batch), 0),))
        return min((element.deadline for element in self._pending), default=NEVER)

    def _complete(self) -> None:
        if self._ended and not self._open:
            self._observer.on_completed()

    def _close(self) -> list[asyncio.Future[Any]]:
        if self._timer is not None:
            self._timer.cancel()
        self._expiry.stop()
        return self._queue.close()


def _is_list(response: Any) -> TypeGuard[list[Any]]:
    return isinstance(response, list)
