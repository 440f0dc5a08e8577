"""Build the OpenAPI 3.1 description of the service from `openapi.yaml`, the flows that are served and the settings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from typing import Any

import msgspec
from aiohttp import web

from penstock.flowfile.limits import MAX_BYTES
from penstock.settings import Settings
from penstock.support.tasks import to_thread_uncancellable
from penstock.tokens import SCOPES
from penstock_http.deployments.revision import Revision
from penstock_http.media import JSON
from penstock_http.routes.bulk import DEFAULT_COUNT
from penstock_http.state import STATE, AppState

Part = dict[str, Any]
"""A part of the description, as JSON values."""

PLACEHOLDER = re.compile(r'"\$\{(?P<whole>\w+)\}"|\$\{(?P<inside>\w+)\}')
"""A placeholder in JSON text, together with the quotes if it is a whole string."""


async def openapi(request: web.Request) -> web.Response:
    """Respond with the description."""
    # Parsing takes 70 ms the first time, and 450 ms if PyYAML has no libyaml.
    await to_thread_uncancellable(template)
    return web.Response(body=msgspec.json.encode(document(request.app[STATE])) + b"\n", content_type=JSON)


@cache
def template() -> Part:
    """Read `openapi.yaml`. Do not change the result: all callers share it."""
    part: Part = msgspec.yaml.decode(files("penstock_http.openapi").joinpath("openapi.yaml").read_bytes())
    return part


def document(state: AppState) -> Part:
    """Return the description of a service."""
    fixed, revisions = template(), state.registry.by_path
    values: Part = {
        "version": version("penstock"),
        "flows": list(state.registry.flows),
        "max_flow_file": min(state.settings.max_body, MAX_BYTES),
    }
    security = {scope: [scope] for scope in SCOPES} | {"change": ["edit", "read"]}
    for name, scopes in security.items():
        values[f"{name}_security"] = [{"token": scopes}] if state.settings.all_tokens else [{}, {"token": scopes}]
    items, item_schemas = schemas_of(revision.flow.item for revision in revisions.values())
    paths = fill(fixed["paths"], values)
    for operations in paths.values():
        if "get" in operations:
            operations["head"] = head_of(operations["get"], fixed)
    for name, revision in revisions.items():
        paths[f"/{name}/bulk"] = bulk(revision, items.get(revision.flow.item, {}), state.settings)
    return {
        "openapi": fixed["openapi"],
        "info": fill(fixed["info"], values),
        "tags": fixed["tags"],
        "paths": paths,
        "components": fixed["components"]
        | {
            "parameters": fill(fixed["components"]["parameters"], values),
            "schemas": fixed["components"]["schemas"] | item_schemas,
        },
    }


def bulk(revision: Revision, item: Part, settings: Settings) -> Part:
    """Return the operations of a flow's path. `item` is the schema of its items."""
    flow, serving = revision.flow, revision.flow.serving
    max_count = serving.max_count or settings.max_count
    operations = fill(
        template()["bulk"],
        {
            "flow": revision.name,
            "item": item,
            "order": str(flow.ordering),
            "count": min(DEFAULT_COUNT, max_count),
            "max_count": max_count,
            "max_line": serving.max_line or settings.max_line,
            "max_body": serving.max_body or settings.max_body,
        },
    )
    if flow.sample_factory is None:
        del operations["get"]
    return operations


def fill(part: Part, values: Mapping[str, Any]) -> Part:
    """Return a copy with values for the placeholders, such as `${flow}`.

    A string that is one placeholder becomes the value itself, for example a number; in other strings it becomes text.
    """

    def value_of(found: re.Match[str]) -> str:
        if name := found["whole"]:
            return msgspec.json.encode(values[name]).decode()
        return msgspec.json.encode(str(values[found["inside"]])).decode()[1:-1]

    filled: Part = msgspec.json.decode(PLACEHOLDER.sub(value_of, msgspec.json.encode(part).decode()))
    return filled


def head_of(get: Part, fixed: Part) -> Part:
    """Return the HEAD operation that belongs to a GET: the same responses without content."""
    responses: Part = {}
    for status, response in get["responses"].items():
        if "$ref" in response:
            response = fixed["components"]["responses"][response["$ref"].rpartition("/")[2]]
        responses[status] = {name: value for name, value in response.items() if name != "content"}
    changed = {"operationId": f"{get['operationId']}.head", "summary": f"{get['summary']} (headers only)"}
    return get | changed | {"responses": responses}


def schemas_of(items: Iterable[Any]) -> tuple[dict[Any, Part], dict[str, Part]]:
    """Return a reference to the schema of each item type, and the schemas. Types that have no schema are left out."""
    known = [item for item in dict.fromkeys(items) if item is not None and _has_schema(item)]
    refs, types = msgspec.json.schema_components(known, ref_template="#/components/schemas/item.{name}")
    return dict(zip(known, refs, strict=True)), {f"item.{name}": schema for name, schema in types.items()}


def _has_schema(item: Any) -> bool:
    try:
        msgspec.json.schema(item)
    except TypeError:
        return False
    return True
