"""The application: which path is answered by which handler."""

from __future__ import annotations

from aiohttp import web

from penstock.observe import PenstockCollector, registry_for
from penstock_http.context import CONTEXT, Context
from penstock_http.openapi import openapi
from penstock_http.problems import answer_problems
from penstock_http.routes import bulk, dead_letters, flows, graphs, health, metrics


def make_app(context: Context, collector: PenstockCollector) -> web.Application:
    """The application of a service."""
    app = web.Application(middlewares=[answer_problems(context.requests)])
    app[CONTEXT] = context
    app[metrics.REGISTRY] = registry_for(collector)
    app.add_routes(
        [
            web.get("/dead-letters", dead_letters.list_letters),
            web.get("/dead-letters/{id}", dead_letters.show_letter),
            web.get("/flows", flows.list_flows),
            web.get("/flows/{name}", flows.show_flow),
            web.put("/flows/{name}", flows.put_flow),
            web.get("/flows/{name}/graph", graphs.show_graph),
            web.get("/health/live", health.live),
            web.get("/health/ready", health.ready),
            web.get("/metrics", metrics.metrics),
            web.get("/openapi.json", openapi),
            web.get("/{name}/bulk", bulk.get_bulk, allow_head=False),
            web.post("/{name}/bulk", bulk.post_bulk),
        ]
    )
    return app
