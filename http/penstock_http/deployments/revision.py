"""A revision: one version of a flow as it was loaded, from its first run to the end of its last."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import Any

import msgspec
from msgspec import Struct

from penstock.flow.flow import Flow
from penstock.runtime import RunPlan
from penstock.services import Service
from penstock.support.ids import now
from penstock_http.deployments.result import DeploymentResult

UPLOADED = "PUT"
"""The source of a flow that came over HTTP."""


class State(StrEnum):
    """How far a revision is."""

    ACTIVE = "active"
    """New runs take it."""
    DRAINING = "draining"
    """Its runs go on to their own end; new ones take another."""


class FlowCandidate(Struct, frozen=True, eq=False):
    """A flow that is to be served from now on."""

    flow: Flow[Any]
    digest: str
    source: str
    """The file that it comes from, or its name in Python; `PUT` or `built in` for what comes from neither."""


class Revision:
    """One version of a flow. To the supervisor it is a flow; its number and digest go with every run."""

    def __init__(self, flow: Flow[Any], number: int, digest: str, source: str) -> None:
        self.name = flow.name
        self.flow = flow
        self.number = number
        self.digest = digest
        self.source = source
        self.loaded_at = now()
        self.state = State.ACTIVE
        self.requests = 0
        """Requests that hold it: their runs are open, or about to be."""
        self._free = asyncio.Event()
        self._free.set()

    def __repr__(self) -> str:
        return f"Revision({self.name!r}, {self.number}, {self.state.value})"

    @property
    def served_as(self) -> str | None:
        """The name in its path, if it is served over HTTP."""
        return self.flow.path_name

    @property
    def failure_points(self) -> tuple[str, ...]:
        """Where an element may fail."""
        return self.flow.failure_points

    @property
    def timed_steps(self) -> tuple[str, ...]:
        """The steps that measure how long elements spend in them."""
        return self.flow.timed_steps

    @property
    def services(self) -> tuple[Service, ...]:
        """All services that the steps call."""
        return self.flow.services

    def plan(self) -> RunPlan:
        """What a run needs to know."""
        return msgspec.structs.replace(self.flow.plan(), revision=self.number, digest=self.digest)

    @contextmanager
    def use(self) -> Generator[Revision, None, None]:
        """Keep it from being retired, for a request that starts a run of it."""
        self.requests += 1
        self._free.clear()
        try:
            yield self
        finally:
            self.requests -= 1
            if not self.requests:
                self._free.set()

    async def wait_unused(self) -> None:
        """Wait until no request holds it."""
        await self._free.wait()

    def document(self, runs: int) -> dict[str, Any]:
        """The revision for people and programs, with how many runs of it are open."""
        return {
            "number": self.number,
            "digest": self.digest,
            "state": self.state.value,
            "source": self.source,
            "runs": runs,
            "loadedAt": self.loaded_at.isoformat(),
        }


class RegisteredFlow:
    """A flow by its name: the revision that new runs take, those before it, and what came of the last load."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.active: Revision | None = None
        self.revisions: list[Revision] = []
        """The active one and those that drain, oldest first."""
        self.number = 0
        """The number of the newest revision."""
        self.last: DeploymentResult | None = None
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

    def activate(self, revision: Revision | None) -> Revision | None:
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
