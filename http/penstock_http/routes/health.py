"""`/health/live` and `/health/ready`: may this process go on, may it be given work."""

from __future__ import annotations

import msgspec
from aiohttp import web

from penstock.runtime import Phase
from penstock_http.context import CONTEXT


async def live(request: web.Request) -> web.Response:
    """200 as long as the event loop turns."""
    return _json(200, {"status": "live"})


async def ready(request: web.Request) -> web.Response:
    """200 while new requests are taken, 503 once the service stops."""
    phase = request.app[CONTEXT].supervisor.phase
    if phase is Phase.SERVING:
        return _json(200, {"status": "ready"})
    return _json(503, {"status": phase.value})


def _json(status: int, document: object) -> web.Response:
    return web.Response(
        status=status,
        body=msgspec.json.encode(document) + b"\n",
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )
