"""Stream a response that is not a run: an export, failures, the progress of a job. Bounded, with backpressure."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import structlog
from aiohttp import HttpVersion11, hdrs, web

from penstock.errors import PenstockError, ShuttingDown, describe
from penstock_http.requests.negotiation import accepts_gzip
from penstock_http.requests.stall_detector import StallDetector
from penstock_http.responses.streaming import CHUNK_SIZE, StreamedResponse
from penstock_http.state import STATE, OpenStreams

log: structlog.stdlib.BoundLogger = structlog.get_logger()

HEADERS = {
    "Cache-Control": "no-store",
    "Vary": "Accept, Accept-Encoding",
    "X-Accel-Buffering": "no",
    "X-Content-Type-Options": "nosniff",  # the content is that of customers
}


async def stream_chunks(
    request: web.Request, media_type: str, chunks: AsyncGenerator[bytes, None], *, flush: bool = False
) -> web.StreamResponse:
    """Respond with chunks of bytes as they come; small ones are joined, unless `flush` is set.

    The first one is awaited before the response starts, so that an error until then rejects the request. After that an
    error, or the stop of the service, cuts the connection: a stream that ends as HTTP defines is complete.
    """
    state = request.app[STATE]
    with state.streams.enter():
        async with aclosing(chunks) as source:
            response = web.StreamResponse(headers=HEADERS | {hdrs.CONTENT_TYPE: media_type})
            if gzip := accepts_gzip(request):
                response.headers[hdrs.CONTENT_ENCODING] = "gzip"
            if request.version < HttpVersion11:  # HTTP/1.0 has no chunks: closing the connection ends the response
                response.force_close()
            if request.method == hdrs.METH_HEAD:
                await response.prepare(request)
                return response
            first = await anext(source, b"")
            await response.prepare(request)
            stall_detector = StallDetector(state.settings.stall_timeout, state.settings.min_rate)
            output = StreamedResponse(response, gzip=gzip)
            try:
                await _write_all(first, source, output, stall_detector, state.streams, flush=flush)
                await stall_detector.write(output.end(b""), 0)
            except Exception as error:
                if isinstance(error, TimeoutError | ConnectionError | PenstockError):
                    log.warning("stream.cut", path=request.path, error=describe(error), response_bytes=output.bytes)
                else:
                    log.error("http.internal_error", path=request.path, exc_info=error)
                if request.transport is not None:
                    request.transport.abort()
                raise ConnectionResetError("the stream was cut") from None
            return response


async def _write_all(
    first: bytes,
    source: AsyncIterator[bytes],
    output: StreamedResponse,
    stall_detector: StallDetector,
    streams: OpenStreams,
    *,
    flush: bool,
) -> None:
    buffered = bytearray(first)
    if flush and buffered:
        await stall_detector.write(output.write(bytes(buffered)), len(buffered))
        buffered.clear()
    async for chunk in source:
        buffered += chunk
        if flush or len(buffered) >= CHUNK_SIZE:
            await stall_detector.write(output.write(bytes(buffered)), len(buffered))
            buffered.clear()
            await asyncio.sleep(0)  # a write does not wait while there is buffer space
        if streams.stopping.is_set() and not flush:
            raise ShuttingDown
    if buffered:
        await stall_detector.write(output.write(bytes(buffered)), len(buffered))
