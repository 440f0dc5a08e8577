"""The parts of which `/openapi.json` is put together: an operation, a parameter, an answer, a refusal."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from penstock_http.negotiation import JSON
from penstock_http.problems import RETRY_SECONDS

Part = dict[str, Any]
"""A piece of the document."""

PROBLEM = "application/problem+json"

CODES = {
    "answer_too_large": "the answer does not fit into one piece",
    "bad_parameter": "a parameter is unknown or wrong",
    "bad_request": "the request is no valid HTTP",
    "body_too_large": "the body is too large; an array can be sent as a stream instead",
    "broken": "something broke inside the service",
    "broken_body": "the body broke off, or cannot be decompressed",
    "cannot_resume": "the client connects again with `Last-Event-ID`; a run cannot be resumed",
    "host_not_allowed": "the host that the request is for is not allowed: `--allowed-hosts`",
    "headers_too_large": "the request line or a header is too large",
    "malformed": "the body is not what its type says",
    "mistakes": "the flow has mistakes; `mistakes` names each, and what ran before runs on",
    "not_uploaded": "the flow did not come by PUT: it is in a file, or built in",
    "no_array": "the body is JSON, but no array",
    "no_such_flow": "there is no such flow",
    "no_such_letter": "there is no such letter",
    "not_acceptable": "`Accept` asks for none of the forms that there are",
    "other_name": "the flow has another name than the path",
    "other_origin": "a page of another origin may not send requests: `--allowed-origins`",
    "put_not_allowed": "flows are not taken over HTTP here",
    "stalled": "the body did not arrive in time",
    "stopping": "the service is shutting down",
    "store_unavailable": "the dead letters do not answer",
    "token_needed": "it is for whoever has the token; without one set, for this machine only",
    "too_many_flows": "as many flows, steps or services as allowed were uploaded; DELETE a flow first",
    "too_many_runs": "as many streams as allowed are open",
    "unsupported_encoding": "the body is compressed in another way",
    "unsupported_transfer": "its transfer is encoded in another way than chunked",
    "unsupported_type": "the body is of another kind",
}
"""What each `code` of a problem means."""

OF_PAGES = ("host_not_allowed", "other_origin")
"""Why a request is refused on every route but health checks."""

HEADERS: Part = {
    "Penstock-Run": {
        "description": "The id of the run, as the log and its dead letters have it.",
        "required": True,
        "schema": {"type": "string", "format": "uuid"},
    },
    "Penstock-Revision": {
        "description": "The number of the flow's revision that answers; later ones have higher numbers.",
        "required": True,
        "schema": {"type": "integer", "minimum": 1},
    },
    "Content-Encoding": {
        "description": "`gzip` when `Accept-Encoding` has it.",
        "schema": {"const": "gzip"},
    },
    "Retry-After": {
        "description": "Seconds after which to try again.",
        "required": True,
        "schema": {"type": "integer", "minimum": 0, "examples": [RETRY_SECONDS]},
    },
    "WWW-Authenticate": {"required": True, "schema": {"type": "string"}},
}

Answers = dict[int, Part]
"""The answers of an operation, by status."""


def operation(id: str, tag: str, summary: str, answers: Answers, **more: Any) -> Part:
    """What one method of a path does. Some refusals belong to every one: no request is ever safe from them.

    Those for a host or an origin do not belong to health checks; operations with other reasons for a 403 have them too.
    """
    pages = {} if id.startswith("health.") else {403: refusal(403, *OF_PAGES)}
    everywhere = {
        400: refusal(400, "bad_request"),
        431: refusal(431, "headers_too_large"),
        500: refusal(500, "broken", always=False),
    }
    responses = {str(status): part for status, part in sorted((everywhere | pages | answers).items())}
    return {"operationId": id, "tags": [tag], "summary": summary, **more, "responses": responses}


def head_of(get: Part) -> Part:
    """The HEAD that belongs to a GET: the same answers, without their bodies."""
    bare = {
        status: {name: value for name, value in part.items() if name != "content"}
        for status, part in get["responses"].items()
    }
    own = {"operationId": f"{get['operationId']}.head", "summary": f"{get['summary']} (headers only)"}
    return get | own | {"responses": bare}


def answer(description: str, *headers: str, **content: Part) -> Part:
    """An answer with a body; `json=schema`, or `content={type: schema}` for other types."""
    kinds: Part = content.pop("content", {}) | ({JSON: content.pop("json")} if "json" in content else {})
    part: Part = {"description": description, "content": {kind: {"schema": schema} for kind, schema in kinds.items()}}
    if headers:
        part["headers"] = {name: {"$ref": f"#/components/headers/{name}"} for name in headers}
    return part


def refusal(status: int, *codes: str, always: bool = True) -> Part:
    """A problem document with one of these codes; `always` says whether it has a code in every case."""
    extra = {401: ("WWW-Authenticate",), 503: ("Retry-After",)}.get(status, ())
    schema: Part = {
        **ref("Problem"),
        "properties": {"status": {"const": status}, "code": {"enum": list(codes)}},
    }
    if always:
        schema["required"] = ["code"]
    meanings = "; ".join(f"`{code}`: {CODES[code]}" for code in codes)
    return answer(f"{HTTPStatus(status).phrase}. {meanings}.", *extra, content={PROBLEM: schema})


def either(one: Part, other: Part) -> Part:
    """An answer of a status that comes in two forms. A header is sure only if both have it."""
    ours, theirs = one.get("headers", {}), other.get("headers", {})
    sure = ours.keys() & theirs.keys()
    return {
        "description": f"{one['description']} {other['description']}",
        "headers": {
            name: part if name in sure else HEADERS[name] | {"required": False}
            for name, part in (ours | theirs).items()
        },
        "content": one["content"] | other["content"],
    }


def query(name: str, description: str, **schema: Any) -> Part:
    """A parameter of the query."""
    return {"name": name, "in": "query", "description": description, "schema": schema}


def header(name: str, description: str, **schema: Any) -> Part:
    """A header of the request."""
    return {"name": name, "in": "header", "description": description, "schema": schema}


def ref(name: str) -> Part:
    """A reference to a schema."""
    return {"$ref": f"#/components/schemas/{name}"}
