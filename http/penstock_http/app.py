"""The application: which path is answered by which handler."""

from __future__ import annotations

from functools import partial

from aiohttp import web

from penstock.observe import PenstockCollector, registry_for
from penstock_http.openapi.document import openapi
from penstock_http.problems import NOT_FOUND_ROUTE, answer_problems
from penstock_http.requests.body import ignore_expectation
from penstock_http.requests.hosts import Origins
from penstock_http.routes import (
    bulk,
    dead_letters,
    flows,
    graph,
)
from penstock_http.routes import (
    system as health,
)
from penstock_http.routes import (
    system as metrics,
)
from penstock_http.routes import (
    system as nowhere,
)
from penstock_http.state import CONTEXT, AppState


def make_app(context: AppState, collector: PenstockCollector) -> web.Application:
    """The application of a service."""
    origins = Origins(context.settings)
    app = web.Application(middlewares=[answer_problems(context.requests), origins.check])
    if origins.allowed:
        app.on_response_prepare.append(origins.add_headers)
    app[CONTEXT] = context
    app[metrics.REGISTRY] = registry_for(collector)
    get, post, put, delete = (
        partial(add, expect_handler=ignore_expectation) for add in (web.get, web.post, web.put, web.delete)
    )
    app.add_routes(
        [
            get("/dead-letters", dead_letters.list_letters),
            get("/dead-letters/{id}", dead_letters.show_letter),
            get("/flows", flows.list_flows),
            get("/flows/{name}", flows.show_flow),
            put("/flows/{name}", flows.put_flow),
            delete("/flows/{name}", flows.delete_flow),
            get("/flows/{name}/graph", graph.show_graph),
            get("/health/live", health.live),
            get("/health/ready", health.ready),
            get("/metrics", metrics.metrics),
            get("/openapi.json", openapi),
            get("/{name}/bulk", bulk.get_bulk, allow_head=False),
            post("/{name}/bulk", bulk.post_bulk),
            web.route("*", "/{path:.*}", nowhere.refuse, name=NOT_FOUND_ROUTE, expect_handler=ignore_expectation),
        ]
    )
    return app
