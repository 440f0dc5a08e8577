"""One value for one value."""

from __future__ import annotations

from collections.abc import Callable
from inspect import iscoroutine
from typing import Any, TypeVar

from penstock.core.element import FILTERED, Element, Operator
from penstock.core.operators import ERRORS, callable_name, sync_operator
from penstock.support.tasks import reject_awaitable

A = TypeVar("A")
B = TypeVar("B")


def map(function: Callable[[A], B], *, name: str | None = None) -> Operator[A, B]:
    """Replace each value by what a plain, quick function makes of it.

    **Takes in** elements. **Holds back** never. **Gives out** each element with its new value; an element whose
    function raised goes on as failed. **Ends** when its input does.

    >>> step = map(lambda order: order | {"total": order["quantity"] * order["price"]}, name="total")
    """
    name = name or callable_name(function, "map")

    def work(elements: list[Element[Any]]) -> None:
        for element in elements:
            if element.outcome is None:
                try:
                    value = function(element.value)
                    if iscoroutine(value):
                        reject_awaitable(value, "the function")
                    element.value = value
                except ERRORS as error:
                    element.fail(name, error)

    return sync_operator(name, work)


def filter(predicate: Callable[[A], object], *, name: str | None = None) -> Operator[A, A]:
    """Let through the values for which a plain, quick predicate is true.

    **Takes in** elements. **Holds back** never. **Gives out** each element; one that the predicate does not want
    is settled as `filtered` at the end of the flow, one for which it raised goes on as failed. **Ends** when its input
    does.

    >>> step = filter(lambda order: order["quantity"] > 0, name="not empty")
    """
    name = name or callable_name(predicate, "filter")

    def work(elements: list[Element[Any]]) -> None:
        for element in elements:
            if element.outcome is None:
                try:
                    verdict = predicate(element.value)
                    if not verdict:
                        element.outcome = FILTERED
                    elif verdict is not True:
                        reject_awaitable(verdict, "the predicate")
                except ERRORS as error:
                    element.fail(name, error)

    return sync_operator(name, work)


def tap(look: Callable[[A], object], *, name: str | None = None) -> Operator[A, A]:
    """Call a plain, quick function with each value and let the value go on unchanged.

    **Takes in** elements. **Holds back** never. **Gives out** the same elements; one for which the function raised
    goes on as failed. **Ends** when its input does.

    >>> step = tap(print)
    """
    name = name or callable_name(look, "tap")

    def work(elements: list[Element[Any]]) -> None:
        for element in elements:
            if element.outcome is None:
                try:
                    if (said := look(element.value)) is not None:
                        reject_awaitable(said, "the function")
                except ERRORS as error:
                    element.fail(name, error)

    return sync_operator(name, work)
