"""Flows and their revisions. A revision is one version of a flow, from its deployment to the end of its last run."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from penstock.flow.flow import Flow
from penstock.runtime import RunPlan
from penstock.services import Service
from penstock.support.ids import now
from penstock_http.deployments.result import DeploymentResult
from penstock_http.processes.deployment_messages import (
    UPLOADED as UPLOADED,  # the source of a flow that was uploaded over HTTP
)


class RevisionState(StrEnum):
    """Whether new runs use a revision."""

    ACTIVE = "active"
    """New runs use it."""
    DRAINING = "draining"
    """Its open runs continue to their end. New runs use another revision."""


class FlowCandidate(Struct, frozen=True, eq=False):
    """A flow that was loaded and can be deployed."""

    flow: Flow[Any]
    digest: str
    source: str
    """The file or Python name of the flow, `PUT` if it was uploaded, or `built in`."""
    texts: Mapping[Path, str] = {}
    """The texts of the files that the flow was loaded from."""


class Revision:
    """One version of a flow. The supervisor runs it like a flow; each run has its number and digest."""

    def __init__(self, flow: Flow[Any], number: int, digest: str, source: str) -> None:
        self.name = flow.name
        self.flow = flow
        self.number = number
        self.digest = digest
        self.source = source
        self.loaded_at = now()
        self.state = RevisionState.ACTIVE
        self.requests = 0
        """Requests that use it, with an open run or about to start one."""
        self._unused = asyncio.Event()
        self._unused.set()

    def __repr__(self) -> str:
        return f"Revision({self.name!r}, {self.number}, {self.state.value})"

    @property
    def path_name(self) -> str | None:
        """The name in its path, None if it is not served over HTTP."""
        return self.flow.path_name

    @property
    def failure_points(self) -> tuple[str, ...]:
        """The names under which an element can fail."""
        return self.flow.failure_points

    @property
    def timed_steps(self) -> tuple[str, ...]:
        """The steps whose durations are measured."""
        return self.flow.timed_steps

    @property
    def all_services(self) -> tuple[Service, ...]:
        """All services that the steps call."""
        return self.flow.all_services

    def plan(self) -> RunPlan:
        """Return the plan for a run of this revision."""
        return msgspec.structs.replace(self.flow.plan(), revision=self.number, digest=self.digest)

    @contextmanager
    def use(self) -> Generator[Revision, None, None]:
        """Prevent the revision from being retired while a request uses it."""
        self.requests += 1
        self._unused.clear()
        try:
            yield self
        finally:
            self.requests -= 1
            if not self.requests:
                self._unused.set()

    async def wait_unused(self) -> None:
        """Wait until no request uses the revision."""
        await self._unused.wait()

    def document(self, runs: int) -> dict[str, Any]:
        """Return the revision as JSON values. `runs` is the number of its open runs."""
        return {
            "number": self.number,
            "digest": self.digest,
            "state": self.state.value,
            "source": self.source,
            "runs": runs,
            "loadedAt": self.loaded_at.isoformat(),
        }


class RegisteredFlow:
    """A flow with its active revision, its draining revisions, and the result of its last deployment."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.active: Revision | None = None
        self.revisions: list[Revision] = []
        """The active revision and the draining ones, oldest first."""
        self.number = 0
        """The number of the newest revision."""
        self.last_result: DeploymentResult | None = None
        self.working: Revision | None = None
        """The revision whose workers run."""
        self.rollout_lock = asyncio.Lock()
        """Held while the workers of one revision replace those of another, and while workers start or stop."""

    @property
    def is_gone(self) -> bool:
        """Return whether the flow was removed and its last run has ended."""
        return not self.revisions

    def activate(self, revision: Revision | None) -> Revision | None:
        """Make new runs use a revision, or none. Returns the previous one, which drains from now on."""
        previous, self.active = self.active, revision
        if previous is not None:
            previous.state = RevisionState.DRAINING
        if revision is not None:
            self.number = revision.number
            self.revisions.append(revision)
        return previous


def share_services(flow: Flow[Any], in_use: Mapping[str, Sequence[Service]]) -> Flow[Any]:
    """Return the flow with each service replaced by an equal one that is in use already.

    `in_use` holds the services in use by name. SinkFiles them means that one bulkhead protects one dependency, in all
    revisions of all flows.
    """
    by_name: dict[str, list[Service]] = defaultdict(list)
    for service in flow.all_services:
        if service not in by_name[service.name]:
            by_name[service.name].append(service)
    replacements: dict[str, Service] = {}
    for name, services in by_name.items():
        # Two services with the same name cannot be told apart by it, so each keeps its own bulkhead.
        if len(services) == 1:
            equal = (service for service in in_use.get(name, ()) if service == services[0])
            replacements[name] = next(equal, services[0])
    return flow.services(replacements)
