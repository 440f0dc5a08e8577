"""Count the open runs of clients: in this process, or in all processes of a service."""

from __future__ import annotations

from collections import Counter
from typing import Protocol


class RunSlots(Protocol):
    """Slots by name. Each name has its own limit."""

    def take(self, name: str, limit: int) -> bool:
        """Take a slot, unless `limit` of them are taken. Returns whether it did."""
        ...

    def give_back(self, name: str) -> None:
        """Give a slot back. In the same iteration of the event loop, only this process can take it again."""
        ...

    def taken(self, name: str) -> int:
        """Return how many slots are taken."""
        ...


class LocalSlots:
    """The slots of a service with one process."""

    def __init__(self) -> None:
        self._taken = Counter[str]()

    def take(self, name: str, limit: int) -> bool:
        """Take a slot, unless `limit` of them are taken. Returns whether it did."""
        if self._taken[name] >= limit:
            return False
        self._taken[name] += 1
        return True

    def give_back(self, name: str) -> None:
        """Give a slot back."""
        self._taken[name] -= 1
        if not self._taken[name]:
            del self._taken[name]

    def taken(self, name: str) -> int:
        """Return how many slots are taken."""
        return self._taken[name]
