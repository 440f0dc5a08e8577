"""Serve the graph of a flow, with its current counts: `GET /flows/{name}/graph`."""

from __future__ import annotations

from aiohttp import web

from penstock.graph import TEXT_FORMATS, build_graph
from penstock_http.media import JSON
from penstock_http.problems import RequestRejected
from penstock_http.requests import negotiation
from penstock_http.routes.all_processes import ALL_PROCESSES
from penstock_http.state import STATE

MEDIA_TYPES = {"mermaid": "text/plain", "dot": "text/vnd.graphviz", "json": JSON}
"""The media type of each format, the default first.

Mermaid is sent as plain text: browsers show it, but offer to save a file of the type text/vnd.mermaid.
"""

HEADERS = {"Cache-Control": "no-store", "Vary": "Accept", "X-Content-Type-Options": "nosniff"}


async def show_graph(request: web.Request) -> web.Response:
    """Respond with the graph of one flow."""
    state = request.app[STATE]
    flow = state.active_revision(request.match_info["name"]).flow
    format = format_of(request)
    counters = await request.app[ALL_PROCESSES].graph_counters(flow.name)
    text = TEXT_FORMATS[format](build_graph(flow, counters))
    charset = None if format == "json" else "utf-8"
    return web.Response(body=text.encode(), content_type=MEDIA_TYPES[format], charset=charset, headers=HEADERS)


def format_of(request: web.Request) -> str:
    """Return the format requested by `?format=` or else by `Accept`. Raises 400 and 406."""
    negotiation.reject_unknown_parameters(request, "format")
    format = request.query.get("format")
    if format is None:
        media_type = negotiation.response_type(request, tuple(MEDIA_TYPES.values()))
        return next(name for name, supported in MEDIA_TYPES.items() if supported == media_type)
    if format not in MEDIA_TYPES:
        raise RequestRejected(400, "bad_parameter", f"format: expected one of {', '.join(MEDIA_TYPES)}, got {format!r}")
    return format
