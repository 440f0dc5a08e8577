"""The watch over one stream: has the client left, does it still move?

While reading is paused, which is what backpressure does, nobody tells us that a client left: asyncio does not poll the
socket then. So the state of the connection is asked for, four times a second.
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
from penstock.runtime import Run
from penstock_http.requests.stall_detector import PERIOD, StallDetector

try:
    import fcntl
    import termios
except ImportError:  # on Windows
    fcntl = termios = None  # type: ignore[assignment]  # no modules there

log: structlog.stdlib.BoundLogger = structlog.get_logger()

PIECE = 256 * 1024
"""Bytes of a body that are read at a time: half a megabyte may be there, and splitting all of it took a turn of 1.2 ms.

Pieces of 64 KiB cost 4 % of the throughput: each ends with a few lines that go through the steps by themselves.
"""

_CLOSE, _CLOSE_WAIT = 7, 8  # include/net/tcp_states.h of Linux


class RequestBody:
    """The body of a request as it arrives: counts its bytes and tells whether somebody waits for more."""

    def __init__(self, request: web.BaseRequest) -> None:
        self._content = request.content
        self.bytes = 0
        self.reading = False

    def __aiter__(self) -> RequestBody:
        return self

    async def __anext__(self) -> bytes:
        self.reading = True
        chunk = await self._content.read(PIECE)
        self.reading = False
        if not chunk:
            raise StopAsyncIteration
        self.bytes += len(chunk)
        return chunk


class ByteCounter(Protocol):
    """An output that counts its bytes."""

    bytes: int


class ClientMonitor:
    """Looks after one stream and ends its run when the client left or stalls. A timer and no task, which costs less."""

    def __init__(
        self,
        request: web.BaseRequest,
        run: Run,
        sink: LineWriter,
        body: RequestBody | None,
        output: ByteCounter,
        pace: StallDetector,
    ) -> None:
        self._transport = request.transport
        self._run = run
        self._sink = sink
        self._body = body
        self._output = output
        self._pace = pace
        self._moved = self._total()
        self._stopwatch = Stopwatch(asyncio.get_running_loop(), PERIOD, self._check)

    def end(self) -> None:
        """Watch no longer."""
        self._stopwatch.stop()

    def _check(self, seconds: float) -> bool:
        """Check the client after some seconds; returns whether to go on."""
        if has_disconnected(self._transport):
            self._run.abort("disconnected")
            return False
        total = self._total()
        self._pace.record_bytes(max(0, total - self._moved))
        self._moved = total
        if self._waits_for_client() and self._pace.add_wait(seconds):
            self._stop_run()
            return False
        return True

    def _total(self) -> int:
        """Bytes that the client sent and took so far."""
        return self._output.bytes - unsent_bytes(self._transport) + (self._body.bytes if self._body is not None else 0)

    def _waits_for_client(self) -> bool:
        """True while nothing but the client holds the run up: it does not read, or it does not send."""
        if self._sink.writing:
            return True
        return self._body is not None and self._body.reading and not self._run.ledger.in_flight

    def _stop_run(self) -> None:
        reads = not self._sink.writing
        log.warning(
            "stream.stalled",
            run=self._run.id,
            revision=self._run.revision,
            stalled_on="input" if reads else "reader",
            received=self._run.ledger.received,
            in_flight=self._run.ledger.in_flight,
        )
        if reads:
            self._run.drain("stalled")
        else:
            self._run.abort("stalled")


def unsent_bytes(transport: asyncio.BaseTransport | None) -> int:
    """Bytes on their way that the other side's system has not taken yet: those here, and those in the kernel."""
    if not isinstance(transport, asyncio.WriteTransport) or transport.is_closing():
        return 0
    waiting = transport.get_write_buffer_size()
    sock = transport.get_extra_info("socket")
    if sock is None or fcntl is None or termios is None:
        return waiting
    try:
        return waiting + int(struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)))[0])
    except OSError:
        return waiting


def has_disconnected(transport: asyncio.BaseTransport | None) -> bool:
    """Whether the other side closed or reset the connection; also true while nobody reads from it."""
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
