"""The last step before a sink of bytes: each value as the line that tells of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from penstock.element import OK, Element, Step
from penstock.errors import Unencodable, describe
from penstock.operators.each import each


def encode(
    write: Callable[[Element[Any]], bytes],
    write_all: Callable[[list[Element[Any]]], bytes] | None = None,
    *,
    name: str = "encode",
) -> Step[Any, bytes]:
    """Replace each value by the bytes that `write` makes of its element.

    It is a step, and not the sink's affair, so that a value which cannot be written fails like any other element.

    With `write_all`, which writes several in one go for less, the first of the elements that travel together gets the
    bytes of all of them and the others none. That is for sinks which write them in the order in which they come.

    **Takes in** elements. **Holds back** never. **Gives out** each element with its bytes; one that cannot be written,
    such as one with a NaN in it, goes on as failed: `Unencodable`. **Ends** when its input does.
    """

    def one_by_one(elements: list[Element[Any]]) -> None:
        for element in elements:
            try:
                element.value = write(element)
            except Exception as error:
                refusal = Unencodable(f"the value cannot be written as JSON: {describe(error)}")
                refusal.__cause__ = error
                element.fail(name, refusal)

    def work(elements: list[Element[Any]]) -> None:
        live = [element for element in elements if element.outcome is None or element.outcome is OK]
        if write_all is None or not live:
            one_by_one(live)
            return
        try:
            written = write_all(live)
        except Exception:  # one of them cannot be written; which one, the slow way finds out
            one_by_one(live)
            return
        for element in live:
            element.value = b""
        live[0].value = written

    return each(name, work)
