"""Find out which services are down now."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from penstock.services.service import Service


class DownService(Struct, frozen=True):
    """A service whose circuit breaker is open."""

    name: str
    seconds: float
    """Seconds until its next probe."""


def first_down(services: Iterable[Service]) -> DownService | None:
    """Return the first service whose circuit breaker is open, or None.

    A service of which a probe is due or under way counts as available: a probe needs a call.
    """
    for service in services:
        if service.is_open and (seconds := service.statistics().next_probe_seconds):
            return DownService(service.name, seconds)
    return None
