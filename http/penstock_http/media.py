"""Media types and JSON responses."""

from __future__ import annotations

from aiohttp import web

from penstock.support.json_encoding import encode_json

NDJSON = "application/x-ndjson"
SSE = "text/event-stream"
JSON = "application/json"


def json_response(document: object, status: int = 200) -> web.Response:
    """Return a JSON response. It must not be cached, because the document changes between requests."""
    body = encode_json(document) + b"\n"
    return web.Response(status=status, body=body, content_type=JSON, headers={"Cache-Control": "no-store"})
