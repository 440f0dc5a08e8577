"""Answers that are one JSON document, about how things are right now."""

from __future__ import annotations

from aiohttp import web

from penstock.support.json_encoding import encode_json
from penstock_http.requests.negotiation import JSON


def json_answer(document: object, status: int = 200) -> web.Response:
    """A document, which nobody is to keep: the next look may find it changed."""
    body = encode_json(document) + b"\n"
    return web.Response(status=status, body=body, content_type=JSON, headers={"Cache-Control": "no-store"})
