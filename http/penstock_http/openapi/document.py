"""`/openapi.json`: what this service answers, as OpenAPI 3.1, made from the flows that it serves and its settings."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import version
from importlib.resources import files
from typing import Any

import msgspec
from aiohttp import web

from penstock_http.context import CONTEXT, Context
from penstock_http.negotiation import JSON
from penstock_http.openapi.bulk import bulk
from penstock_http.openapi.operations import delete_flow, put_flow, readings
from penstock_http.openapi.parts import HEADERS, Part, head_of

ABOUT = """\
Items in, results out, both as streams. Whatever is refused is refused with a problem document (RFC 9457). Beside the \
refusals named here, an unknown path gets 404, another method 405, and what is no valid HTTP 400. A stream \
without an end record was cut."""

SCHEMAS = files("penstock_http.openapi").joinpath("schemas.json")


async def openapi(request: web.Request) -> web.Response:
    """The description."""
    return web.Response(body=msgspec.json.encode(document(request.app[CONTEXT])) + b"\n", content_type=JSON)


def document(context: Context) -> Part:
    """The whole description."""
    items, types = item_schemas(revision.flow.item for revision in context.catalogue.served.values())
    paths = {path: {"get": get, "head": head_of(get)} for path, get in readings(context).items()}
    paths["/flows/{name}"] |= {"put": put_flow(context), "delete": delete_flow(context)}
    for name, revision in context.catalogue.served.items():
        paths[f"/{name}/bulk"] = bulk(revision, items.get(revision.flow.item, {}), context.settings)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Penstock", "version": version("penstock"), "description": ABOUT},
        "tags": [{"name": name} for name in ("bulk", "dead letters", "flows", "health")],
        "paths": paths,
        "components": {
            "schemas": msgspec.json.decode(SCHEMAS.read_bytes()) | types,
            "headers": HEADERS,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": "PENSTOCK_TOKEN"}},
        },
    }


def item_schemas(items: Iterable[Any]) -> tuple[dict[Any, Part], dict[str, Part]]:
    """For each type of items a reference to its schema, and the schemas; nothing for types that have none."""
    known = [item for item in dict.fromkeys(items) if item is not None and _has_schema(item)]
    refs, types = msgspec.json.schema_components(known, ref_template="#/components/schemas/item.{name}")
    return dict(zip(known, refs, strict=True)), {f"item.{name}": schema for name, schema in types.items()}


def _has_schema(item: Any) -> bool:
    try:
        msgspec.json.schema(item)
    except TypeError:
        return False
    return True
