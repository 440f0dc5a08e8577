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
    """200 while new requests are taken, 503 once the service stops or a store of dead letters is unusable."""
    supervisor = request.app[CONTEXT].supervisor
    if supervisor.phase is not Phase.SERVING:
        return json_answer({"status": supervisor.phase.value}, 503)
    unusable = [name for name, usable in supervisor.stores.usable().items() if not usable]
    if unusable:
        return json_answer({"status": "dead_letters_unusable", "stores": unusable}, 503)
    return json_answer({"status": "ready"})
