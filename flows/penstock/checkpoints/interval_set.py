"""A set of integers >= 0, stored as ranges. The finished elements of a run have no more gaps than its window."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator

Range = tuple[int, int]
"""A range of integers: its start, and its end, which it does not contain."""


class IntervalSet:
    """A set of integers whose memory grows with the number of its gaps.

    >>> numbers = IntervalSet([(0, 5)])
    >>> numbers.add(6)
    >>> numbers.first_missing, list(numbers)
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
        index = bisect_right(self._starts, number)
        return index > 0 and number < self._stops[index - 1]

    def __len__(self) -> int:
        return sum(self._stops) - sum(self._starts)

    @property
    def first_missing(self) -> int:
        """The smallest integer that is not in the set."""
        return self._stops[0] if self._starts and self._starts[0] == 0 else 0

    def add(self, number: int) -> None:
        """Add an integer."""
        starts, stops = self._starts, self._stops
        index = bisect_right(starts, number)
        if index and number < stops[index - 1]:
            return
        joins_before = index > 0 and stops[index - 1] == number
        joins_after = index < len(starts) and starts[index] == number + 1
        if joins_before and joins_after:
            stops[index - 1] = stops.pop(index)
            del starts[index]
        elif joins_before:
            stops[index - 1] = number + 1
        elif joins_after:
            starts[index] = number
        else:
            starts.insert(index, number)
            stops.insert(index, number + 1)

    def missing(self, start: int, stop: int) -> Iterator[Range]:
        """Yield the ranges between two integers that are not in the set, in order."""
        index = bisect_right(self._starts, start)
        if index and start < self._stops[index - 1]:
            start = self._stops[index - 1]
        while start < stop:
            following = self._starts[index] if index < len(self._starts) else stop
            yield start, min(stop, following)
            if following >= stop:
                return
            start = self._stops[index]
            index += 1
