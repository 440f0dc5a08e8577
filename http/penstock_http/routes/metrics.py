"""`/metrics`: everything that is counted, as OpenMetrics or as Prometheus text, by `Accept`."""

from __future__ import annotations

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

REGISTRY: web.AppKey[CollectorRegistry] = web.AppKey("registry", CollectorRegistry)


async def metrics(request: web.Request) -> web.Response:
    """All series, read from the parts at this moment."""
    try:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    except (TypeError, ValueError):  # it asks for a version that is none
        encode, content_type = choose_encoder("")
    return web.Response(body=encode(request.app[REGISTRY]), headers={"Content-Type": content_type})
