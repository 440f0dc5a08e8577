"""Reorder results into the order of the input."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

from penstock.core.element import Element, Path, path_of


class Resequencer:
    """Holds elements until all earlier ones have passed. Never holds more than the window.

    Receives every element of the run exactly once, including filtered ones, and an element with parts through its
    parts. Parts take the position of their element. `first_seq` is the first sequence number.
    """

    def __init__(self, forward: Callable[[list[Element[Any]]], None], first_seq: int = 0) -> None:
        self._forward = forward
        self._first_seq = first_seq
        self._waiting: list[tuple[Path, Element[Any]]] = []
        self._last: tuple[Path, Element[Any]] | None = None

    def __call__(self, elements: list[Element[Any]]) -> None:
        """Accept elements in any order and forward those that are next."""
        for element in elements:
            heappush(self._waiting, (path_of(element), element))
        ready: list[Element[Any]] = []
        while self._waiting and self._is_next(self._waiting[0][0]):
            self._last = heappop(self._waiting)
            ready.append(self._last[1])
        if ready:
            self._forward(ready)

    def _is_next(self, path: Path) -> bool:
        """Return whether no element can come between the last one that passed and the one at `path`."""
        if self._last is None:
            return path[0] == self._first_seq and not any(path[1:])
        passed, element = self._last
        common = 0
        while passed[common] == path[common]:
            common += 1
        if path[common] != passed[common] + 1 or any(path[common + 1 :]):
            return False
        for _ in passed[common + 1 :]:  # at each deeper level, the passed element must be the last part
            parent = element.parent
            if parent is None or parent.parts is None or not parent.parts.ends_with(element):
                return False
            element = parent
        return True
