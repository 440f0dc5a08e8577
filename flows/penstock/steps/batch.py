"""One call for many values, for services that answer for many at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeGuard, TypeVar

from msgspec import Struct

from penstock.core.context import RunContext
from penstock.core.element import Element, Operator
from penstock.core.operators import Downstream, as_service, async_operator, mark_entered, record_durations
from penstock.errors import InvalidCallResult
from penstock.services import MAX_IN_FLIGHT, CallFailed, Service

A = TypeVar("A")


def batch(
    call: Callable[[list[A]], Any] | Service,
    *,
    size: int,
    max_wait: float,
    max_in_flight: int = MAX_IN_FLIGHT,
    timeout: float = 30.0,
    attempts: int = 1,
    name: str | None = None,
) -> Operator[A, Any]:
    """Gather values, ask once for all of them, and give each its own answer.

    `call` is a coroutine function or a `Service` that takes a list of values and answers with a list of the same
    length, in the same order; an answer that is an exception fails its element alone. A call that fails for good
    fails all elements it was made for.

    **Takes in** elements; calls when `size` are together or the first has waited `max_wait`. **Holds back** calls
    beyond `max_in_flight`; their elements wait, within the window. **Gives out** each element with its own answer.
    **Ends** when its input has and every answer is there.

    >>> step = batch(prices_of, size=50, max_wait=0.02, timeout=2)
    """
    if size < 1 or size % 1 or not max_wait > 0:
        raise ValueError(
            f"batch needs a size, a whole number of at least 1, and max_wait above 0, got {size!r} and {max_wait!r}"
        )
    service = as_service(call, name, step="batch", max_in_flight=max_in_flight, timeout=timeout, attempts=attempts)
    title = name or service.name
    return async_operator(title, partial(BatchStage, title, service, size, max_wait))


class PendingBatch(Struct, eq=False):
    """Elements that one call is made for."""

    elements: list[Element[Any]]
    value: list[Any]


class BatchStage:
    """The groups of one run."""

    def __init__(
        self,
        name: str,
        service: Service,
        size: int,
        max_wait: float,
        observer: Downstream,
        scope: RunContext,
    ) -> None:
        self._name = name
        self._size = size
        self._max_wait = max_wait
        self._observer = observer
        self._scope = scope
        self._meter = scope.histogram(name)
        self._gathered: list[Element[Any]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._open = 0
        self._ended = False
        self._queue = service.open_queue(self.on_answers, scope.report_fault)
        scope.on_close(self._close)

    def on_next(self, elements: list[Element[Any]]) -> None:
        """Gather elements; those that were decided before pass."""
        live = [element for element in elements if element.outcome is None]
        mark_entered(live, self._scope.loop.time())
        self._open += len(live)
        self._gathered += live
        if len(live) < len(elements):
            self._observer.on_next([element for element in elements if element.outcome is not None])
        while len(self._gathered) >= self._size:
            self._call()
        if self._gathered and self._timer is None:
            self._timer = self._scope.loop.call_later(self._max_wait, self._call)

    def on_answers(self, groups: Sequence[PendingBatch], answers: Sequence[Any]) -> None:
        """Give each element its own answer."""
        for group, answer in zip(groups, answers, strict=True):
            elements = group.elements
            if type(answer) is CallFailed:
                for element in elements:
                    element.fail(self._name, answer.error, answer.attempts)
            elif not _is_list(answer) or len(answer) != len(elements):
                wrong = InvalidCallResult(
                    f"{self._name} has to answer with a list of {len(elements)}, one for each value"
                )
                for element in elements:
                    element.fail(self._name, wrong)
            else:
                self._assign(elements, answer)
            self._open -= len(elements)
            record_durations(self._meter, elements, self._scope.loop.time())
            self._scope.emit(self._observer, elements)
        self._complete()

    def on_completed(self) -> None:
        """No further element will come; what is gathered is not to wait for more."""
        self._ended = True
        if self._gathered:
            self._call()
        self._complete()

    def _assign(self, elements: list[Element[Any]], answers: Sequence[Any]) -> None:
        for element, answer in zip(elements, answers, strict=True):
            if isinstance(answer, BaseException):
                element.fail(self._name, answer)
            else:
                element.value = answer

    def _call(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        elements, self._gathered = self._gathered[: self._size], self._gathered[self._size :]
        self._queue.submit((PendingBatch(elements, [element.value for element in elements]),))

    def _complete(self) -> None:
        if self._ended and not self._open:
            self._observer.on_completed()

    def _close(self) -> list[asyncio.Future[Any]]:
        if self._timer is not None:
            self._timer.cancel()
        return self._queue.close()


def _is_list(answer: Any) -> TypeGuard[list[Any]]:
    return isinstance(answer, list)
