"""Calls at a rate: each gets its own moment, no nearer to the one before than the rate allows."""

from __future__ import annotations


class Spacing:
    """Hands out moments, `rate` of them a second. After a pause the first one is now, and there is no burst."""

    __slots__ = ("_between", "_next")

    def __init__(self, rate: float) -> None:
        self._between = 1.0 / rate
        self.forget()

    def forget(self) -> None:
        """Begin anew: another clock counts from another moment."""
        self._next = float("-inf")

    def reserve(self, now: float) -> float:
        """Take the next moment; returns the seconds until then."""
        moment = max(now, self._next)
        self._next = moment + self._between
        return moment - now
