"""`/NAME/bulk`: items in, results out, both as streams."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import structlog
from aiohttp import HttpVersion11, web
from msgspec import Struct

from penstock.errors import PenstockError, SourceBroke
from penstock.runtime import Run, Summary
from penstock.sinks import Form, Lines, Ndjson, ServerSentEvents, Sink
from penstock.sources import Source, from_iterable, generated, ndjson
from penstock_http import negotiation
from penstock_http.arrays import read_array
from penstock_http.catalogue.revision import Revision
from penstock_http.context import CONTEXT, Context
from penstock_http.decompression import decompressed
from penstock_http.expectation import send_continue
from penstock_http.negotiation import JSON, NDJSON, SSE
from penstock_http.pace import Pace
from penstock_http.problems import RETRY_SECONDS, Refused, refusal_of
from penstock_http.streaming import PIECE, Collected, Output, conclude, deliver, follow
from penstock_http.watch import Body

log: structlog.stdlib.BoundLogger = structlog.get_logger()

Start = Callable[[Sink], Run]

HEADERS = {"Cache-Control": "no-store", "Vary": "Accept, Accept-Encoding", "X-Accel-Buffering": "no"}
FORMS: dict[str, Form] = {NDJSON: Ndjson(), SSE: ServerSentEvents()}

SAMPLES = 10
"""Sample items that a GET makes unless it says how many."""


async def get_bulk(request: web.Request) -> web.StreamResponse:
    """Run sample items through a flow."""
    context = request.app[CONTEXT]
    with context.served(request.match_info["name"]).held() as revision:
        if is_reconnect(request):
            return no_further_run(request, context)
        negotiation.only(request, "count", "order")
        samples = revision.flow.samples
        if samples is None:
            raise Refused(405, "no_samples", f"flow {revision.name} has no sample items; POST some", {"Allow": "POST"})
        most = revision.flow.serving.max_count or context.settings.max_count
        count = negotiation.number(request.query, "count", min(SAMPLES, most), 1, most)
        asked = Asked.of(request, context, revision)
        context.check(revision)
        return await answer(request, context, revision, generated(count, samples), asked)


async def post_bulk(request: web.Request) -> web.StreamResponse:
    """Run the items of the body through a flow."""
    context = request.app[CONTEXT]
    with context.served(request.match_info["name"]).held() as revision:
        if is_reconnect(request):
            raise Refused(409, "cannot_resume", "a run cannot be resumed by Last-Event-ID; send items without it")
        negotiation.only(request, "order")
        asked = Asked.of(request, context, revision)
        kind, encoding = negotiation.body_type(request)
        context.check(revision)
        if kind == JSON:
            with context.supervisor.place():
                await send_continue(request)
                items = await read_array(request, encoding, asked.max_body, asked.pace)
            return await answer(request, context, revision, from_iterable(items, size=len), asked)
        body = Body(request)
        limit = revision.flow.serving.max_line or context.settings.max_line
        source = ndjson(decompressed(body, encoding), limit=limit)
        await send_continue(request)
        return await answer(request, context, revision, source, asked, body)


def is_reconnect(request: web.Request) -> bool:
    """Whether a client of server-sent events connects again after a stream that it has seen the start of."""
    return bool(request.headers.get("Last-Event-ID"))


def no_further_run(request: web.Request, context: Context) -> web.Response:
    """204, the answer that makes an EventSource stop connecting again (WHATWG HTML, section 9.2.3); nothing runs."""
    context.requests.refused["cannot_resume"] += 1
    log.info("http.rejected", path=request.path, status=204, reason="cannot_resume")
    return web.Response(status=204, headers=HEADERS)


class Asked(Struct):
    """What a client asked for: the form of the answer, its order; how it keeps pace, and what it may send or get."""

    kind: str
    ordered: bool
    pace: Pace
    max_body: int

    @classmethod
    def of(cls, request: web.Request, context: Context, revision: Revision) -> Asked:
        """What a request asks for; raises 400 and 406."""
        settings, flow = context.settings, revision.flow
        kind, ordered = negotiation.answer_type(request), negotiation.ordered(request, flow.ordered)
        pace = Pace(settings.stall_timeout, settings.min_rate)
        return cls(kind, ordered, pace, flow.serving.max_body or settings.max_body)


async def answer(
    request: web.Request,
    context: Context,
    revision: Revision,
    source: Source[Any],
    asked: Asked,
    body: Body | None = None,
) -> web.StreamResponse:
    """Run a source through a flow and answer in the form that was asked for."""

    supervisor, streams = context.supervisor, asked.kind != JSON

    def start(sink: Sink) -> Run:
        return supervisor.start(revision, source, sink, kind="http", ordered=asked.ordered, limited=streams)

    if streams:
        return await streamed(request, start, body, asked.pace, FORMS[asked.kind], context.settings.stall_timeout)
    with supervisor.answering():
        return await at_once(request, start, body, asked.pace, asked.max_body)


async def streamed(
    request: web.Request, start: Start, body: Body | None, pace: Pace, form: Form, stall: float
) -> web.StreamResponse:
    """Each result as soon as it is ready, then the end record."""
    gzip = negotiation.takes_gzip(request)
    response = web.StreamResponse(headers=HEADERS | {"Content-Type": form.media_type})
    if gzip:
        response.headers["Content-Encoding"] = "gzip"
    output = Output(response, gzip=gzip)
    sink = Lines(output.write, form)
    run = start(sink)
    response.headers.update(named(run))
    if request.version < HttpVersion11:  # which knows no chunks: the end of the connection is that of the answer
        response.force_close()
    summary = await follow(request, response, run, sink, body, output, pace, form.opening)
    await conclude(request, response, output, form, summary, stall)
    return response


async def at_once(request: web.Request, start: Start, body: Body | None, pace: Pace, limit: int) -> web.StreamResponse:
    """All results in one document: 200, or 207 when an item failed."""
    output = Collected(limit)
    sink = Lines(output.write)
    run = start(sink)
    summary = await follow(request, None, run, sink, body, output, pace)
    if isinstance(run.error, PenstockError) and (refused := refusal_of(run.error)) is not None:
        raise refused
    results = b",".join(b"".join(output.pieces).splitlines())
    document = b'{"results":[%b],"end":%b}\n' % (results, msgspec.json.encode(summary.end()))
    status = _status(summary, body_broke=body is not None and isinstance(run.error, SourceBroke))
    headers = HEADERS | named(run) | ({"Retry-After": str(RETRY_SECONDS)} if status == 503 else {})
    if len(document) <= PIECE:
        return web.Response(status=status, body=document, content_type=JSON, headers=headers)
    output.pieces.clear()
    response = web.StreamResponse(status=status, headers=headers | {"Content-Type": JSON})
    await deliver(request, response, document, pace)
    return response


def named(run: Run) -> dict[str, str]:
    """The headers that tell which run it is, of which revision."""
    return {"Penstock-Run": run.id, "Penstock-Revision": str(run.revision)}


def _status(summary: Summary, *, body_broke: bool) -> int:
    """The status of an answer in one piece."""
    match summary.reason:
        case "completed":
            return 207 if summary.failed else 200
        case "stalled":
            return 408
        case "failed":
            return 400 if body_broke else 500
        case _:
            return 503
