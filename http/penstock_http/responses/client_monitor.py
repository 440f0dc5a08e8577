"""Monitor the client of one stream: end its run when the client disconnects or stalls.

While calls of the run wait for a service whose circuit breaker is open, the client is sent comments, if the format of
its response has them. A client that cannot send because of it does not stall: elements are in flight.

While reading is paused, which is how backpressure works, asyncio does not poll the socket and does not notice a
disconnect. So the state of the connection is checked four times a second.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Protocol

import structlog
from aiohttp import web

from penstock.core.fairness import Stopwatch
from penstock.results import LineWriter
from penstock.runtime import EndReason, Run
from penstock_http.requests.stall_detector import CHECK_SECONDS, StallDetector

try:
    import fcntl
    import termios
except ImportError:  # on Windows
    fcntl = termios = None  # type: ignore[assignment]  # these modules do not exist there

log: structlog.stdlib.BoundLogger = structlog.get_logger()

READ_SIZE = 256 * 1024
"""Maximum bytes of a body that are read at once.

Half a megabyte can be buffered, and splitting all of it took 1.2 ms of one iteration of the event loop. Chunks of
64 KiB cost 4 % of the throughput, because each ends with a few lines that form a small batch.
"""

COMMENT_SECONDS = 10.0
"""Seconds between two comments to a client whose run waits for a service. Proxies close connections that are silent.

The first comment is sent at once.
"""

_CLOSE, _CLOSE_WAIT = 7, 8  # include/net/tcp_states.h of Linux


class RequestBody:
    """The body of a request as it arrives: an iterator over its chunks that counts their bytes."""

    def __init__(self, request: web.BaseRequest) -> None:
        self._content = request.content
        self.bytes = 0
        self.reading = False
        """True while the run waits for the next chunk."""

    def __aiter__(self) -> RequestBody:
        return self

    async def __anext__(self) -> bytes:
        self.reading = True
        chunk = await self._content.read(READ_SIZE)
        self.reading = False
        if not chunk:
            raise StopAsyncIteration
        self.bytes += len(chunk)
        return chunk


class ByteCounter(Protocol):
    """A response that counts its bytes."""

    bytes: int


class ClientMonitor:
    """Ends the run of a stream when the client disconnects or stalls. A timer costs less here than a task."""

    def __init__(
        self,
        request: web.BaseRequest,
        run: Run,
        writer: LineWriter,
        body: RequestBody | None,
        output: ByteCounter,
        stall_detector: StallDetector,
    ) -> None:
        self._transport = request.transport
        self._run = run
        self._writer = writer
        self._body = body
        self._output = output
        self._stall_detector = stall_detector
        self._transferred = self._bytes_transferred()
        self._since_comment = COMMENT_SECONDS
        """Seconds since the last comment."""
        self._stopwatch = Stopwatch(asyncio.get_running_loop(), CHECK_SECONDS, self._check)

    def stop(self) -> None:
        """Stop monitoring."""
        self._stopwatch.stop()

    def _check(self, seconds: float) -> bool:
        """Check the client after some seconds. Returns False to stop monitoring."""
        if has_disconnected(self._transport):
            self._run.abort(EndReason.DISCONNECTED)
            return False
        transferred = self._bytes_transferred()
        self._stall_detector.record_bytes(max(0, transferred - self._transferred))
        self._transferred = transferred
        self._write_comments(seconds)
        if self._waits_for_client() and self._stall_detector.add_wait(seconds):
            self._stop_run()
            return False
        return True

    def _write_comments(self, seconds: float) -> None:
        """Tell the client from time to time which service its run waits for."""
        self._since_comment += seconds
        if self._since_comment >= COMMENT_SECONDS and (service := self._run.awaited_service) is not None:
            self._since_comment = 0.0
            self._writer.write_comment(f"waiting for {service}")

    def _bytes_transferred(self) -> int:
        """Return the bytes that the client has sent and received so far."""
        return self._output.bytes - unsent_bytes(self._transport) + (self._body.bytes if self._body is not None else 0)

    def _waits_for_client(self) -> bool:
        """Return whether the run only waits for the client, to read or to send."""
        if self._writer.writing:
            return True
        return self._body is not None and self._body.reading and not self._run.ledger.in_flight

    def _stop_run(self) -> None:
        waits_for_input = not self._writer.writing
        log.warning(
            "stream.stalled",
            run=self._run.id,
            revision=self._run.revision,
            stalled_on="input" if waits_for_input else "reader",
            received=self._run.ledger.received,
            in_flight=self._run.ledger.in_flight,
        )
        if waits_for_input:
            self._run.drain(EndReason.STALLED)
        else:
            self._run.abort(EndReason.STALLED)


def unsent_bytes(transport: asyncio.Transport | None) -> int:
    """Return the bytes that the client's system has not acknowledged: those buffered here and in the kernel."""
    if transport is None or transport.is_closing():
        return 0
    buffered = transport.get_write_buffer_size()
    sock = transport.get_extra_info("socket")
    if sock is None or fcntl is None or termios is None:
        return buffered
    try:
        return buffered + int(struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)))[0])
    except OSError:
        return buffered


def has_disconnected(transport: asyncio.BaseTransport | None) -> bool:
    """Return whether the client closed or reset the connection. Works while reading is paused, too."""
    if transport is None or transport.is_closing():
        return True
    sock = transport.get_extra_info("socket")
    if sock is None or not hasattr(socket, "TCP_INFO"):
        return False
    try:
        state = struct.unpack_from("B", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8))[0]
    except OSError:
        return True
    return state in (_CLOSE, _CLOSE_WAIT)
