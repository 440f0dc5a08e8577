"""Whole numbers from 0 on, kept as ranges: what a run is through with has no more holes than its window."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator

Range = tuple[int, int]
"""From a number up to another, which is not in it."""


class IntervalSet:
    """A set of whole numbers, whose memory grows with its holes and not with its numbers.

    >>> numbers = Ranges([(0, 5)])
    >>> numbers.add(6)
    >>> numbers.low, list(numbers)
    (5, [(0, 5), (6, 7)])
    """

    def __init__(self, ranges: Iterable[Range] = ()) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []
        for start, stop in ranges:
            self._starts.append(start)
            self._stops.append(stop)

    def __iter__(self) -> Iterator[Range]:
        return zip(self._starts, self._stops, strict=True)

    def __contains__(self, number: int) -> bool:
        place = bisect_right(self._starts, number)
        return place > 0 and number < self._stops[place - 1]

    def __len__(self) -> int:
        return sum(self._stops) - sum(self._starts)

    @property
    def low(self) -> int:
        """The smallest number that is not in it."""
        return self._stops[0] if self._starts and self._starts[0] == 0 else 0

    def add(self, number: int) -> None:
        """Put a number in."""
        starts, stops = self._starts, self._stops
        place = bisect_right(starts, number)
        if place and number < stops[place - 1]:
            return
        joins_before = place > 0 and stops[place - 1] == number
        joins_after = place < len(starts) and starts[place] == number + 1
        if joins_before and joins_after:
            stops[place - 1] = stops.pop(place)
            del starts[place]
        elif joins_before:
            stops[place - 1] = number + 1
        elif joins_after:
            starts[place] = number
        else:
            starts.insert(place, number)
            stops.insert(place, number + 1)

    def missing(self, start: int, stop: int) -> Iterator[Range]:
        """What is not in it, from a number up to another, as ranges in their order."""
        place = bisect_right(self._starts, start)
        if place and start < self._stops[place - 1]:
            start = self._stops[place - 1]
        while start < stop:
            following = self._starts[place] if place < len(self._starts) else stop
            yield start, min(stop, following)
            if following >= stop:
                return
            start = self._stops[place]
            place += 1
