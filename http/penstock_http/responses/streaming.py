"""An answer that streams: one writer, compressed or not, ended by its end record or cut."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable

import structlog
from aiohttp import web

from penstock.errors import ReaderDisconnected, ResponseTooLarge
from penstock.results import LineWriter, RecordFormat
from penstock.runtime import Run, Summary
from penstock_http.requests.stall_detector import StallDetector
from penstock_http.responses.client_monitor import ClientMonitor, RequestBody

log: structlog.stdlib.BoundLogger = structlog.get_logger()

PIECE = 1 << 16
"""Bytes of a large answer that are written at a time; with as many waiting to be sent, asyncio has a writer wait."""

END_RECORD_TIMEOUT = 2.0
"""Seconds that a client which stalled is given to take the end record."""

LAST_WORD_PERIOD = 0.05
"""Seconds between two checks whether it did."""


class StreamedResponse:
    """The bytes of one response.

    Its `write` returns when the client's side can take more; raises `ReaderDisconnected`.
    """

    def __init__(self, response: web.StreamResponse, *, gzip: bool) -> None:
        self._response = response
        # Level 1: the loop compresses, and higher levels cost three times as much for a tenth less on such lines.
        self._compressor = zlib.compressobj(1, wbits=31) if gzip else None
        self.bytes = 0
        """Bytes that were handed to the connection; how many of them the client took, only that knows."""

    async def write(self, data: bytes) -> None:
        """Send bytes now; compressed ones with a flush, so that the client can read them now."""
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
    """The bytes of an answer in one piece, up to a limit."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.bytes = 0
        self.pieces: list[bytes] = []

    async def write(self, data: bytes) -> None:
        """Keep bytes; raises `ResponseTooLarge` when they are too many."""
        self.bytes += len(data)
        if self.bytes > self._limit:
            raise ResponseTooLarge(self._limit)
        self.pieces.append(data)


async def wait_for_run(
    request: web.Request,
    response: web.StreamResponse | None,
    run: Run,
    sink: LineWriter,
    body: RequestBody | None,
    output: StreamedResponse | BufferedResponse,
    pace: StallDetector,
    opening: bytes = b"",
) -> Summary:
    """See a run to its end, watching the client meanwhile. A response, if there is one, begins at once with `opening`.

    Raises `ConnectionError` when the client left, or is cancelled then; the connection is closed and the run over.
    """
    watch = ClientMonitor(request, run, sink, body, output, pace)
    try:
        if response is not None:
            # Its head is sent by itself: sent with the first results it would cost less, but a client that sends head
            # and body apart, and whose kernel holds the body back until the head is acknowledged, would wait for it.
            await response.prepare(request)
            if opening:
                await output.write(opening)
        summary = await run.finished
        if summary.reason == "disconnected":
            raise ConnectionResetError("the client disconnected")
        return summary
    except (asyncio.CancelledError, ConnectionError, ReaderDisconnected) as error:
        run.abort("disconnected")
        await run.finished
        if request.transport is not None:
            request.transport.abort()
        if isinstance(error, ReaderDisconnected):
            raise ConnectionResetError("the client disconnected") from None
        raise
    finally:
        watch.end()


async def write_document(
    request: web.Request, response: web.StreamResponse, document: bytes, pace: StallDetector
) -> None:
    """Write a large answer in one piece, for as long as the client takes it. Raises `ConnectionError` if it left.

    It is not left to aiohttp: many of them that nobody reads would take memory that no limit knows of.
    """
    response.content_length = len(document)
    try:
        await response.prepare(request)
        for start in range(0, len(document), PIECE):
            await pace.write(response.write(document[start : start + PIECE]), PIECE)
        await response.write_eof()
    except TimeoutError:
        log.warning("stream.stalled", path=request.path, stalled_on="reader", answer=len(document))
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError("the client did not read") from None


async def finish_stream(
    request: web.Request,
    response: web.StreamResponse,
    output: StreamedResponse,
    form: RecordFormat,
    summary: Summary,
    stall: float,
) -> None:
    """Write the end record, or cut the stream when there is none to write or nobody to read it."""
    reads = summary.reason != "aborted"
    transport = request.transport
    try:
        if reads:
            last = output.end(form.end(summary.end_record()))
            if transport is not None and transport.get_write_buffer_size():
                await StallDetector(END_RECORD_TIMEOUT if summary.reason == "stalled" else stall, 0).write(last, 0)
            else:  # it is small and nothing is before it, so it waits for nobody, and needs no timer
                await last
    except (TimeoutError, ReaderDisconnected, ConnectionError):
        reads = False
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        # Not we were cancelled, but what aiohttp waits on for room: it died with the writer of a reader that stalled.
        # The end record is behind what that reader has not taken yet; it gets a last moment to take it.
        reads = await wait_until_sent(transport)
        if reads and transport is not None:
            transport.close()
    if not reads and transport is not None:
        transport.abort()
    if not request.content.is_eof():
        response.force_close()


async def wait_until_sent(transport: asyncio.WriteTransport | None) -> bool:
    """Whether the other side takes what is left to send within `END_RECORD_TIMEOUT` seconds."""
    for _ in range(
        round(END_RECORD_TIMEOUT / LAST_WORD_PERIOD)
    ):  # not by the clock: a pause of the process is not the client's
        if transport is None or transport.is_closing():
            return False
        if not transport.get_write_buffer_size():
            return True
        await asyncio.sleep(LAST_WORD_PERIOD)
    return False
