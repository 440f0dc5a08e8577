"""The state of the service that all request handlers share."""

from __future__ import annotations

from aiohttp import web
from msgspec import Struct

from penstock.errors import TooManyRuns
from penstock.observe import HttpCounters
from penstock.runtime import Supervisor
from penstock.settings import Settings
from penstock_http.deployments.registry import FlowRegistry
from penstock_http.deployments.reload import Reloader
from penstock_http.deployments.revision import RegisteredFlow, Revision
from penstock_http.problems import RequestRejected


class AppState(Struct, frozen=True, eq=False):
    """The state of the service that all request handlers share."""

    settings: Settings
    supervisor: Supervisor
    registry: FlowRegistry
    reloader: Reloader
    counters: HttpCounters

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

    def check_run_limits(self, revision: Revision) -> None:
        """Raise `TooManyRuns` if the flow or the service has its maximum number of open streams.

        The current request has called `revision.use()`, so it is counted already.
        """
        max_runs = revision.flow.serving.max_runs
        if max_runs is not None and self.registry.flows[revision.name].requests > max_runs:
            raise TooManyRuns(max_runs)
        self.supervisor.check(limited=True)


STATE: web.AppKey[AppState] = web.AppKey("state", AppState)


def _unknown_flow(name: str, known: list[str]) -> RequestRejected:
    return RequestRejected(404, "flow_not_found", f"unknown flow {name!r}; known flows: {', '.join(known) or 'none'}")
