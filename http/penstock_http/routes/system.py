"""`/health/live` and `/health/ready`: may this process go on, may it be given work."""

from __future__ import annotations

from typing import NoReturn

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from penstock.runtime import Phase
from penstock_http.media import json_response
from penstock_http.requests.hosts import allowed_methods
from penstock_http.state import CONTEXT


async def live(request: web.Request) -> web.Response:
    """200 as long as the event loop turns."""
    return json_response({"status": "live"})


async def ready(request: web.Request) -> web.Response:
    """200 while new requests are taken, 503 once the service stops or a store of dead letters is unusable."""
    supervisor = request.app[CONTEXT].supervisor
    if supervisor.phase is not Phase.SERVING:
        return json_response({"status": supervisor.phase.value}, 503)
    unusable = [name for name, usable in supervisor.stores.usable().items() if not usable]
    if unusable:
        return json_response({"status": "dead_letters_unusable", "stores": unusable}, 503)
    return json_response({"status": "ready"})


REGISTRY: web.AppKey[CollectorRegistry] = web.AppKey("registry", CollectorRegistry)


async def metrics(request: web.Request) -> web.Response:
    """All series, read from the parts at this moment."""
    try:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    except (TypeError, ValueError):  # it asks for a version that is none
        encode, content_type = choose_encoder("")
    return web.Response(body=encode(request.app[REGISTRY]), headers={"Content-Type": content_type})


async def refuse(request: web.Request) -> NoReturn:
    """Raise what fits."""
    allowed = await allowed_methods(request)
    if allowed:
        raise web.HTTPMethodNotAllowed(request.method, allowed)
    raise web.HTTPNotFound
