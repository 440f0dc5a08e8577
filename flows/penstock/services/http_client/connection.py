"""A connection: one request and its response after another, without a task or a stream.

The parser reports neither the status line nor headers (to collect them costs more than all else that it does, and is
quadratic for long ones). The bytes of the head are kept and searched when a header is needed. All that a server can
make long is bounded in bytes: the head, interim responses, the body, and the lines between chunks.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from typing import Protocol, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from penstock.services.http_client.exchange import HEAD_LIMIT, ExchangeFailed, Response

READ_SIZE = 64 * 1024
"""Bytes that asyncio reads at once. Its default, 256 KiB, is allocated by `mmap` each time: 54 instead of 30 µs."""

IDLE_SECONDS = 4.0
"""Seconds that an idle connection is kept. Node and uvicorn close theirs after 5."""

INTERIM_LIMIT = 32
"""Maximum interim responses (1xx) before a response."""

FRAMING_FACTOR = 16
"""Maximum bytes of chunk lines for each byte of the body: a chunk of one byte needs 5, and 2 for each further zero."""

_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[ \t]*chunked[ \t]*\r\n")
_CLOSE = re.compile(rb"\r\nconnection:[^\r]*\bclose\b")
_KEEP_ALIVE = re.compile(rb"\r\nkeep-alive:[^\r]*?timeout[ \t]*=[ \t]*\"?(\d{1,6})")


class ConnectionOwner(Protocol):
    """The pool of a connection."""

    def release(self, connection: HttpConnection) -> None:
        """Take back a connection that can be used again."""
        ...

    def forget(self, connection: HttpConnection) -> None:
        """Forget a connection that cannot be used again. Called once or more."""
        ...


class HttpConnection(asyncio.Protocol):
    """Sends a request and receives its response, one at a time. `transport` is set when it is connected."""

    __slots__ = (
        "_body",
        "_complete",
        "_framing",
        "_head",
        "_head_limit",
        "_head_only",
        "_in_body",
        "_interim",
        "_limit",
        "_lower",
        "_owner",
        "_parser",
        "_reusable",
        "_size",
        "_status",
        "_too_long",
        "_until_close",
        "closed",
        "failure",
        "idle_seconds",
        "idle_until",
        "transport",
        "used",
        "waiter",
    )

    def __init__(self, owner: ConnectionOwner) -> None:
        self._owner = owner
        self._parser = HttpResponseParser(self)
        self.transport: asyncio.Transport = cast("asyncio.Transport", None)
        self.waiter: asyncio.Future[Response] | None = None
        """Resolved with the response; None while there is no request."""
        self.closed = False
        """Whether the connection cannot be used any more."""
        self.failure = ""
        """Why it was closed while there was no request; empty if the reason is not known."""
        self.used = False
        """Whether it has received a response."""
        self.idle_seconds = IDLE_SECONDS
        """How long it may be idle."""
        self.idle_until = 0.0
        self._reset(0, head_only=False)

    def _reset(self, limit: int, *, head_only: bool) -> None:
        self._limit = limit
        self._head_only = head_only
        self._head: bytes = b""
        self._lower: bytes = b""
        self._in_body = False
        self._status = 0
        self._interim = 0
        self._framing = 0
        self._body: list[bytes] = []
        self._size = 0
        self._too_long = False
        self._until_close = False
        self._complete = False
        self._reusable = True

    def send(
        self, request: bytes, loop: asyncio.AbstractEventLoop, *, limit: int, head_only: bool
    ) -> asyncio.Future[Response]:
        """Send a request. Return a future of its response, whose body has at most `limit` bytes.

        The future raises `ExchangeFailed`. `head_only`: the response has no body, because the method is HEAD.
        """
        self._reset(limit, head_only=head_only)
        self.waiter = waiter = loop.create_future()
        try:
            self._write(request)
        except RuntimeError:  # of uvloop, whose transports reject writes once they are closed; asyncio's drop them
            self._fail_closed("the connection was closed")
        return waiter

    def abort(self) -> None:
        """Close the connection now. A request that waits for its response fails."""
        self._close()
        if self.transport is not None:  # pyright: ignore[reportUnnecessaryComparison]  # None until it is connected
            self.transport.abort()

    def _write(self, data: bytes) -> None:
        self.transport.write(data)

    # What the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        limit_reads(transport)

    def data_received(self, data: bytes) -> None:
        if self.waiter is None:
            self.abort()  # no request asked for these bytes
            return

        if self._in_body:
            self._framing += len(data)
        else:
            self._head = head = self._head + data if self._head else data
            if len(head) > HEAD_LIMIT and not 0 <= head.find(b"\r\n\r\n") <= HEAD_LIMIT:
                self.fail(f"the head of its response is longer than {HEAD_LIMIT} bytes")
                return
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            self._reusable = False
            if not self._complete:
                cause = error.__context__
                self.fail(cause.reason if isinstance(cause, ExchangeFailed) else _parse_error(error))
                return
        if self._complete:
            self._finish()
        elif self._too_long:
            self._reusable = False
            self._finish()
        elif self._framing > HEAD_LIMIT + FRAMING_FACTOR * self._size:
            self.fail("the chunk lines or trailers of its response are too long")

    def eof_received(self) -> None:
        if self.waiter is None:
            self._close()
        elif self._until_close:
            self._reusable = False
            self._finish()
        else:
            self._fail_closed("the connection was closed")

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail_closed("the connection was closed" if exc is None else "the connection was reset")
        self._close()
        self._parser = cast("HttpResponseParser", None)  # it refers to this object: without it no cycle is left

    # What the parser calls

    def on_message_begin(self) -> None:
        if self._complete:
            self._reusable = False  # a second response

    def on_headers_complete(self) -> None:
        if self._complete:
            return
        head = self._head
        end = head.find(b"\r\n\r\n") + 2
        status = self._parser.get_status_code()
        if not head.startswith((b"HTTP/1.1 ", b"HTTP/1.0 ")) or not 100 <= status <= 999:
            raise ExchangeFailed("its response is not HTTP/1.1 or HTTP/1.0")
        if status < 200:
            self._interim += 1
            if status == 101 or self._interim > INTERIM_LIMIT:
                raise ExchangeFailed(f"it sent an unexpected interim response, {status}")
            self._head = head[end + 2 :]
            return

        self._in_body = True
        self._status = status
        self._framing = len(head) - end - 2
        self._head = head = head[:end]
        self._lower = lower = head.lower()
        if b"\r\ntransfer-encoding:" in lower:
            if not _CHUNKED.search(lower) or lower.count(b"\r\ntransfer-encoding:") > 1:
                raise ExchangeFailed("its response has a transfer encoding other than chunked")
        elif b"\r\ncontent-length:" not in lower and status not in (204, 304) and not self._head_only:
            self._until_close = True
        # To HEAD the parser expects a body. Of HTTP/1.0 it accepts `keep-alive, close`.
        stays = not _CLOSE.search(lower) if self._head_only else self._parser.should_keep_alive()
        if not stays or head[7] == 0x30:
            self._reusable = False
        elif not self.used and (found := _KEEP_ALIVE.search(lower)):
            seconds = int(found[1])
            self.idle_seconds = min(IDLE_SECONDS, max(seconds - 1, seconds / 2))
        if self._head_only:  # the parser would wait for the body
            self._complete = True
            self._parser = HttpResponseParser(self)

    def on_body(self, body: bytes) -> None:
        if self._complete:
            self._reusable = False
            return
        self._size += len(body)
        if self._size > self._limit:
            self._too_long = True
            self._body.clear()
        else:
            self._body.append(body)

    def on_message_complete(self) -> None:
        if self._status:
            self._complete = True

    # The end of an exchange

    def _finish(self) -> None:
        """Deliver the response. Called after the parser has returned: it must not be called again inside its call."""
        waiter, self.waiter = self.waiter, None
        body = self._body
        content = b"" if self._too_long else body[0] if len(body) == 1 else b"".join(body)
        response = Response(self._status, self._head, self._lower, content, self._too_long)
        self._body = []
        self.used = True
        if self._reusable and not self.closed and not self.transport.get_write_buffer_size():
            self._owner.release(self)
        else:
            self.abort()
        if waiter is not None and not waiter.done():
            waiter.set_result(response)

    def _fail_closed(self, reason: str) -> None:
        started = bool(self._head) or self._in_body
        when = "before the end of its response" if started else "before a response"
        self.fail(f"{reason} {when}", unanswered=self.used and not started)

    def fail(self, reason: str, *, unanswered: bool = False) -> None:
        """Close the connection. A request that waits for its response fails for this reason."""
        waiter, self.waiter = self.waiter, None
        self._body = []
        self.abort()
        if waiter is None:
            self.failure = self.failure or reason
        elif not waiter.done():
            waiter.set_exception(ExchangeFailed(reason, unanswered=unanswered))

    def _close(self) -> None:
        if not self.closed:
            self.closed = True
            self._owner.forget(self)


def limit_reads(transport: asyncio.BaseTransport) -> None:
    """Limit how much asyncio reads at once. Transports of uvloop have no such attribute."""
    with suppress(AttributeError):
        transport.max_size = READ_SIZE  # type: ignore[attr-defined]  # of asyncio's selector transports


def _parse_error(error: Exception) -> str:
    if isinstance(error, HttpParserUpgrade):
        return "it switched to another protocol"
    return f"its response is not valid HTTP: {error}"
