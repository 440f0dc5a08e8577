"""Counts of the calls of all services with one name: those in use, and those used before."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from penstock.services import Service, ServiceStatistics


class ServiceCounters:
    """What services of one name did in this process. A new revision of a flow may replace the service object."""

    def __init__(self) -> None:
        self.services: list[Service] = []
        """Those in use."""
        self._past_results: Counter[str] = Counter()
        self._past_retries = 0

    def use(self, service: Service) -> None:
        """Count a service among those in use, once, and retain it. Equal services are counted separately."""
        if all(known is not service for known in self.services):
            service.retain()
            self.services.append(service)

    def leave(self, service: Service) -> list[asyncio.Future[Any]]:
        """Release a service that is not used any more. Its counts stay. Return the futures to wait for."""
        self.services = [known for known in self.services if known is not service]
        past = service.statistics()
        self._past_results.update(past.results)
        self._past_retries += past.retries
        return service.release()

    def statistics(self) -> ServiceStatistics:
        """Return the sums over all services. Only those in use have calls in flight and waiting."""
        current = [service.statistics() for service in self.services]
        results = self._past_results.copy()
        for each in current:
            results.update(each.results)
        return ServiceStatistics(
            results=dict(results),
            retries=self._past_retries + sum(each.retries for each in current),
            in_flight=sum(each.in_flight for each in current),
            waiting=sum(each.waiting for each in current),
            max_in_flight=sum(each.max_in_flight for each in current),
        )
