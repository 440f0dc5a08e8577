"""Count the open runs of clients in all processes of a service: `max_runs`."""

from __future__ import annotations

import asyncio
from collections import Counter

from penstock_http.processes.shared_limits import LimitsUnavailable, SharedLimits


class SharedSlots:
    """The slots of a service with several processes; see `RunSlots`. They are counted exactly, in the shared table.

    While the table cannot be used, each process takes its part of each limit.
    """

    def __init__(self, limits: SharedLimits) -> None:
        self._limits = limits
        self._own = Counter[str]()
        """Slots that this process has taken."""
        self._uncounted = Counter[str]()
        """Those of them that are not in the table, which could not be used."""
        self._returning = Counter[str]()
        """Slots that were given back and are still in the table, until the end of this iteration of the event loop."""

    def take(self, name: str, limit: int) -> bool:
        """Take a slot, unless `limit` of them are taken by all processes. Returns whether it did."""
        if self._returning[name]:
            self._returning[name] -= 1
        else:
            try:
                if not self._limits.take(_column(name), limit):
                    return False
            except LimitsUnavailable:
                if self._own[name] >= max(1, limit // self._limits.processes):
                    return False
                self._uncounted[name] += 1
        self._own[name] += 1
        return True

    def give_back(self, name: str) -> None:
        """Give a slot back. In the same iteration of the event loop, only this process can take it again."""
        self._own[name] -= 1
        if self._uncounted[name]:
            self._uncounted[name] -= 1
            return
        if not self._returning.total():
            asyncio.get_running_loop().call_soon(self._return)
        self._returning[name] += 1

    def taken(self, name: str) -> int:
        """Return how many slots are taken by all processes."""
        try:
            return self._limits.total(_column(name)) + self._uncounted[name] - self._returning[name]
        except LimitsUnavailable:
            return self._own[name] * self._limits.processes

    def _return(self) -> None:
        for name, count in self._returning.items():
            if count:
                self._limits.give_back(_column(name), count)
        self._returning.clear()
        for counter in (self._own, self._uncounted):
            for name in [name for name, count in counter.items() if not count]:
                del counter[name]


def _column(name: str) -> str:
    return f"runs {name}"
