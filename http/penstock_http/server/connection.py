"""What a connection may cost: its sockets' options, its headers, its silence."""

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

log: structlog.stdlib.BoundLogger = structlog.get_logger()

CLIENT_CLOSE_SECONDS = 5.0
"""Seconds for which the rest of an upload is read and thrown away, so that its client sees the end of the stream."""

BACKLOG = 1024
"""Connections that may wait to be taken."""

MAX_ACCEPTS = 16
"""Connections taken in one turn of the event loop, and tries each second while there is no file descriptor for one."""

EXHAUSTED_ERRNOS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

MAX_USER_TIMEOUT = 2_000_000.0
"""Seconds that the kernel can be told: it counts milliseconds in 31 bits."""


def listen(settings: Settings) -> socket.socket:
    """A listening socket whose connections inherit their limits. Raises `ListenFailed`."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # A client that does not read costs this much of the kernel's memory; the default lets it have 4 MB.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, settings.send_buffer)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            # The kernel gives up a client that takes nothing for longer than a stall may last.
            sock.setsockopt(
                socket.IPPROTO_TCP,
                socket.TCP_USER_TIMEOUT,
                int(min(settings.stall_timeout + 5, MAX_USER_TIMEOUT) * 1000),
            )
        if hasattr(socket, "TCP_KEEPIDLE"):
            # A host that vanished while nothing was under way is noticed after 30 + 3 * 10 seconds.
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


async def stop_listening(listener: asyncio.Server) -> None:
    """Accept the connections that clients have already made, then close the listening socket.

    The kernel resets connections that nobody has accepted. asyncio does the same to those accepted in the iteration in
    which the listener is closed: it makes their transports one iteration later, finds the listener closed and drops
    them (Python 3.13 then prints "Exception ignored in _SelectorTransport.__del__").
    """
    loop = asyncio.get_running_loop()
    with selectors.DefaultSelector() as selector:
        for sock in listener.sockets:
            selector.register(sock, selectors.EVENT_READ)
        for _ in range(BACKLOG // MAX_ACCEPTS):
            if not selector.select(0):
                break
            await asyncio.sleep(0)
    for sock in listener.sockets:
        loop.remove_reader(sock.fileno())
    await asyncio.sleep(0)  # transports of the connections that were accepted last
    listener.close()


class AcceptErrorHandler:
    """Hears from the event loop that there was no file descriptor for a connection: it counts, and says so each second.

    (asyncio hands each such try to the loop's handler, which logs a traceback for it.)
    """

    def __init__(self, requests: HttpCounters) -> None:
        self._requests = requests
        self._next = 0.0

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Take note of what the event loop could not tell anybody else."""
        error = context.get("exception")
        if (
            not isinstance(error, OSError)
            or error.errno not in EXHAUSTED_ERRNOS
            or "accept" not in str(context["message"])
        ):
            loop.default_exception_handler(context)
            return
        self._requests.rejected["no_descriptor"] += 1
        if loop.time() >= self._next:
            self._next = loop.time() + 1
            log.warning("http.accept_failed", error=error.strerror, hint="raise the limit: ulimit -n")


def connection_limits(settings: Settings) -> dict[str, Any]:
    """What the protocol handler of each connection is told."""
    return {
        "keepalive_timeout": settings.keep_alive,
        "lingering_time": CLIENT_CLOSE_SECONDS,
        "max_line_size": settings.max_header,
        "max_field_size": settings.max_header,
        "access_log": None,
        "auto_decompress": False,
    }


class Connection(RequestHandler):
    """One connection; what aiohttp cannot read as HTTP is refused with a problem document too."""

    __slots__ = ("_idle_until", "_requests")

    def __init__(self, requests: HttpCounters, server: web.Server, settings: Settings) -> None:
        super().__init__(server, loop=asyncio.get_running_loop(), **connection_limits(settings))
        self._requests = requests
        self._idle_until = 0.0

    def _process_keepalive(self) -> None:
        """Close a connection that is idle for too long; after a pause of the process, read first what it sent."""
        now, until = self._loop.time(), self._next_keepalive_close_time
        if now - until > LATE and until != self._idle_until:
            self._idle_until = self._next_keepalive_close_time = now + SETTLE_SECONDS
        super()._process_keepalive()

    def data_received(self, data: bytes) -> None:
        """Take bytes; what breaks off a body breaks its reader too.

        aiohttp's parser forgets the body that it was in the middle of when a chunk of it is broken, and whoever
        reads that body would wait until its stream counts as stalled.
        """
        super().data_received(data)
        if self._messages and not isinstance(self._messages[-1][0], RawRequestMessage):
            request = self._current_request
            if request is not None and not request.content.is_eof() and request.content.exception() is None:
                request.content.set_exception(web.RequestPayloadError("the body is no valid HTTP"))

    def close(self) -> None:
        """Close when the request under way is answered, and at once if there is none (aiohttp leaves that one open)."""
        idle = self._waiter is not None and not self._waiter.done()
        super().close()
        if idle and self.transport is not None:
            self.transport.close()

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Log what aiohttp did not expect; not a broken body, which its reader has dealt with."""
        if not isinstance(kw.get("exc_info"), web.RequestPayloadError):
            super().log_exception(*args, **kw)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to what is no request, or to what broke outside of the handlers."""
        if request.writer.output_size > 0:
            raise ConnectionError("a part of the response is sent already")
        if isinstance(exc, LineTooLong):
            status, message = 431, f"the request line and each header may have {self.max_field_size} bytes"
        name = "headers_too_large" if status == 431 else "bad_request" if status < 500 else "internal_error"
        self._requests.rejected[name] += 1
        self._requests.responses["none", "other", str(status)] += 1
        log.info("http.rejected", status=status, reason=name, error=str(exc))
        response = problem(status, (message or "an error occurred inside the service").split("\n")[0], name)
        response.force_close()
        return response
