"""The share of one process in the limits of the services that it calls: `max_in_flight` and `rate`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from itertools import count
from typing import TypeAlias

import structlog

from penstock.errors import describe
from penstock.services import Service
from penstock_http.processes.shared_limits import ColumnsInUse, LimitsUnavailable, SharedLimits

log: structlog.stdlib.BoundLogger = structlog.get_logger()

UPDATE_SECONDS = 0.05
"""Seconds between two updates of the shares. What a process needs reaches it after two updates of the others."""

RETRY_SECONDS = 1.0
"""Seconds until the next attempt after an update that failed."""

Report: TypeAlias = "tuple[int, int, bytes]"
"""The calls wanted and in flight here, and the cells of all processes: if these stay the same, so does the share."""


class SharedService:
    """A service whose limits this process shares with others."""

    def __init__(self, service: Service, name: str) -> None:
        self.service = service
        self.name = name
        """Its name in the table: the same in all processes."""
        self.last_report: Report | None = None
        self.next_slot = 0.0
        """When the next call may start if the table cannot be used."""

    @property
    def calls(self) -> tuple[int, int]:
        """The calls that this process could have in flight now, and those that it has."""
        bulkhead = self.service.bulkhead
        busy = bulkhead.busy
        return min(busy + bulkhead.waiting, bulkhead.own_limit), busy


class ServiceShares:
    """Keeps the shares of this process up to date. `services` returns the services in use.

    Until the table can be used again, shares stay as they are, and each process makes its part of the calls of a rate.
    """

    def __init__(self, limits: SharedLimits, services: Callable[[], Iterable[Service]]) -> None:
        self._limits = limits
        self._services = services
        self._shared: dict[int, SharedService] = {}
        """By the id of the service: equal services have one bulkhead each."""

    def use(self, service: Service) -> None:
        """Share the limits of a service from its first call on."""
        if id(service) in self._shared:
            return
        taken = {each.name for each in self._shared.values()}
        # Services with the same key are numbered, and each process may number them differently. That changes nothing:
        # n of them have n times the limit together, as in a single process.
        name = next(name for number in count() if (name := f"service {service.shared_key} {number}") not in taken)
        shared = self._shared[id(service)] = SharedService(service, name)
        service.share_rate(partial(self._reserve, shared))
        service.bulkhead.share = 0
        self.update()
        if shared.last_report is None:  # the table cannot be used now, but leaves one call for each new process
            service.bulkhead.share = 1
        if service.max_in_flight < (processes := self._limits.processes):
            log.warning(
                "limits.below_processes",
                service=service.name,
                max_in_flight=service.max_in_flight,
                processes=processes,
                effect=f"each process makes 1 call at once, {processes} in all",
            )

    async def run(self) -> None:
        """Keep the shares up to date until cancelled."""
        while True:
            try:
                self.update()
            except Exception as error:  # an unknown bug: without this task, shares would never change again
                log.error("limits.update_failed", error=describe(error), exc_info=error)
                await asyncio.sleep(RETRY_SECONDS)
            await asyncio.sleep(UPDATE_SECONDS)

    def update(self) -> None:
        """Report the calls of this process, and take what the others leave of each limit."""
        self._leave_unused()
        changed = [each for each in self._shared.values() if self._report(each) != each.last_report]
        if not changed:
            return
        try:
            with self._limits.locked():
                shares = {each: self._update(each) for each in changed}
        except LimitsUnavailable:
            return
        for each, share in shares.items():  # starts calls, so the lock is free again
            each.service.bulkhead.share = share

    def _report(self, shared: SharedService) -> Report:
        return *shared.calls, self._limits.cells(shared.name)

    def _update(self, shared: SharedService) -> int:
        """Report the calls of a service and return its share. The lock is held."""
        demand, busy = shared.calls
        total = shared.service.max_in_flight
        try:
            share = self._limits.update_share(shared.name, total, demand, busy)
        except ColumnsInUse:
            share = max(1, total // self._limits.processes)
        shared.last_report = self._report(shared)
        return share

    def _leave_unused(self) -> None:
        """Free the shares of services that are not used any more and have no calls in flight."""
        in_use = {id(service) for service in self._services()}
        for key in [key for key in self._shared if key not in in_use and not self._shared[key].calls[1]]:
            self._limits.leave(self._shared.pop(key).name)

    def _reserve(self, shared: SharedService, interval: float, now: float) -> float:
        """Reserve a time slot for a call. Returns the seconds until it begins."""
        try:
            return self._limits.reserve(shared.name, interval, now)
        except LimitsUnavailable:
            slot = max(now, shared.next_slot)
            shared.next_slot = slot + interval * self._limits.processes
            return slot - now
