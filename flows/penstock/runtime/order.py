"""The order of results, and the step that keeps elements with the same key in order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable
from enum import StrEnum
from typing import Any, Literal, TypeAlias

from penstock.core.context import RunContext
from penstock.core.element import Element, Operator, Outcome
from penstock.core.operators import Downstream, async_operator
from penstock.errors import FlowDefinitionError
from penstock.support.json_encoding import encode_json


class Order(StrEnum):
    """In which order elements are processed and reported."""

    COMPLETION = "completion"
    """Each result as soon as it is ready."""
    INPUT = "input"
    """Results in input order."""
    KEY = "key"
    """Elements with the same key one after the other, in input order; each result as soon as it is ready."""


OrderWord: TypeAlias = Order | Literal["completion", "input", "key"]
Ordered: TypeAlias = bool | OrderWord | None
"""An order; True stands for `input`, False for `completion`, None for that of the flow."""


def order_of(ordered: Ordered, default: Order = Order.COMPLETION) -> Order:
    """Return the order that is meant. Raises `ValueError` for an unknown word."""
    if ordered is None:
        return default
    if isinstance(ordered, bool):
        return Order.INPUT if ordered else Order.COMPLETION
    try:
        return Order(ordered)
    except ValueError:
        raise ValueError(f"order: expected {', '.join(Order)}, got {ordered!r}") from None


def check_key(flow: str, order: Order, key: str | None) -> None:
    """Raise `FlowDefinitionError` for a flow that is ordered by its key and has none."""
    if order is Order.KEY and key is None:
        raise FlowDefinitionError(
            f'flow {flow}: order: "key" needs the field that identifies an item; set "key" to its name'
        )


def one_by_one_of_key() -> Operator[Any, Any]:
    """Let an element wait while an earlier one with its key is not settled.

    An earlier one that failed or was filtered is settled too; one that was divided into parts is settled with its last
    part. Elements without a key do not wait.

    **Accepts** elements. **Backpressures when** never: waiting elements keep their credits, so the window bounds
    them. **Emits** the elements, those with the same key in input order. **Completes when** its input has and no
    element waits.
    """
    return async_operator("order", KeyQueues)


class KeyQueues:
    """The elements of one run that wait for an earlier one with their key."""

    def __init__(self, observer: Downstream, context: RunContext) -> None:
        self._observer = observer
        self._context = context
        self._queues: dict[Hashable, deque[Element[Any]]] = {}
        """For the key of each element that has passed and is not settled: the elements that wait for it."""
        self._keys: dict[int, Hashable] = {}
        """The keys of the elements that have passed and are not settled, by their sequence number."""
        self._waiting = 0
        self._ready: list[Element[Any]] = []
        """Elements that are emitted at the end of this iteration of the event loop.

        Not at once: the earlier element may be settled within `on_next`, and the recursion would have no limit.
        """
        self._timer: asyncio.Handle | None = None
        self._ended = False
        context.ledger.watch(self._on_settled)
        context.on_close(self._close)

    def on_next(self, elements: list[Element[Any]]) -> None:
        """Forward the elements whose key no other element has; the others wait."""
        passing = [element for element in elements if element.key is None or self._enter(element)]
        if passing:
            self._observer.on_next(passing)

    def on_completed(self) -> None:
        """Complete when no element waits."""
        self._ended = True
        if not self._waiting:
            self._observer.on_completed()

    def _enter(self, element: Element[Any]) -> bool:
        """Return whether an element passes. If not, it waits."""
        key = _identity(element.key)
        if (queue := self._queues.get(key)) is not None:
            queue.append(element)
            self._waiting += 1
            return False
        self._queues[key] = deque()
        self._keys[element.seq] = key
        return True

    def _on_settled(self, element: Element[Any], _: Outcome) -> None:
        if element.parent is not None or (key := self._keys.pop(element.seq, None)) is None:
            return
        queue = self._queues[key]
        if not queue:
            del self._queues[key]
            return
        following = queue.popleft()
        self._keys[following.seq] = key
        self._ready.append(following)
        if self._timer is None:
            self._timer = self._context.loop.call_soon(self._emit_ready)

    def _emit_ready(self) -> None:
        self._timer = None
        elements, self._ready = self._ready, []
        self._waiting -= len(elements)
        if self._context.emit(self._observer, elements) and self._ended and not self._waiting:
            self._context.complete(self._observer)

    def _close(self) -> list[asyncio.Future[Any]]:
        if self._timer is not None:
            self._timer.cancel()
        self._queues.clear()
        self._keys.clear()
        self._ready.clear()
        return []


def _identity(key: Any) -> Hashable:
    """Return what stands for a key in a dict: numbers and texts themselves, all others as JSON."""
    return key if isinstance(key, str | int | float) else encode_json(key)
