"""The calls of all services of one name: of those that are in use, and of those that were."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from penstock.services import Service


class Calls:
    """What services of one name did in this process so far; a new revision of a flow may bring another one."""

    def __init__(self) -> None:
        self.services: list[Service] = []
        """Those in use."""
        self._results: Counter[str] = Counter()
        self._retries = 0

    def use(self, service: Service) -> None:
        """Count a service among those in use, once, and keep it ready. The same object counts, not an equal one."""
        if all(known is not service for known in self.services):
            service.keep()
            self.services.append(service)

    def leave(self, service: Service) -> list[asyncio.Future[Any]]:
        """A service is not used any more; what it did stays counted. Returns what is to be waited for."""
        self.services = [known for known in self.services if known is not service]
        self._results.update(service.results)
        self._retries += service.retries
        return service.let_go()

    @property
    def results(self) -> dict[str, int]:
        """Attempts so far, by what came of them."""
        total = self._results.copy()
        for service in self.services:
            total.update(service.results)
        return dict(total)

    @property
    def retries(self) -> int:
        """Attempts after the first."""
        return self._retries + sum(service.retries for service in self.services)

    @property
    def in_flight(self) -> int:
        """Calls under way."""
        return sum(service.in_flight for service in self.services)

    @property
    def waiting(self) -> int:
        """Calls that wait for their turn or their next attempt."""
        return sum(service.waiting for service in self.services)

    @property
    def max_in_flight(self) -> int:
        """Calls that may be under way at once."""
        return sum(service.max_in_flight for service in self.services)
