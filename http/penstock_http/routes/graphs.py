"""`/flows/{name}/graph`: a flow as a picture, with the numbers of this moment."""

from __future__ import annotations

from aiohttp import web

from penstock.files.graph import Counts, graph_of
from penstock.files.pictures import FORMATS
from penstock.runtime import Totals
from penstock_http import negotiation
from penstock_http.context import CONTEXT
from penstock_http.negotiation import JSON
from penstock_http.problems import Refused

SVG = "image/svg+xml"
TYPES = {"json": JSON, "svg": SVG, "mermaid": "text/plain", "dot": "text/vnd.graphviz"}
"""The media type of each format. Mermaid has one of its own, which browsers offer to save instead of showing it."""

WANTED = {JSON: "json", SVG: "svg", "text/html": "svg"}
"""The format of the answer when the request names none, by what its `Accept` asks for."""

HEADERS = {
    "Cache-Control": "no-store",
    "Vary": "Accept",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
}


async def show_graph(request: web.Request) -> web.Response:
    """One flow, drawn."""
    context = request.app[CONTEXT]
    flow = context.active(request.match_info["name"]).flow
    format = format_of(request)
    totals = context.supervisor.totals.get(flow.name) or Totals(flow.name)
    picture = FORMATS[format](graph_of(flow, Counts.of(totals)))
    charset = None if format == "json" else "utf-8"
    return web.Response(body=picture.encode(), content_type=TYPES[format], charset=charset, headers=HEADERS)


def format_of(request: web.Request) -> str:
    """The format that is asked for, by `?format=` or else by `Accept`; raises 400 and 406."""
    negotiation.only(request, "format")
    format = request.query.get("format")
    if format is None:
        return WANTED[negotiation.answer_type(request, tuple(WANTED))]
    if format not in TYPES:
        raise Refused(400, "bad_parameter", f"format has to be one of {', '.join(TYPES)}, got {format!r}")
    return format
