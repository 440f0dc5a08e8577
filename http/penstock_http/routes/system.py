"""`/health`, `/metrics`, and the response to unknown paths and methods."""

from __future__ import annotations

from typing import NoReturn

from aiohttp import web

from penstock_http.aggregate.health import READY
from penstock_http.media import json_response
from penstock_http.requests.hosts import allowed_methods
from penstock_http.routes.all_processes import ALL_PROCESSES


async def live(request: web.Request) -> web.Response:
    """Respond with 200 as long as the event loop runs."""
    return json_response({"status": "live"})


async def ready(request: web.Request) -> web.Response:
    """Respond with 200 if requests are accepted, 503 while shutting down or if a dead-letter store is unusable.

    Shutting down begins with the first stop signal, before the drain delay. A process that only runs workers is not
    ready either while they cannot work: see `AllProcesses`.
    """
    document = await request.app[ALL_PROCESSES].readiness()
    return json_response(document, 200 if document["status"] == READY else 503)


async def metrics(request: web.Request) -> web.Response:
    """Respond with the current values of all metrics."""
    body, content_type = await request.app[ALL_PROCESSES].metrics(request.headers.get("Accept", ""))
    return web.Response(body=body, headers={"Content-Type": content_type})


async def reject_unknown_route(request: web.Request) -> NoReturn:
    """Raise 405 if the path supports other methods, else 404."""
    allowed = await allowed_methods(request)
    if allowed:
        raise web.HTTPMethodNotAllowed(request.method, allowed)
    raise web.HTTPNotFound
