"""Results, put back in the order of the input."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

from penstock.core.element import Element, Path, path_of


class Resequencer:
    """Holds elements until all that came before them have passed; never more than the window holds.

    It has to be shown every element of the run exactly once, the filtered ones included, and an element that was parted
    before through its parts. Parts stand in the place of their element. `first` is the seq that it begins with.
    """

    def __init__(self, pass_on: Callable[[list[Element[Any]]], None], first: int = 0) -> None:
        self._pass_on = pass_on
        self._first = first
        self._waiting: list[tuple[Path, Element[Any]]] = []
        self._last: tuple[Path, Element[Any]] | None = None

    def __call__(self, elements: list[Element[Any]]) -> None:
        """Take elements in any order and pass on those whose turn it is."""
        for element in elements:
            heappush(self._waiting, (path_of(element), element))
        ready: list[Element[Any]] = []
        while self._waiting and self._is_next(self._waiting[0][0]):
            self._last = heappop(self._waiting)
            ready.append(self._last[1])
        if ready:
            self._pass_on(ready)

    def _is_next(self, path: Path) -> bool:
        """Whether nothing can come between the last element that passed and the one at `path`."""
        if self._last is None:
            return path[0] == self._first and not any(path[1:])
        passed, element = self._last
        common = 0
        while passed[common] == path[common]:
            common += 1
        if path[common] != passed[common] + 1 or any(path[common + 1 :]):
            return False
        for _ in passed[common + 1 :]:  # further down, what passed has to be the last of its kind
            parent = element.parent
            if parent is None or parent.family is None or not parent.family.ends_with(element):
                return False
            element = parent
        return True
