"""What the handlers share: the settings, the supervisor, and the flows that are served."""

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
    """What the handlers share."""

    settings: Settings
    supervisor: Supervisor
    catalogue: FlowRegistry
    reloading: Reloader
    requests: HttpCounters

    def served(self, name: str) -> Revision:
        """The revision that new runs take, of the flow that is served under a name; raises 404."""
        served = self.catalogue.served
        if name not in served:
            raise RequestRejected(
                404, "flow_not_found", f"unknown flow {name!r}; known flows: {', '.join(served) or 'none'}"
            )
        return served[name]

    def entry(self, name: str) -> RegisteredFlow:
        """A flow by its own name; raises 404."""
        entries = self.catalogue.entries
        if name not in entries:
            raise RequestRejected(
                404, "flow_not_found", f"unknown flow {name!r}; known flows: {', '.join(entries) or 'none'}"
            )
        return entries[name]

    def active(self, name: str) -> Revision:
        """The revision that new runs take, of a flow by its own name; raises 404, for a flow that was removed too."""
        active = self.entry(name).active
        if active is None:
            raise RequestRejected(404, "flow_not_found", f"the flow {name!r} was removed")
        return active

    def check(self, revision: Revision) -> None:
        """Raise `TooManyRuns` when its flow, or the service, has as many streams open as it may have.

        The request that asks holds its revision already, and counts.
        """
        most = revision.flow.serving.max_runs
        if most is not None and self.catalogue.entries[revision.name].requests > most:
            raise TooManyRuns(most)
        self.supervisor.check(limited=True)


CONTEXT: web.AppKey[AppState] = web.AppKey("context", AppState)
