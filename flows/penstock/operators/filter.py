"""Some values go on, the others are done."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from penstock.awaitables import refuse_awaitable
from penstock.element import FILTERED, Element, Step
from penstock.operators.each import ERRORS, each, name_of

A = TypeVar("A")


def filter(predicate: Callable[[A], object], *, name: str | None = None) -> Step[A, A]:
    """Let through the values for which a plain, quick predicate is true.

    **Takes in** elements. **Holds back** never. **Gives out** each element; one that the predicate does not want
    is settled as `filtered` at the end of the flow, one for which it raised goes on as failed. **Ends** when its input
    does.

    >>> step = filter(lambda order: order["quantity"] > 0, name="not empty")
    """
    name = name or name_of(predicate, "filter")

    def work(elements: list[Element[Any]]) -> None:
        for element in elements:
            if element.outcome is None:
                try:
                    verdict = predicate(element.value)
                    if not verdict:
                        element.outcome = FILTERED
                    elif verdict is not True:
                        refuse_awaitable(verdict, "the predicate")
                except ERRORS as error:
                    element.fail(name, error)

    return each(name, work)
