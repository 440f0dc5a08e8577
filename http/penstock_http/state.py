"""The state of the service that all request handlers share."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from math import ceil

import msgspec
from aiohttp import hdrs, web
from msgspec import Struct

from penstock.errors import ShuttingDown, TooManyRuns
from penstock.observe import HttpCounters
from penstock.redrive.desk import Desk
from penstock.runtime import Supervisor
from penstock.services import first_down
from penstock.settings import Settings
from penstock_http.deployments.everywhere import AnyReloader
from penstock_http.deployments.registry import FlowRegistry
from penstock_http.deployments.revision import RegisteredFlow, Revision
from penstock_http.problems import RETRY_SECONDS, RequestRejected
from penstock_http.processes.peers import OnlyProcess, Peers

MAX_STREAMS = 50
"""Maximum number of exports, lists of failures and progress streams that are open in a process.

Each of them reads a store all the time.
"""


MAX_CALLS = 10
"""Maximum number of requests in a process that create a redrive or try dead letters.

A redrive of a log runs as long as its request, and so does a try.
"""


class OpenStreams:
    """Counts open streams that are no runs, and ends them when the service stops."""

    def __init__(self, limit: int = MAX_STREAMS, name: str = "exports and progress streams") -> None:
        self._limit = limit
        self._name = name
        self._open = 0
        self.stopping = asyncio.Event()

    @contextmanager
    def enter(self) -> Generator[None, None, None]:
        """Count a stream. Raises 503 if too many are open, or if the service stops."""
        if self.stopping.is_set():
            raise ShuttingDown
        if self._open >= self._limit:
            raise RequestRejected(
                503,
                "too_many_streams",
                f"{self._limit} {self._name} are open, which is the limit; try again later",
                {hdrs.RETRY_AFTER: str(RETRY_SECONDS)},
            )
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1


class AppState(Struct, frozen=True, eq=False):
    """The state of the service that all request handlers share."""

    settings: Settings
    supervisor: Supervisor
    registry: FlowRegistry
    reloader: AnyReloader
    counters: HttpCounters
    desk: Desk
    peers: Peers = msgspec.field(default_factory=OnlyProcess)
    stop: asyncio.Event = msgspec.field(default_factory=asyncio.Event)
    """Set by the first stop signal."""
    streams: OpenStreams = msgspec.field(default_factory=OpenStreams)
    redrives: OpenStreams = msgspec.field(
        default_factory=lambda: OpenStreams(MAX_CALLS, "requests that create redrives or try dead letters")
    )

    def revision_at(self, path_name: str) -> Revision:
        """Return the active revision of the flow that is served at `/NAME/bulk`. Raises 404."""
        by_path = self.registry.by_path
        if path_name not in by_path:
            raise _unknown_flow(path_name, list(by_path))
        return by_path[path_name]

    def registered_flow(self, name: str) -> RegisteredFlow:
        """Return a flow by its name. Raises 404."""
        flows = self.registry.flows
        if name not in flows:
            raise _unknown_flow(name, list(flows))
        return flows[name]

    def active_revision(self, name: str) -> Revision:
        """Return the active revision of a flow by the name of the flow. Raises 404, also for a removed flow."""
        active = self.registered_flow(name).active
        if active is None:
            raise RequestRejected(404, "flow_not_found", f"the flow {name!r} was removed")
        return active

    @contextmanager
    def admit(self, revision: Revision) -> Generator[None, None, None]:
        """Count a request of a flow that limits them.

        Raises `TooManyRuns` if the flow or the service has its maximum number of open streams.
        """
        max_runs, slots = revision.flow.serving.max_runs, self.supervisor.slots
        if max_runs is not None and not slots.take(revision.name, max_runs):
            raise TooManyRuns(max_runs)
        try:
            self.supervisor.check(limited=True)
            yield
        finally:
            if max_runs is not None:
                slots.give_back(revision.name)

    def check_services(self, revision: Revision) -> None:
        """Raise 503 if a service of the flow is down and the flow is to refuse requests then.

        Not while a probe is due or under way: it may need a call to probe with.
        """
        if not revision.flow.serving.refuse_when_open:
            return
        if (down := first_down(revision.all_services)) is not None:
            seconds = ceil(down.seconds)
            raise RequestRejected(
                503,
                "service_unavailable",
                f"the service {down.name} does not respond; try again in {seconds} s",
                {hdrs.RETRY_AFTER: str(seconds)},
            )


STATE: web.AppKey[AppState] = web.AppKey("state", AppState)


def _unknown_flow(name: str, known: list[str]) -> RequestRejected:
    return RequestRejected(404, "flow_not_found", f"unknown flow {name!r}; known flows: {', '.join(known) or 'none'}")
