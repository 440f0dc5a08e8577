"""The last step before a sink of bytes: each value as the line that tells of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from penstock.element import Element, Step
from penstock.errors import Unencodable, describe
from penstock.operators.each import each


def encode(write: Callable[[Element[Any]], bytes], *, name: str = "encode") -> Step[Any, bytes]:
    """Replace each value by the bytes that `write` makes of its element.

    It is a step, and not the sink's affair, so that a value which cannot be written fails like any other element.

    **Takes in** elements. **Holds back** never. **Gives out** each element with its bytes; one that cannot be written
    goes on as failed: `Unencodable`. **Ends** when its input does.
    """

    def work(elements: list[Element[Any]]) -> None:
        for element in elements:
            if element.outcome is None:
                try:
                    element.value = write(element)
                except Exception as error:
                    refusal = Unencodable(f"the value cannot be written as JSON: {describe(error)}")
                    refusal.__cause__ = error
                    element.fail(name, refusal)

    return each(name, work)
