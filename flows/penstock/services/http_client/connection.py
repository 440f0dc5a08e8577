"""A connection: one request and its response after another, without a task or a stream."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from typing import Protocol, cast

from penstock.services.http_client.exchange import ExchangeFailed, Response
from penstock.services.http_client.response_reader import ResponseReader

READ_SIZE = 64 * 1024
"""Bytes that asyncio reads at once. Its default, 256 KiB, is allocated by `mmap` each time: 54 instead of 30 µs."""

IDLE_SECONDS = 4.0
"""Seconds that an idle connection is kept. Node and uvicorn close theirs after 5."""


class ConnectionOwner(Protocol):
    """The pool of a connection."""

    tls_session: ssl.SSLSession | None
    """The TLS session of an earlier connection. New connections resume it, which halves the CPU of their handshake."""

    def release(self, connection: HttpConnection) -> None:
        """Take back a connection that can be used again."""
        ...

    def forget(self, connection: HttpConnection) -> None:
        """Forget a connection that cannot be used again. Called once."""
        ...


class Receiver(Protocol):
    """The request whose response a connection waits for. One of the two methods is called, once."""

    def responded(self, response: Response) -> None:
        """Receive the response."""
        ...

    def failed(self, error: ExchangeFailed) -> None:
        """Receive why there is no response."""
        ...


class HttpConnection(asyncio.Protocol):
    """Sends a request and receives its response, one at a time. `transport` is set when it is connected."""

    __slots__ = (
        "_owner",
        "_reader",
        "closed",
        "failure",
        "idle_seconds",
        "idle_until",
        "receiver",
        "transport",
        "used",
    )

    def __init__(self, owner: ConnectionOwner) -> None:
        self._owner = owner
        self._reader = ResponseReader()
        self.transport: asyncio.Transport = cast("asyncio.Transport", None)
        self.receiver: Receiver | None = None
        """The request in flight; None while the connection is idle."""
        self.closed = False
        """Whether the connection cannot be used any more."""
        self.failure = ""
        """Why it was closed while there was no request; empty if the reason is not known."""
        self.used = False
        """Whether it has received a response."""
        self.idle_seconds = IDLE_SECONDS
        """How long it may be idle."""
        self.idle_until = 0.0

    def send(self, request: bytes, receiver: Receiver, limit: int, head_only: bool) -> None:
        """Send a request. The body of its response has at most `limit` bytes.

        `head_only`: the response has no body, because the method is HEAD.
        """
        self._reader.start(limit, head_only)
        self.receiver = receiver
        try:
            self._write(request)
        except (RuntimeError, OSError):  # uvloop's transports reject writes once they are closed, asyncio's drop them
            self._fail_closed("the connection was closed")

    def abort(self) -> None:
        """Close the connection now. A request that waits for its response fails."""
        self._close()
        if self.transport is not None:  # pyright: ignore[reportUnnecessaryComparison]  # None until it is connected
            self.transport.abort()

    def fail(self, reason: str, *, unanswered: bool = False) -> None:
        """Close the connection. A request that waits for its response fails for this reason."""
        receiver, self.receiver = self.receiver, None
        self.abort()
        if receiver is None:
            self.failure = self.failure or reason
        else:
            receiver.failed(ExchangeFailed(reason, unanswered=unanswered))

    # What the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        limit_reads(transport)

    def data_received(self, data: bytes) -> None:
        if self.receiver is None:
            self.abort()  # no request asked for these bytes
            return

        try:
            is_complete = self._reader.feed(data)
        except ExchangeFailed as error:
            self.fail(error.reason)
            return
        if is_complete:  # here, and not in a callback of the parser, which must have returned before the next request
            self._finish()

    def eof_received(self) -> None:
        if self.receiver is None:
            self._close()
        elif self._reader.end():
            self._finish()
        else:
            self._fail_closed("the connection was closed")

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail_closed("the connection was closed" if exc is None else "the connection was reset")
        self._close()
        self._reader.close()

    # The end of an exchange

    def _write(self, data: bytes) -> None:
        self.transport.write(data)

    def _finish(self) -> None:
        """Deliver the response, and return the connection to its pool or close it."""
        receiver, self.receiver = self.receiver, None
        response = self._reader.take()
        if not self.used:
            self.used = True
            allowed = self._reader.idle_seconds()
            self.idle_seconds = IDLE_SECONDS if allowed is None else min(IDLE_SECONDS, allowed)
        if self._reader.is_reusable and not self.closed and not self.transport.get_write_buffer_size():
            self._owner.release(self)
        else:
            self.abort()
        if receiver is not None:
            receiver.responded(response)

    def _fail_closed(self, reason: str) -> None:
        has_started = self._reader.has_started
        when = "before the end of its response" if has_started else "before a response"
        self.fail(f"{reason} {when}", unanswered=self.used and not has_started)

    def _close(self) -> None:
        if not self.closed:
            self.closed = True
            self._owner.forget(self)


def limit_reads(transport: asyncio.BaseTransport) -> None:
    """Limit how much asyncio reads at once. Transports of uvloop have no such attribute."""
    with suppress(AttributeError):
        transport.max_size = READ_SIZE  # type: ignore[attr-defined]  # of asyncio's selector transports
