"""The operations of the service for `/openapi.json`: what each takes, what it answers, and how it refuses."""

from __future__ import annotations

from penstock.deadletters import PAGE, PAGE_LIMIT
from penstock.settings import Settings
from penstock_http.context import Context, Served
from penstock_http.negotiation import ENCODINGS, JSON, NDJSON, SAME, SSE
from penstock_http.parts import Answers, Part, answer, either, header, operation, query, ref, refusal
from penstock_http.routes.bulk import SAMPLES
from penstock_http.routes.graphs import TYPES

_TEXTS = {
    "flow": "Letters of this flow.",
    "run": "Letters of this run.",
    "step": "Letters of this step.",
    "type": "Letters of this error, such as `TimedOut`.",
    "state": "Letters in this state.",
}
_TIMES = {
    "since": "Failed at this time or later, such as `2030-01-31T12:00:00Z`; UTC unless it names another zone.",
    "until": "Failed before this time.",
}


def readings(context: Context) -> dict[str, Part]:
    """What is answered to a GET and to a HEAD, by path."""
    name = {"name": "name", "in": "path", "required": True, "schema": {"enum": list(context.flows)}}
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
            {200: answer("The letter.", json=ref("Letter")), 404: refusal(404, "no_such_letter")},
            [id],
            context,
        ),
        "/flows": operation("flows.list", "flows", "What is served", {200: answer("All flows.", json=ref("Flows"))}),
        "/flows/{name}": operation(
            "flows.show",
            "flows",
            "One flow",
            {200: answer("The flow.", json=ref("Flow")), 404: refusal(404, "no_such_flow")},
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
                404: refusal(404, "no_such_flow"),
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
            {200: answer("It may.", json=ref("Ready")), 503: answer("It stops.", json=ref("Stopping"))},
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


def guarded(id: str, summary: str, answers: Answers, parameters: list[Part], context: Context) -> Part:
    """An operation on dead letters: with a token set it is asked for, without one it is not looked at."""
    refusals = {
        400: refusal(400, "bad_request", "bad_parameter"),
        401: refusal(401, "token_needed"),
        403: refusal(403, "token_needed"),
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
    return [*texts, *times, query("after", "The `next` of the page before.", type="string"), limit]


def bulk(served: Served, item: Part, settings: Settings) -> Part:
    """The path of a flow. Without samples there is no GET."""
    name = served.flow.name
    body = {
        "description": f"Items, one a line of at most {settings.max_line} bytes; or an array of at most "
        f"{settings.max_body} bytes. The limits hold for what is unpacked. What is no item of the flow fails alone.",
        "required": True,
        "content": {kind: {"schema": {"description": "Each line.", **item}} for kind in (NDJSON, *SAME)}
        | {JSON: {"schema": {"type": "array", "items": item}}},
    }
    packed = header("Content-Encoding", "How the body is compressed.", enum=list(ENCODINGS), default="identity")
    post = operation(
        f"{name}.run",
        "bulk",
        f"Run items through the flow {name}",
        results()
        | {
            400: either(
                refusal(400, "bad_request", "bad_parameter", "malformed", "no_array", "broken_body"), ended("failed")
            ),
            408: either(refusal(408, "stalled"), ended("stalled")),
            413: refusal(413, "body_too_large", "answer_too_large"),
            415: refusal(415, "unsupported_type", "unsupported_encoding"),
        },
        parameters=[*forms(), packed],
        requestBody=body,
    )
    if served.samples is None:
        return {"post": post}
    count = query("count", "How many.", type="integer", minimum=1, maximum=settings.max_count, default=SAMPLES)
    get = operation(
        f"{name}.sample",
        "bulk",
        f"Run sample items through the flow {name}",
        results()
        | {
            400: either(refusal(400, "bad_request", "bad_parameter"), ended("failed")),
            413: refusal(413, "answer_too_large"),
        },
        parameters=[count, *forms()],
    )
    return {"get": get, "post": post}


def forms() -> list[Part]:
    """The parameters that say how results are to come."""
    order = query("order", "The order of the results.", enum=["completion", "input"], default="completion")
    return [order, header("Accept-Encoding", "With `gzip` in it a stream is compressed.", type="string")]


def results() -> Answers:
    """What running items answers, whichever way they came."""
    stream = {
        NDJSON: {"description": "Each line is a record.", **ref("Record")},
        SSE: {
            "description": "The `data` of each event is a record. Events are `result`, with the `seq` (and `.part`) "
            "as `id`, and `end`.",
            **ref("Record"),
        },
    }
    return {
        200: answer(
            "Results, then the end.", "Penstock-Run", "Content-Encoding", content=stream | {JSON: ref("Document")}
        ),
        207: answer("In one piece, when an item failed.", "Penstock-Run", json=ref("Document")),
        406: refusal(406, "not_acceptable"),
        503: either(refusal(503, "stopping", "too_many_runs", "store_unavailable"), ended("draining", "Retry-After")),
    }


def ended(reason: str, *headers: str) -> Part:
    """The answer in one piece of a run that did not come to its own end."""
    return answer(f"In one piece, when it ended as `{reason}`.", "Penstock-Run", *headers, json=ref("Document"))
