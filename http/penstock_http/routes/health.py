"""`/health/live` and `/health/ready`: may this process go on, may it be given work."""

from __future__ import annotations

from aiohttp import web

from penstock.runtime import Phase
from penstock_http.context import CONTEXT
from penstock_http.documents import json_answer


async def live(request: web.Request) -> web.Response:
    """200 as long as the event loop turns."""
    return json_answer({"status": "live"})


async def ready(request: web.Request) -> web.Response:
    """200 while new requests are taken, 503 once the service stops."""
    phase = request.app[CONTEXT].supervisor.phase
    if phase is Phase.SERVING:
        return json_answer({"status": "ready"})
    return json_answer({"status": phase.value}, 503)
