"""One value for one value."""

from __future__ import annotations

from collections.abc import Callable
from inspect import iscoroutine
from typing import Any, TypeVar

from penstock.awaitables import refuse_awaitable
from penstock.element import Element, Step
from penstock.operators.each import ERRORS, each, name_of

A = TypeVar("A")
B = TypeVar("B")


def map(function: Callable[[A], B], *, name: str | None = None) -> Step[A, B]:
    """Replace each value by what a plain, quick function makes of it.

    **Takes in** elements. **Holds back** never. **Gives out** each element with its new value; an element whose
    function raised goes on as failed. **Ends** when its input does.

    >>> step = map(lambda order: order | {"total": order["quantity"] * order["price"]}, name="total")
    """
    name = name or name_of(function, "map")

    def work(elements: list[Element[Any]]) -> None:
        for element in elements:
            if element.outcome is None:
                try:
                    value = function(element.value)
                    if iscoroutine(value):
                        refuse_awaitable(value, "the function")
                    element.value = value
                except ERRORS as error:
                    element.fail(name, error)

    return each(name, work)
