"""`/health`, `/metrics`, and the response to unknown paths and methods."""

from __future__ import annotations

from typing import NoReturn

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from penstock.runtime import Phase
from penstock.runtime.worker import UNAVAILABLE_SECONDS
from penstock.sinks.shared import outage_seconds
from penstock_http.media import json_response
from penstock_http.requests.hosts import allowed_methods
from penstock_http.state import STATE

METRICS: web.AppKey[CollectorRegistry] = web.AppKey("metrics", CollectorRegistry)


async def live(request: web.Request) -> web.Response:
    """Respond with 200 as long as the event loop runs."""
    return json_response({"status": "live"})


async def ready(request: web.Request) -> web.Response:
    """Respond with 200 if requests are accepted, 503 while shutting down or if a dead-letter store is unusable.

    Shutting down begins with the first stop signal, before the drain delay.
    """
    state = request.app[STATE]
    supervisor = state.supervisor
    if state.stop.is_set() and supervisor.phase is Phase.SERVING:
        return json_response({"status": Phase.DRAINING.value}, 503)
    if supervisor.phase is not Phase.SERVING:
        return json_response({"status": supervisor.phase.value}, 503)
    unusable = [name for name, usable in supervisor.stores.usable().items() if not usable]
    if unusable:
        return json_response({"status": "dead_letters_unusable", "stores": unusable}, 503)
    return json_response({"status": "ready"})


async def ready_to_work(request: web.Request) -> web.Response:
    """Respond as `ready`, and with 503 if for half a minute a worker could not receive, or values waited for a sink.

    For a process that only runs workers, so that a deployment whose broker cannot be reached does not count as done.
    Nothing restarts it for that: `/health/live` is 200.
    """
    response = await ready(request)
    workers = request.app[STATE].supervisor.unavailable_workers().items()
    unavailable = ["/".join(name) for name, seconds in workers if seconds >= UNAVAILABLE_SECONDS]
    sinks = [sink for sink, seconds in outage_seconds() if seconds >= UNAVAILABLE_SECONDS]
    if response.status == 200 and (unavailable or sinks):
        return json_response({"status": "not_working", "workers": unavailable, "sinks": sinks}, 503)
    return response


async def metrics(request: web.Request) -> web.Response:
    """Respond with the current values of all metrics."""
    try:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    except (TypeError, ValueError):  # Accept has an invalid version parameter
        encode, content_type = choose_encoder("")
    return web.Response(body=encode(request.app[METRICS]), headers={"Content-Type": content_type})


async def reject_unknown_route(request: web.Request) -> NoReturn:
    """Raise 405 if the path supports other methods, else 404."""
    allowed = await allowed_methods(request)
    if allowed:
        raise web.HTTPMethodNotAllowed(request.method, allowed)
    raise web.HTTPNotFound
