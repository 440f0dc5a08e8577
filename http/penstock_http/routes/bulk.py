"""`/NAME/bulk`: run items through a flow. Input and results are streams."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import structlog
from aiohttp import HttpVersion11, web
from msgspec import Struct

from penstock.core.deadlines import RunDeadline
from penstock.errors import PenstockError, SourceFailed
from penstock.results import LineWriter, NdjsonFormat, RecordFormat, ResultConsumer, ServerSentEvents
from penstock.runtime import EndReason, Order, Run, Summary
from penstock.sources import Source, from_iterable, generate, ndjson
from penstock.support.decompression import decompressed
from penstock_http.deployments.revision import Revision
from penstock_http.media import JSON, NDJSON, SSE
from penstock_http.problems import RETRY_SECONDS, RequestRejected, rejection_for
from penstock_http.requests import negotiation
from penstock_http.requests.body import read_array, send_continue
from penstock_http.requests.deadline import deadline_of
from penstock_http.requests.stall_detector import StallDetector
from penstock_http.responses.client_monitor import RequestBody
from penstock_http.responses.streaming import (
    CHUNK_SIZE,
    BufferedResponse,
    StreamedResponse,
    finish_stream,
    wait_for_run,
    write_document,
)
from penstock_http.state import STATE, AppState

log: structlog.stdlib.BoundLogger = structlog.get_logger()

StartRun = Callable[[ResultConsumer], Run]

HEADERS = {"Cache-Control": "no-store", "Vary": "Accept, Accept-Encoding", "X-Accel-Buffering": "no"}
FORMATS: dict[str, RecordFormat] = {NDJSON: NdjsonFormat(), SSE: ServerSentEvents()}
"""The format of the records for each media type that is streamed."""

DEFAULT_COUNT = 10
"""Sample items of a GET without `count`."""


class BulkRequest(Struct):
    """The options of a request, with the defaults of the flow and of the service."""

    media_type: str
    """The media type of the response."""
    order: Order
    """The order of results."""
    stall_detector: StallDetector
    max_body: int
    """Maximum bytes of a JSON document in either direction."""
    deadline: RunDeadline | None
    """When all items must be finished."""

    @classmethod
    def of(cls, request: web.Request, state: AppState, revision: Revision) -> BulkRequest:
        """Read the options of a request. Raises 400 and 406."""
        settings, flow = state.settings, revision.flow
        media_type, order = negotiation.response_type(request), negotiation.order_parameter(request, flow)
        deadline = deadline_of(request, asyncio.get_running_loop().time())
        stall_detector = StallDetector(settings.stall_timeout, settings.min_rate)
        return cls(media_type, order, stall_detector, flow.serving.max_body or settings.max_body, deadline)


async def get_bulk(request: web.Request) -> web.StreamResponse:
    """Run sample items through a flow."""
    state = request.app[STATE]
    with state.revision_at(request.match_info["name"]).use() as revision:
        if _is_reconnect(request):
            return _stop_reconnecting(request, state)
        negotiation.reject_unknown_parameters(request, "count", "order")
        samples = revision.flow.sample_factory
        if samples is None:
            raise RequestRejected(
                405, "no_samples", f"flow {revision.name} has no samples; send items with POST", {"Allow": "POST"}
            )
        max_count = revision.flow.serving.max_count or state.settings.max_count
        count = negotiation.integer_parameter(request.query, "count", min(DEFAULT_COUNT, max_count), 1, max_count)
        options = BulkRequest.of(request, state, revision)
        with state.admit(revision):
            state.check_services(revision)
            return await respond(request, state, revision, generate(count, samples), options)


async def post_bulk(request: web.Request) -> web.StreamResponse:
    """Run the items in the body through a flow."""
    state = request.app[STATE]
    with state.revision_at(request.match_info["name"]).use() as revision:
        if _is_reconnect(request):
            raise RequestRejected(
                409, "cannot_resume", "a run cannot be resumed by Last-Event-ID; send items without it"
            )
        negotiation.reject_unknown_parameters(request, "order")
        options = BulkRequest.of(request, state, revision)
        media_type, encoding = negotiation.body_type(request)
        with state.admit(revision):
            state.check_services(revision)
            if media_type == JSON:
                with state.supervisor.reserve_slot():
                    await send_continue(request)
                    items = await read_array(request, encoding, options.max_body, options.stall_detector)
                return await respond(request, state, revision, from_iterable(items, size=len), options)
            body = RequestBody(request)
            limit = revision.flow.serving.max_line or state.settings.max_line
            source = ndjson(decompressed(body, encoding), limit=limit)
            await send_continue(request)
            return await respond(request, state, revision, source, options, body)


async def respond(
    request: web.Request,
    state: AppState,
    revision: Revision,
    source: Source[Any],
    options: BulkRequest,
    body: RequestBody | None = None,
) -> web.StreamResponse:
    """Run a source through a flow and respond with a stream or one document."""
    supervisor, is_stream = state.supervisor, options.media_type != JSON

    def start(consumer: ResultConsumer) -> Run:
        return supervisor.start(
            revision,
            source,
            consumer,
            kind="http",
            ordered=options.order,
            limited=is_stream,
            deadline=options.deadline,
        )

    if is_stream:
        format, stall_timeout = FORMATS[options.media_type], state.settings.stall_timeout
        return await respond_streamed(request, start, body, options.stall_detector, format, stall_timeout)
    with supervisor.hold_slot():
        return await respond_buffered(request, start, body, options.stall_detector, options.max_body)


async def respond_streamed(
    request: web.Request,
    start: StartRun,
    body: RequestBody | None,
    stall_detector: StallDetector,
    format: RecordFormat,
    stall_timeout: float,
) -> web.StreamResponse:
    """Stream each result as soon as it is available, then the end record."""
    gzip = negotiation.accepts_gzip(request)
    response = web.StreamResponse(headers=HEADERS | {"Content-Type": format.media_type})
    if gzip:
        response.headers["Content-Encoding"] = "gzip"
    output = StreamedResponse(response, gzip=gzip)
    writer = LineWriter(output.write, format)
    run = start(writer)
    response.headers.update(run_headers(run))
    if request.version < HttpVersion11:  # HTTP/1.0 has no chunks: closing the connection ends the response
        response.force_close()
    summary = await wait_for_run(request, response, run, writer, body, output, stall_detector, format.opening)
    await finish_stream(request, response, output, format, summary, stall_timeout)
    return response


async def respond_buffered(
    request: web.Request, start: StartRun, body: RequestBody | None, stall_detector: StallDetector, limit: int
) -> web.StreamResponse:
    """Respond with all results in one document: 200, or 207 if an item failed."""
    output = BufferedResponse(limit)
    writer = LineWriter(output.write)
    run = start(writer)
    summary = await wait_for_run(request, None, run, writer, body, output, stall_detector)
    if isinstance(run.error, PenstockError) and (rejection := rejection_for(run.error)) is not None:
        raise rejection
    results = b",".join(b"".join(output.chunks).splitlines())
    document = b'{"results":[%b],"end":%b}\n' % (results, msgspec.json.encode(summary.end_record()))
    status = _status(summary, body_failed=body is not None and isinstance(run.error, SourceFailed))
    headers = HEADERS | run_headers(run) | ({"Retry-After": str(RETRY_SECONDS)} if status == 503 else {})
    if len(document) <= CHUNK_SIZE:
        return web.Response(status=status, body=document, content_type=JSON, headers=headers)
    output.chunks.clear()
    response = web.StreamResponse(status=status, headers=headers | {"Content-Type": JSON})
    await write_document(request, response, document, stall_detector)
    return response


def run_headers(run: Run) -> dict[str, str]:
    """Return the headers that identify a run and its revision."""
    return {"Penstock-Run": run.id, "Penstock-Revision": str(run.revision)}


def _is_reconnect(request: web.Request) -> bool:
    """Return whether an EventSource reconnects after it has received the start of a stream."""
    return bool(request.headers.get("Last-Event-ID"))


def _stop_reconnecting(request: web.Request, state: AppState) -> web.Response:
    """Return 204 without a run, so that an EventSource stops reconnecting (WHATWG HTML, section 9.2.3)."""
    state.counters.rejected["cannot_resume"] += 1
    log.info("http.rejected", path=request.path, status=204, reason="cannot_resume")
    return web.Response(status=204, headers=HEADERS)


def _status(summary: Summary, *, body_failed: bool) -> int:
    """Return the status of a response in one document."""
    match summary.reason:
        case EndReason.COMPLETED:
            return 207 if summary.failed else 200
        case EndReason.STALLED:
            return 408
        case EndReason.FAILED:
            return 400 if body_failed else 500
        case _:
            return 503
