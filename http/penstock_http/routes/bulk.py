"""`/NAME/bulk`: items in, results out, both as streams."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import structlog
from aiohttp import HttpVersion11, web
from msgspec import Struct

from penstock.errors import PenstockError, SourceFailed
from penstock.results import LineWriter, NdjsonFormat, RecordFormat, ResultConsumer, ServerSentEvents
from penstock.runtime import Run, Summary
from penstock.sources import Source, from_iterable, generate, ndjson
from penstock.support.decompression import decompressed
from penstock_http.deployments.revision import Revision
from penstock_http.media import JSON, NDJSON, SSE
from penstock_http.problems import RETRY_SECONDS, RequestRejected, rejection_for
from penstock_http.requests import negotiation
from penstock_http.requests.body import read_array, send_continue
from penstock_http.requests.stall_detector import StallDetector
from penstock_http.responses.client_monitor import RequestBody
from penstock_http.responses.streaming import (
    PIECE,
    BufferedResponse,
    StreamedResponse,
    finish_stream,
    wait_for_run,
    write_document,
)
from penstock_http.state import CONTEXT, AppState

log: structlog.stdlib.BoundLogger = structlog.get_logger()

Start = Callable[[ResultConsumer], Run]

HEADERS = {"Cache-Control": "no-store", "Vary": "Accept, Accept-Encoding", "X-Accel-Buffering": "no"}
FORMS: dict[str, RecordFormat] = {NDJSON: NdjsonFormat(), SSE: ServerSentEvents()}

SAMPLES = 10
"""Sample items that a GET makes unless it says how many."""


async def get_bulk(request: web.Request) -> web.StreamResponse:
    """Run sample items through a flow."""
    context = request.app[CONTEXT]
    with context.served(request.match_info["name"]).use() as revision:
        if is_reconnect(request):
            return no_further_run(request, context)
        negotiation.reject_unknown_parameters(request, "count", "order")
        samples = revision.flow.sample_factory
        if samples is None:
            raise RequestRejected(
                405, "no_samples", f"flow {revision.name} has no sample items; POST some", {"Allow": "POST"}
            )
        most = revision.flow.serving.max_count or context.settings.max_count
        count = negotiation.number(request.query, "count", min(SAMPLES, most), 1, most)
        asked = BulkRequest.of(request, context, revision)
        context.check(revision)
        return await respond(request, context, revision, generate(count, samples), asked)


async def post_bulk(request: web.Request) -> web.StreamResponse:
    """Run the items of the body through a flow."""
    context = request.app[CONTEXT]
    with context.served(request.match_info["name"]).use() as revision:
        if is_reconnect(request):
            raise RequestRejected(
                409, "cannot_resume", "a run cannot be resumed by Last-Event-ID; send items without it"
            )
        negotiation.reject_unknown_parameters(request, "order")
        asked = BulkRequest.of(request, context, revision)
        kind, encoding = negotiation.body_type(request)
        context.check(revision)
        if kind == JSON:
            with context.supervisor.reserve_slot():
                await send_continue(request)
                items = await read_array(request, encoding, asked.max_body, asked.pace)
            return await respond(request, context, revision, from_iterable(items, size=len), asked)
        body = RequestBody(request)
        limit = revision.flow.serving.max_line or context.settings.max_line
        source = ndjson(decompressed(body, encoding), limit=limit)
        await send_continue(request)
        return await respond(request, context, revision, source, asked, body)


def is_reconnect(request: web.Request) -> bool:
    """Whether a client of server-sent events connects again after a stream that it has seen the start of."""
    return bool(request.headers.get("Last-Event-ID"))


def no_further_run(request: web.Request, context: AppState) -> web.Response:
    """204, the answer that makes an EventSource stop connecting again (WHATWG HTML, section 9.2.3); nothing runs."""
    context.requests.rejected["cannot_resume"] += 1
    log.info("http.rejected", path=request.path, status=204, reason="cannot_resume")
    return web.Response(status=204, headers=HEADERS)


class BulkRequest(Struct):
    """What a client asked for: the form of the answer, its order; how it keeps pace, and what it may send or get."""

    kind: str
    ordered: bool
    pace: StallDetector
    max_body: int

    @classmethod
    def of(cls, request: web.Request, context: AppState, revision: Revision) -> BulkRequest:
        """What a request asks for; raises 400 and 406."""
        settings, flow = context.settings, revision.flow
        kind, ordered = negotiation.response_type(request), negotiation.ordered(request, flow.ordered)
        pace = StallDetector(settings.stall_timeout, settings.min_rate)
        return cls(kind, ordered, pace, flow.serving.max_body or settings.max_body)


async def respond(
    request: web.Request,
    context: AppState,
    revision: Revision,
    source: Source[Any],
    asked: BulkRequest,
    body: RequestBody | None = None,
) -> web.StreamResponse:
    """Run a source through a flow and answer in the form that was asked for."""

    supervisor, streams = context.supervisor, asked.kind != JSON

    def start(sink: ResultConsumer) -> Run:
        return supervisor.start(revision, source, sink, kind="http", ordered=asked.ordered, limited=streams)

    if streams:
        return await respond_streamed(
            request, start, body, asked.pace, FORMS[asked.kind], context.settings.stall_timeout
        )
    with supervisor.hold_slot():
        return await respond_buffered(request, start, body, asked.pace, asked.max_body)


async def respond_streamed(
    request: web.Request, start: Start, body: RequestBody | None, pace: StallDetector, form: RecordFormat, stall: float
) -> web.StreamResponse:
    """Each result as soon as it is ready, then the end record."""
    gzip = negotiation.accepts_gzip(request)
    response = web.StreamResponse(headers=HEADERS | {"Content-Type": form.media_type})
    if gzip:
        response.headers["Content-Encoding"] = "gzip"
    output = StreamedResponse(response, gzip=gzip)
    sink = LineWriter(output.write, form)
    run = start(sink)
    response.headers.update(run_headers(run))
    if request.version < HttpVersion11:  # which knows no chunks: the end of the connection is that of the answer
        response.force_close()
    summary = await wait_for_run(request, response, run, sink, body, output, pace, form.opening)
    await finish_stream(request, response, output, form, summary, stall)
    return response


async def respond_buffered(
    request: web.Request, start: Start, body: RequestBody | None, pace: StallDetector, limit: int
) -> web.StreamResponse:
    """All results in one document: 200, or 207 when an item failed."""
    output = BufferedResponse(limit)
    sink = LineWriter(output.write)
    run = start(sink)
    summary = await wait_for_run(request, None, run, sink, body, output, pace)
    if isinstance(run.error, PenstockError) and (refused := rejection_for(run.error)) is not None:
        raise refused
    results = b",".join(b"".join(output.pieces).splitlines())
    document = b'{"results":[%b],"end":%b}\n' % (results, msgspec.json.encode(summary.end_record()))
    status = _status(summary, body_broke=body is not None and isinstance(run.error, SourceFailed))
    headers = HEADERS | run_headers(run) | ({"Retry-After": str(RETRY_SECONDS)} if status == 503 else {})
    if len(document) <= PIECE:
        return web.Response(status=status, body=document, content_type=JSON, headers=headers)
    output.pieces.clear()
    response = web.StreamResponse(status=status, headers=headers | {"Content-Type": JSON})
    await write_document(request, response, document, pace)
    return response


def run_headers(run: Run) -> dict[str, str]:
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
