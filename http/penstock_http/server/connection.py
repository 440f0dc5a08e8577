"""Listening and connections: socket options, limits, timeouts, and responses to invalid HTTP."""

from __future__ import annotations

import asyncio
import errno
import selectors
import socket
from typing import Any

import structlog
from aiohttp import web
from aiohttp.http import RawRequestMessage
from aiohttp.http_exceptions import LineTooLong
from aiohttp.web_protocol import RequestHandler

from penstock.core.fairness import LATE, SETTLE_SECONDS
from penstock.observe import HttpCounters
from penstock.settings import Settings
from penstock_http.problems import ListenFailed, problem
from penstock_http.server.tls import Tls
from penstock_http.server.tls_transport import TlsTransport

log: structlog.stdlib.BoundLogger = structlog.get_logger()

CLIENT_CLOSE_SECONDS = 5.0
"""Seconds during which the rest of an upload is read and discarded, so that its client receives the response."""

BACKLOG = 1024
"""Maximum number of connections that wait to be accepted."""

MAX_ACCEPTS = 16
"""Connections accepted in one iteration of the event loop, and attempts per second while file descriptors run out."""

EXHAUSTED_ERRNOS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

MAX_USER_TIMEOUT = 2_000_000.0
"""Maximum of TCP_USER_TIMEOUT, in seconds: the kernel stores milliseconds in 31 bits."""


def listen(settings: Settings) -> socket.socket:
    """Return a listening socket, whose connections inherit its options. Raises `ListenFailed`."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # The kernel memory that a client costs which does not read; the default is up to 4 MB.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, settings.send_buffer)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            # The kernel drops a client that acknowledges nothing for longer than the stall timeout.
            sock.setsockopt(
                socket.IPPROTO_TCP,
                socket.TCP_USER_TIMEOUT,
                int(min(settings.stall_timeout + 5, MAX_USER_TIMEOUT) * 1000),
            )
        if hasattr(socket, "TCP_KEEPIDLE"):
            # A host that disappears while the connection is idle is noticed after 30 + 3 * 10 seconds.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
        sock.bind((settings.host, settings.port))
        sock.setblocking(False)
    except (OSError, UnicodeError) as error:
        sock.close()
        raise ListenFailed(settings.host, settings.port, error) from error
    return sock


async def stop_listening(listener: asyncio.Server, *, drain: bool = True) -> None:
    """Accept the connections that clients have already made, if `drain`, then close the listening socket.

    The kernel resets connections that were not accepted. asyncio does the same to those accepted in the iteration in
    which the listener is closed: it makes their transports one iteration later, finds the listener closed and drops
    them (Python 3.13 then prints "Exception ignored in _SelectorTransport.__del__").
    """
    loop = asyncio.get_running_loop()
    if drain:
        await _accept_waiting(listener)
    for sock in listener.sockets:
        loop.remove_reader(sock.fileno())
    await asyncio.sleep(0)  # transports of the connections that were accepted last
    listener.close()


async def _accept_waiting(listener: asyncio.Server) -> None:
    """Let the event loop accept until no connection waits."""
    with selectors.DefaultSelector() as selector:
        for sock in listener.sockets:
            selector.register(sock, selectors.EVENT_READ)
        for _ in range(BACKLOG // MAX_ACCEPTS):
            if not selector.select(0):
                break
            await asyncio.sleep(0)


class AcceptErrorHandler:
    """An exception handler of the event loop for connections that cannot be accepted without a file descriptor.

    It counts them and logs one warning per second. asyncio's default handler would log a traceback for each attempt.
    """

    def __init__(self, counters: HttpCounters) -> None:
        self._counters = counters
        self._next_warning = 0.0

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Handle an error of the event loop. Other errors go to the default handler."""
        error = context.get("exception")
        if (
            not isinstance(error, OSError)
            or error.errno not in EXHAUSTED_ERRNOS
            or "accept" not in str(context["message"])
        ):
            loop.default_exception_handler(context)
            return
        self._counters.rejected["no_descriptor"] += 1
        if loop.time() >= self._next_warning:
            self._next_warning = loop.time() + 1
            log.warning("http.accept_failed", error=error.strerror, hint="raise the limit: ulimit -n")


class ConnectionFactory:
    """Makes the protocol of each accepted connection, in TLS if there is a certificate."""

    def __init__(self, counters: HttpCounters, server: web.Server, settings: Settings, tls: Tls | None) -> None:
        self._counters = counters
        self._server = server
        self._settings = settings
        self._tls = tls
        self._handshakes: set[TlsTransport] = set()

    def __call__(self) -> asyncio.Protocol:
        """Return the protocol of the next connection."""
        connection = Connection(self._counters, self._server, self._settings)
        if self._tls is None:
            return connection
        return TlsTransport(
            connection,
            self._tls.context,
            timeout=self._settings.keep_alive,
            handshakes=self._handshakes,
            on_failure=self._reject_handshake,
        )

    @property
    def handshakes(self) -> int:
        """How many connections have not completed their handshake. aiohttp does not know of them."""
        return len(self._handshakes)

    def close_idle_handshakes(self, seconds: float = 0) -> None:
        """Close connections that have not completed their handshake in so many seconds."""
        for transport in self._handshakes:
            if transport.age >= seconds:
                transport.abort()  # it leaves the set later, when the connection is lost

    def _reject_handshake(self, error: str) -> None:
        self._counters.rejected["tls_handshake_failed"] += 1
        log.info("http.rejected", reason="tls_handshake_failed", error=error)


def connection_limits(settings: Settings) -> dict[str, Any]:
    """Return the options of aiohttp's handler of each connection."""
    return {
        "keepalive_timeout": settings.keep_alive,
        "lingering_time": CLIENT_CLOSE_SECONDS,
        "max_line_size": settings.max_header,
        "max_field_size": settings.max_header,
        "access_log": None,
        "auto_decompress": False,
    }


class Connection(RequestHandler):
    """One connection. Each method overrides aiohttp's `RequestHandler`, and some read its private attributes.

    So the version of aiohttp is pinned, and each override has a test.
    """

    __slots__ = ("_counters", "_idle_until")

    def __init__(self, counters: HttpCounters, server: web.Server, settings: Settings) -> None:
        super().__init__(server, loop=asyncio.get_running_loop(), **connection_limits(settings))
        self._counters = counters
        self._idle_until = 0.0

    def _process_keepalive(self) -> None:
        """Close a connection that is idle for too long. After a pause of the process, first read what it has sent."""
        now, until = self._loop.time(), self._next_keepalive_close_time
        if now - until > LATE and until != self._idle_until:
            self._idle_until = self._next_keepalive_close_time = now + SETTLE_SECONDS
        super()._process_keepalive()

    def data_received(self, data: bytes) -> None:
        """Receive bytes. If they are not valid HTTP, fail the body that is being read.

        After an invalid chunk, aiohttp's parser drops the body without an error, and its reader would wait until the
        stream counts as stalled.
        """
        super().data_received(data)
        if self._messages and not isinstance(self._messages[-1][0], RawRequestMessage):
            request = self._current_request
            if request is not None and not request.content.is_eof() and request.content.exception() is None:
                request.content.set_exception(web.RequestPayloadError("the body is not valid HTTP"))

    def close(self) -> None:
        """Close after the current request, and at once if there is none. aiohttp leaves an idle connection open."""
        idle = self._waiter is not None and not self._waiter.done()
        super().close()
        if idle and self.transport is not None:
            self.transport.close()

    def close_if_idle(self, seconds: float) -> None:
        """Close if no request has begun for some seconds."""
        waits = self._waiter is not None and not self._waiter.done()
        last_request = self._next_keepalive_close_time - self._keepalive_timeout
        if waits and self._loop.time() - last_request >= seconds:
            self.close()

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Log an unexpected error. An error of the body is not logged, because its reader has handled it."""
        if not isinstance(kw.get("exc_info"), web.RequestPayloadError):
            super().log_exception(*args, **kw)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Return the response to a request that is not valid HTTP, or to an error outside of the handlers."""
        if request.writer.output_size > 0:
            raise ConnectionError("a part of the response was already sent")
        if isinstance(exc, LineTooLong):
            status, message = 431, f"the request line and each header can have at most {self.max_field_size} bytes"
        code = "headers_too_large" if status == 431 else "bad_request" if status < 500 else "internal_error"
        self._counters.rejected[code] += 1
        self._counters.responses["none", "other", str(status)] += 1
        log.info("http.rejected", status=status, reason=code, error=str(exc))
        response = problem(status, (message or "an error occurred inside the service").split("\n")[0], code)
        response.force_close()
        return response
