"""The aiohttp applications of `penstock serve` and `penstock work`: middleware and routes."""

from __future__ import annotations

from functools import partial

from aiohttp import web

from penstock.observe import PenstockCollector, registry_for
from penstock_http.openapi.document import openapi
from penstock_http.problems import NOT_FOUND_ROUTE, problem_middleware
from penstock_http.requests.body import ignore_expectation
from penstock_http.requests.hosts import Origins
from penstock_http.routes import actions, bulk, failures, flows, graph, letters, redrives, system, transfer
from penstock_http.routes.all_processes import ALL_PROCESSES, AllProcesses
from penstock_http.state import STATE, AppState


def make_app(state: AppState, collector: PenstockCollector) -> web.Application:
    """Return the application of a service."""
    app = _application(state, collector)
    get, post, put, patch, delete = (
        partial(add, expect_handler=ignore_expectation) for add in (web.get, web.post, web.put, web.patch, web.delete)
    )
    app.add_routes(
        [
            get("/dead-letters", letters.list_letters),
            get("/dead-letters/audit", letters.list_audit),
            get("/dead-letters/count", letters.count_letters),
            post("/dead-letters/edits", actions.edit_all),
            get("/dead-letters/export", transfer.export_letters),
            get("/dead-letters/groups", letters.list_groups),
            post("/dead-letters/import", transfer.import_letters),
            post("/dead-letters/park", actions.park),
            post("/dead-letters/purge", actions.purge),
            get("/dead-letters/redrives", redrives.list_redrives),
            post("/dead-letters/redrives", redrives.create_redrive),
            get("/dead-letters/redrives/{id}", redrives.show_redrive),
            patch("/dead-letters/redrives/{id}", redrives.change_redrive),
            post("/dead-letters/unpark", actions.unpark),
            get("/dead-letters/{id}", letters.show_letter),  # after the paths above, which it matches too
            patch("/dead-letters/{id}", letters.edit_letter),
            get("/flows", flows.list_flows),
            get("/flows/{name}", flows.show_flow),
            put("/flows/{name}", flows.put_flow),
            delete("/flows/{name}", flows.delete_flow),
            get("/flows/{name}/graph", graph.show_graph),
            get("/openapi.json", openapi),
            get("/runs/{id}/failures", failures.list_failures),
            get("/{name}/bulk", bulk.get_bulk, allow_head=False),
            post("/{name}/bulk", bulk.post_bulk),
            *_monitoring_routes(),
        ]
    )
    return app


def make_work_app(state: AppState, collector: PenstockCollector) -> web.Application:
    """Return the application of a process that only runs workers: metrics and health."""
    app = _application(state, collector, workers_only=True)
    app.add_routes(_monitoring_routes())
    return app


def _application(state: AppState, collector: PenstockCollector, *, workers_only: bool = False) -> web.Application:
    """Return an application without routes."""
    origins = Origins(state.settings)
    app = web.Application(middlewares=[problem_middleware(state.counters), origins.check])
    if origins.allowed:
        app.on_response_prepare.append(origins.add_headers)
    app[STATE] = state
    app[ALL_PROCESSES] = AllProcesses(state, registry_for(collector), workers_only=workers_only)
    return app


def _monitoring_routes() -> list[web.RouteDef]:
    """Return the routes of metrics and health, and as the last one that of all other paths."""
    get = partial(web.get, expect_handler=ignore_expectation)
    return [
        get("/health/live", system.live),
        get("/health/ready", system.ready),
        get("/metrics", system.metrics),
        web.route(
            "*",
            "/{path:.*}",
            system.reject_unknown_route,
            name=NOT_FOUND_ROUTE,
            expect_handler=ignore_expectation,
        ),
    ]
