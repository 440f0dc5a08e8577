"""`/health`, `/metrics`, and the response to unknown paths and methods."""

from __future__ import annotations

from typing import NoReturn

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from penstock.runtime import Phase
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
