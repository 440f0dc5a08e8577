"""A look at each value in passing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from penstock.awaitables import refuse_awaitable
from penstock.element import Element, Step
from penstock.operators.each import ERRORS, each, name_of

A = TypeVar("A")


def tap(look: Callable[[A], object], *, name: str | None = None) -> Step[A, A]:
    """Call a plain, quick function with each value and let the value go on unchanged.

    **Takes in** elements. **Holds back** never. **Gives out** the same elements; one for which the function raised
    goes on as failed. **Ends** when its input does.

    >>> step = tap(print)
    """
    name = name or name_of(look, "tap")

    def work(elements: list[Element[Any]]) -> None:
        for element in elements:
            if element.outcome is None:
                try:
                    if (said := look(element.value)) is not None:
                        refuse_awaitable(said, "the function")
                except ERRORS as error:
                    element.fail(name, error)

    return each(name, work)
