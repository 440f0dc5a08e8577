"""What the handlers share: the settings, the supervisor, and the flows that are served."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiohttp import web
from msgspec import Struct

from penstock.deadletters import Store
from penstock.flow import Flow
from penstock.observe import Requests
from penstock.runtime import Supervisor
from penstock.settings import Settings
from penstock.sources import Source
from penstock_http.problems import Refused


class Served(Struct, frozen=True, eq=False):
    """A flow that is served, and how samples of its items are made."""

    flow: Flow[Any]
    samples: Callable[[int], Source[Any]] | None = None


class Context(Struct, frozen=True, eq=False):
    """What the handlers share."""

    settings: Settings
    supervisor: Supervisor
    flows: dict[str, Served]
    store: Store
    requests: Requests

    def served(self, name: str) -> Served:
        """A flow by its name; raises 404."""
        if name not in self.flows:
            raise Refused(404, "no_such_flow", f"there is no flow {name!r}; there are {', '.join(self.flows)}")
        return self.flows[name]


CONTEXT: web.AppKey[Context] = web.AppKey("context", Context)
