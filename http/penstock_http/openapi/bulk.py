"""The operations on `/NAME/bulk` for `/openapi.json`, as each flow has them."""

from __future__ import annotations

from penstock.settings import Settings
from penstock_http.catalogue.revision import Revision
from penstock_http.negotiation import ENCODINGS, JSON, NDJSON, SAME, SSE
from penstock_http.openapi.parts import Answers, Part, answer, either, header, operation, query, ref, refusal
from penstock_http.routes.bulk import SAMPLES

NAMED = ("Penstock-Run", "Penstock-Revision")
"""The headers that every answer of a run has."""


def bulk(revision: Revision, item: Part, settings: Settings) -> Part:
    """The path of a flow. Without samples there is no GET."""
    name, flow, serving = revision.name, revision.flow, revision.flow.serving
    most = serving.max_count or settings.max_count
    body = {
        "description": f"Items, one a line of at most {serving.max_line or settings.max_line} bytes; or an array of "
        f"at most {serving.max_body or settings.max_body} bytes. The limits hold for what is unpacked. "
        "What is no item of the flow fails alone.",
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
                refusal(400, "bad_request", "bad_parameter", "malformed_body", "not_an_array", "body_decode_failed"),
                ended("failed", because="the body broke"),
            ),
            408: either(refusal(408, "stalled"), ended("stalled")),
            409: refusal(409, "cannot_resume"),
            413: refusal(413, "body_too_large", "response_too_large"),
            415: refusal(415, "unsupported_type", "unsupported_encoding"),
            501: refusal(501, "unsupported_transfer"),
        },
        parameters=[*forms(flow.ordered), packed],
        requestBody=body,
    )
    if flow.samples is None:
        return {"post": post}
    count = query("count", "How many.", type="integer", minimum=1, maximum=most, default=min(SAMPLES, most))
    resume = header("Last-Event-ID", "Sent by an EventSource that connects again; answered with 204.", type="string")
    get = operation(
        f"{name}.sample",
        "bulk",
        f"Run sample items through the flow {name}",
        results()
        | {
            204: {
                "description": "The request has `Last-Event-ID`. No run starts; an EventSource stops connecting again."
            },
            400: refusal(400, "bad_request", "bad_parameter"),
            413: refusal(413, "response_too_large"),
        },
        parameters=[count, *forms(flow.ordered), resume],
    )
    return {"get": get, "post": post}


def forms(ordered: bool) -> list[Part]:
    """The parameters that say how results are to come."""
    default = "input" if ordered else "completion"
    order = query("order", "The order of the results.", enum=["completion", "input"], default=default)
    return [order, header("Accept-Encoding", "With `gzip` in it a stream is compressed.", type="string")]


def results() -> Answers:
    """What running items answers, whichever way they came."""
    stream = {
        NDJSON: {"description": "Each line is a record.", **ref("Record")},
        SSE: {
            "description": "The `data` of each event is a record. Events are `result`, with the `seq` (and `.part`) "
            "as `id`, and `end`. The stream opens with `retry` and an `id` of its own. On `end` a page has to call "
            "`close()`.",
            **ref("Record"),
        },
    }
    return {
        200: answer("Results, then the end.", *NAMED, "Content-Encoding", content=stream | {JSON: ref("Document")}),
        207: answer("In one piece, when an item failed.", *NAMED, json=ref("Document")),
        406: refusal(406, "not_acceptable"),
        500: either(refusal(500, "broken", always=False), ended("failed", because="the flow broke")),
        503: either(refusal(503, "shutting_down", "too_many_runs", "store_unavailable"), ended("draining", "Retry-After")),
    }


def ended(reason: str, *headers: str, because: str = "") -> Part:
    """The answer in one piece of a run that did not come to its own end."""
    why = f" because {because}" if because else ""
    return answer(f"In one piece, when it ended as `{reason}`{why}.", *NAMED, *headers, json=ref("Document"))
