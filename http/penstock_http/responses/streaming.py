"""Write the response of a run, streamed or as one document, while a monitor watches the client."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable

import structlog
from aiohttp import web

from penstock.errors import ReaderDisconnected, ResponseTooLarge
from penstock.results import LineWriter, RecordFormat
from penstock.runtime import EndReason, Run, Summary
from penstock_http.requests.stall_detector import StallDetector
from penstock_http.responses.client_monitor import ClientMonitor, RequestBody

log: structlog.stdlib.BoundLogger = structlog.get_logger()

CHUNK_SIZE = 1 << 16
"""Bytes of a large document that are written at once. asyncio makes a writer wait when as many bytes are buffered."""

END_RECORD_TIMEOUT = 2.0
"""Seconds that a client which stalled gets to receive the end record."""

SENT_CHECK_SECONDS = 0.05
"""Seconds between two checks whether the client has received it."""


class StreamedResponse:
    """The bytes of a streamed response, compressed or not.

    `write` returns when the client can receive more. Raises `ReaderDisconnected`.
    """

    def __init__(self, response: web.StreamResponse, *, gzip: bool) -> None:
        self._response = response
        # Level 1, because compression runs in the event loop: higher levels take three times as long for a tenth less.
        self._compressor = zlib.compressobj(1, wbits=31) if gzip else None
        self.bytes = 0
        """Bytes that were passed to the connection, whether or not the client has received them."""

    async def write(self, data: bytes) -> None:
        """Send bytes. Compressed bytes are flushed, so that the client can read them at once."""
        if self._compressor is not None:
            data = self._compressor.compress(data) + self._compressor.flush(zlib.Z_SYNC_FLUSH)
        await self._send(data, self._response.write)

    async def end(self, data: bytes) -> None:
        """Send the last bytes and end the response."""
        if self._compressor is not None:
            data = self._compressor.compress(data) + self._compressor.flush()
        await self._send(data, self._response.write_eof)

    async def _send(self, data: bytes, send: Callable[[bytes], Awaitable[None]]) -> None:
        self.bytes += len(data)
        try:
            await send(data)
        except ConnectionError:
            raise ReaderDisconnected from None


class BufferedResponse:
    """The bytes of a response in one document, up to a limit."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.bytes = 0
        self.chunks: list[bytes] = []

    async def write(self, data: bytes) -> None:
        """Buffer bytes. Raises `ResponseTooLarge` if they exceed the limit."""
        self.bytes += len(data)
        if self.bytes > self._limit:
            raise ResponseTooLarge(self._limit)
        self.chunks.append(data)


async def wait_for_run(
    request: web.Request,
    response: web.StreamResponse | None,
    run: Run,
    writer: LineWriter,
    body: RequestBody | None,
    output: StreamedResponse | BufferedResponse,
    stall_detector: StallDetector,
    opening: bytes = b"",
) -> Summary:
    """Wait for the end of a run and monitor its client. A streamed response starts at once, with `opening`.

    If the client disconnects, the run is aborted and the connection closed, and the call raises `ConnectionError` or is
    cancelled.
    """
    monitor = ClientMonitor(request, run, writer, body, output, stall_detector)
    try:
        if response is not None:
            # The head is sent at once. Sending it with the first results would cost less, but some clients send the
            # head and the body of their request separately, and their kernel holds the body back until the head is
            # acknowledged. They would wait for it.
            await response.prepare(request)
            if opening:
                await output.write(opening)
        summary = await run.finished
        if summary.reason is EndReason.DISCONNECTED:
            raise ConnectionResetError("the client disconnected")
        return summary
    except (asyncio.CancelledError, ConnectionError, ReaderDisconnected) as error:
        run.abort(EndReason.DISCONNECTED)
        await run.finished
        if request.transport is not None:
            request.transport.abort()
        if isinstance(error, ReaderDisconnected):
            raise ConnectionResetError("the client disconnected") from None
        raise
    finally:
        monitor.stop()


async def write_document(
    request: web.Request, response: web.StreamResponse, document: bytes, stall_detector: StallDetector
) -> None:
    """Write a large document in chunks. Raises `ConnectionError` if the client disconnects or stalls.

    aiohttp would buffer the document as a whole. Many of them that no client reads would use unlimited memory.
    """
    response.content_length = len(document)
    try:
        await response.prepare(request)
        for start in range(0, len(document), CHUNK_SIZE):
            await stall_detector.write(response.write(document[start : start + CHUNK_SIZE]), CHUNK_SIZE)
        await response.write_eof()
    except TimeoutError:
        log.warning("stream.stalled", path=request.path, stalled_on="reader", response_bytes=len(document))
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError("the client did not read") from None


async def finish_stream(
    request: web.Request,
    response: web.StreamResponse,
    output: StreamedResponse,
    format: RecordFormat,
    summary: Summary,
    stall_timeout: float,
) -> None:
    """Write the end record. Cut the stream instead if the run was aborted or the client does not read."""
    is_complete = summary.reason is not EndReason.ABORTED
    transport = request.transport
    try:
        if is_complete:
            writing = output.end(format.end(summary.end_record()))
            if transport is not None and transport.get_write_buffer_size():
                timeout = END_RECORD_TIMEOUT if summary.reason is EndReason.STALLED else stall_timeout
                await StallDetector(timeout, 0).write(writing, 0)
            else:  # the record is small and nothing is buffered before it, so the write does not wait for the client
                await writing
    except (TimeoutError, ReaderDisconnected, ConnectionError):
        is_complete = False
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        # This task was not cancelled, but the future with which aiohttp waits for buffer space: it was cancelled with
        # the writer task of the run, when the client stalled. The end record is buffered behind what the client has not
        # received. The client gets some more time to receive it.
        is_complete = await wait_until_sent(transport)
        if is_complete and transport is not None:
            transport.close()
    if not is_complete and transport is not None:
        transport.abort()
    if not request.content.is_eof():
        response.force_close()


async def wait_until_sent(transport: asyncio.WriteTransport | None) -> bool:
    """Return whether the buffered bytes are sent within `END_RECORD_TIMEOUT` seconds."""
    # Counts checks instead of reading the clock, because a pause of the process is not the client's fault.
    for _ in range(round(END_RECORD_TIMEOUT / SENT_CHECK_SECONDS)):
        if transport is None or transport.is_closing():
            return False
        if not transport.get_write_buffer_size():
            return True
        await asyncio.sleep(SENT_CHECK_SECONDS)
    return False
