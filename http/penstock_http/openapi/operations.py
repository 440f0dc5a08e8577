"""The operations of the service for `/openapi.json`: what each takes, what it answers, and how it refuses."""

from __future__ import annotations

from penstock.deadletters import PAGE, PAGE_LIMIT
from penstock.files.limits import MAX_BYTES
from penstock_http.context import Context
from penstock_http.negotiation import FLOWS, JSON
from penstock_http.openapi.parts import OF_PAGES, Answers, Part, answer, operation, query, ref, refusal
from penstock_http.routes.graphs import TYPES

_TEXTS = {
    "flow": "Letters of this flow.",
    "run": "Letters of this run.",
    "step": "Letters of this step.",
    "type": "Letters of this error, such as `TimedOut`.",
    "state": "Letters in this state: waiting or parked.",
}
_TIMES = {
    "since": "Failed at this time or later, such as `2030-01-31T12:00:00Z`; UTC unless it names another zone.",
    "until": "Failed before this time.",
}


def readings(context: Context) -> dict[str, Part]:
    """What is answered to a GET and to a HEAD, by path."""
    name = {"name": "name", "in": "path", "required": True, "schema": {"enum": list(context.catalogue.entries)}}
    id = {"name": "id", "in": "path", "required": True, "schema": {"type": "string", "format": "uuid"}}
    return {
        "/dead-letters": guarded(
            "deadLetters.list",
            "What failed, by page",
            {200: answer("A page.", json=ref("Letters"))},
            letter_filters(),
            context,
        ),
        "/dead-letters/{id}": guarded(
            "deadLetters.show",
            "One letter",
            {200: answer("The letter.", json=ref("Letter")), 404: refusal(404, "dead_letter_not_found")},
            [id],
            context,
        ),
        "/flows": operation("flows.list", "flows", "What is served", {200: answer("All flows.", json=ref("Flows"))}),
        "/flows/{name}": operation(
            "flows.show",
            "flows",
            "One flow",
            {200: answer("The flow.", json=ref("Flow")), 404: refusal(404, "flow_not_found")},
            parameters=[name],
        ),
        "/flows/{name}/graph": operation(
            "flows.graph",
            "flows",
            "One flow as a picture, with live numbers",
            {
                200: answer(
                    "The picture. Without `format`, it is SVG for browsers and JSON for others, by `Accept`.",
                    content={kind: {"type": "string"} for kind in TYPES.values()} | {JSON: ref("Graph")},
                ),
                400: refusal(400, "bad_request", "bad_parameter"),
                404: refusal(404, "flow_not_found"),
                406: refusal(406, "not_acceptable"),
            },
            parameters=[name, query("format", "The form of the picture.", enum=list(TYPES))],
        ),
        "/health/live": operation(
            "health.live", "health", "Does the process work?", {200: answer("It does.", json=ref("Live"))}
        ),
        "/health/ready": operation(
            "health.ready",
            "health",
            "May it be given work?",
            {
                200: answer("It may.", json=ref("Ready")),
                503: answer(
                    "It stops, or dead letters cannot be stored.",
                    json={"oneOf": [ref("Stopping"), ref("StoresUnusable")]},
                ),
            },
        ),
        "/metrics": operation(
            "metrics",
            "health",
            "Everything that is counted, for Prometheus; the form follows `Accept`",
            {
                200: answer(
                    "All series.",
                    content={kind: {"type": "string"} for kind in ("text/plain", "application/openmetrics-text")},
                )
            },
        ),
        "/openapi.json": operation(
            "openapi", "health", "This description", {200: answer("It.", json={"type": "object"})}
        ),
    }


def put_flow(context: Context) -> Part:
    """The operation that brings a flow."""
    token = [{"token": list[str]()}]
    name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
    limit = min(context.settings.max_body, MAX_BYTES)
    body: Part = {
        "description": f"A flow file of at most {limit} bytes, of the name in the path.",
        "required": True,
        "content": {kind: {"schema": {}} for kind in FLOWS},
    }
    return operation(
        "flows.put",
        "flows",
        "Serve this flow from now on. It is checked first; it lives until its file is loaded again, or a restart",
        {
            200: answer("New runs take it; or it is what they take already; or it was only checked.", json=ref("Put")),
            201: answer("There was no flow of this name.", json=ref("Put")),
            400: refusal(400, "bad_request", "bad_parameter", "malformed_body", "body_decode_failed"),
            401: refusal(401, "unauthorized"),
            403: refusal(403, "unauthorized", "deployments_disabled", *OF_PAGES),
            408: refusal(408, "stalled"),
            409: refusal(409, "name_mismatch", "too_many_flows"),
            413: refusal(413, "body_too_large"),
            415: refusal(415, "unsupported_type", "unsupported_encoding"),
            422: refusal(422, "mistakes"),
            503: refusal(503, "shutting_down"),
        },
        parameters=[name, query("dry-run", "Only check it.", enum=["false", "true"], default="false")],
        requestBody=body,
        security=token if context.settings.token else [{}, *token],
    )


def delete_flow(context: Context) -> Part:
    """The operation that removes a flow that was uploaded."""
    token = [{"token": list[str]()}]
    name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
    return operation(
        "flows.delete",
        "flows",
        "Remove a flow that came by PUT: it takes no new runs, and those that are open go on to their end",
        {
            200: answer("It is removed.", json=ref("Receipt")),
            400: refusal(400, "bad_request", "bad_parameter"),
            401: refusal(401, "unauthorized"),
            403: refusal(403, "unauthorized", "deployments_disabled", "cross_origin"),
            404: refusal(404, "flow_not_found"),
            409: refusal(409, "not_uploaded"),
            503: refusal(503, "shutting_down"),
        },
        parameters=[name],
        security=token if context.settings.token else [{}, *token],
    )


def guarded(id: str, summary: str, answers: Answers, parameters: list[Part], context: Context) -> Part:
    """An operation on dead letters: with a token set it is asked for, without one it is not looked at."""
    refusals = {
        400: refusal(400, "bad_request", "bad_parameter"),
        401: refusal(401, "unauthorized"),
        403: refusal(403, "unauthorized", *OF_PAGES),
        503: refusal(503, "store_unavailable"),
    }
    token = [{"token": list[str]()}]
    security = token if context.settings.token else [{}, *token]
    return operation(id, "dead letters", summary, refusals | answers, parameters=parameters, security=security)


def letter_filters() -> list[Part]:
    """The parameters of a page of letters."""
    texts = [query(name, said, type="string") for name, said in _TEXTS.items()]
    times = [query(name, said, type="string", format="date-time") for name, said in _TIMES.items()]
    limit = query("limit", "Letters on the page.", type="integer", minimum=1, maximum=PAGE_LIMIT, default=PAGE)
    return [*texts, *times, query("after", "The `next` of the page before.", type="string", format="uuid"), limit]
