"""Back in the order of the input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from penstock.element import Element


class Sequencer:
    """Holds elements until all that came before them have passed; never more than the window holds.

    It has to be shown every element of the run exactly once at the end of its way, the filtered ones included, and an
    element that was parted through its parts.
    """

    def __init__(self, pass_on: Callable[[list[Element[Any]]], None]) -> None:
        self._pass_on = pass_on
        self._next = 0
        self._waiting: dict[int, list[Element[Any]]] = {}
        self._passed = 0

    def __call__(self, elements: list[Element[Any]]) -> None:
        """Take elements in any order and pass on those whose turn it is."""
        for element in elements:
            self._waiting.setdefault(element.seq, []).append(element)
        ready: list[Element[Any]] = []
        while (arrived := self._waiting.pop(self._next, None)) is not None:
            ready += sorted(arrived, key=lambda element: element.part or 0)
            self._passed += len(arrived)
            if not self._is_last(arrived[-1].root):
                break
            self._next += 1
            self._passed = 0
        if ready:
            self._pass_on(ready)

    def _is_last(self, root: Element[Any]) -> bool:
        """Whether all of an element has passed."""
        family = root.family
        return family is None or (not family.unfinished and self._passed >= family.leaves)
