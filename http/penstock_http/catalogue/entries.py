"""A flow in the catalogue: its revisions, and the services that one takes over from another."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from penstock.flow import Flow
from penstock.services import Service
from penstock_http.catalogue.receipts import Receipt
from penstock_http.catalogue.revision import Revision, State


class Entry:
    """A flow by its name: the revision that new runs take, those before it, and what came of the last load."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.active: Revision | None = None
        self.revisions: list[Revision] = []
        """The active one and those that drain, oldest first."""
        self.number = 0
        """The number of the newest revision."""
        self.last: Receipt | None = None
        self.changing = asyncio.Lock()
        """Held while workers change over."""

    @property
    def requests(self) -> int:
        """Requests under way, whichever revision they hold."""
        return sum(revision.requests for revision in self.revisions)

    @property
    def is_gone(self) -> bool:
        """Whether the flow was removed and its last run has ended."""
        return not self.revisions

    def take(self, revision: Revision | None) -> Revision | None:
        """Give new runs this revision, or none; returns the one before, which drains from now on."""
        before, self.active = self.active, revision
        if before is not None:
            before.state = State.DRAINING
        if revision is not None:
            self.number = revision.number
            self.revisions.append(revision)
        return before


def shared(flow: Flow[Any], known: Mapping[str, Sequence[Service]]) -> Flow[Any]:
    """The same flow, calling services that are in use already instead of new ones that say the same.

    `known` are the services in use by their names. So one bulkhead protects one dependency, through all revisions and
    in all flows.
    """
    named: dict[str, list[Service]] = defaultdict(list)
    for service in flow.services:
        if service not in named[service.name]:
            named[service.name].append(service)
    others: dict[str, Service] = {}
    for name, services in named.items():
        # Two that share a name cannot be told apart by it, so each keeps its own bulkhead.
        if len(services) == 1:
            others[name] = next((service for service in known.get(name, ()) if service == services[0]), services[0])
    return flow.with_services(others)
