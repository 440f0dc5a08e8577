"""Read responses from the bytes of a connection: one after another, without I/O.

The parser reports neither the status line nor headers (to collect them costs more than all else that it does, and is
quadratic for long ones). The bytes of the head are kept and searched when a header is needed. All that a server can
make long is bounded in bytes: the head, interim responses, the body, and the lines between chunks.
"""

from __future__ import annotations

import re
from typing import cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from penstock.services.http_client.exchange import HEAD_LIMIT, ExchangeFailed, Response

INTERIM_LIMIT = 32
"""Maximum interim responses (1xx) before a response."""

FRAMING_FACTOR = 16
"""Maximum bytes of chunk lines for each byte of the body: a chunk of one byte needs 5, and 2 for each further zero."""

_UNUSUAL = re.compile(rb"\r\n(content-encoding|ratelimit|transfer-encoding):")
"""Headers that need a closer look. One search: `in` and `find` take as long for each of them."""

_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[ \t]*chunked[ \t]*\r\n")
_CLOSE = re.compile(rb"\r\nconnection:[^\r]*\bclose\b")
_KEEP_ALIVE = re.compile(rb"\r\nkeep-alive:[^\r]*?timeout[ \t]*=[ \t]*\"?(\d{1,6})")


class ResponseReader:
    """Reads one response after `start`. `is_reusable` is whether the connection can have another request after it."""

    __slots__ = (
        "_body",
        "_framing",
        "_head",
        "_head_only",
        "_in_body",
        "_interim",
        "_is_chunked",
        "_is_complete",
        "_is_plain",
        "_limit",
        "_lower",
        "_parser",
        "_size",
        "_status",
        "_too_long",
        "is_reusable",
    )

    def __init__(self) -> None:
        self._parser = HttpResponseParser(self)
        self.start(0, False)

    def start(self, limit: int, head_only: bool) -> None:
        """Begin a response, whose body has at most `limit` bytes, or none (`head_only`) because the method is HEAD."""
        self._limit = limit
        self._head_only = head_only
        self._head: bytes = b""
        self._lower: bytes = b""
        self._in_body = False
        self._status = 0
        self._interim = 0
        self._framing = 0
        self._body: bytes | bytearray = b""
        self._size = 0
        self._too_long = False
        self._is_chunked = False
        self._is_plain = False
        self._is_complete = False
        self.is_reusable = True

    @property
    def has_started(self) -> bool:
        """Whether a byte of the response was received."""
        return bool(self._head) or self._in_body or self._interim > 0

    def feed(self, data: bytes) -> bool:
        """Read bytes. Return whether the response is complete, or longer than its limit. Raises `ExchangeFailed`."""
        if self._in_body:
            self._framing += len(data)
        else:
            self._head = head = self._head + data if self._head else data
            if len(head) > HEAD_LIMIT and not 0 <= head.find(b"\r\n\r\n") <= HEAD_LIMIT:
                raise ExchangeFailed(f"the head of its response is longer than {HEAD_LIMIT} bytes")
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            self.is_reusable = False
            if not self._is_complete:
                raise _failure(error) from error
        if self._is_complete:
            return True
        if self._too_long:
            self.is_reusable = False
            return True
        if self._framing > HEAD_LIMIT + FRAMING_FACTOR * self._size:
            raise ExchangeFailed("the chunk lines or trailers of its response are too long")
        return False

    def end(self) -> bool:
        """Note that the connection has ended. Return whether this completes the response, which has no other end."""
        self.is_reusable = False
        return (
            self._status not in (0, 204, 304)
            and not self._is_chunked
            and not self._head_only
            and b"\r\ncontent-length:" not in self._lower
        )

    def take(self) -> Response:
        """Return the complete response."""
        response = Response(self._status, self._head, self._lower, bytes(self._body), self._too_long, self._is_plain)
        self._body = b""
        return response

    def idle_seconds(self) -> float | None:
        """Return how long the server lets the connection be idle (Keep-Alive), less a second; None if not known."""
        found = _KEEP_ALIVE.search(self._lower)
        if found is None:
            return None
        seconds = int(found[1])
        return max(seconds - 1, seconds / 2)

    def close(self) -> None:
        """Drop the parser, which refers to this object: without it no cycle is left."""
        self._parser = cast("HttpResponseParser", None)
        self._body = b""

    # What the parser calls

    def on_message_begin(self) -> None:
        if self._is_complete:
            self.is_reusable = False  # a second response

    def on_headers_complete(self) -> None:
        if self._is_complete:
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
        unusual = _UNUSUAL.findall(lower)
        if b"transfer-encoding" in unusual:
            if unusual.count(b"transfer-encoding") > 1 or not _CHUNKED.search(lower):
                raise ExchangeFailed("its response has a transfer encoding other than chunked")
            self._is_chunked = True
        self._is_plain = status == 200 and len(unusual) == self._is_chunked
        # To HEAD the parser expects a body. Of HTTP/1.0 it accepts `keep-alive, close`.
        stays = not _CLOSE.search(lower) if self._head_only else self._parser.should_keep_alive()
        if not stays or head[7] == 0x30:
            self.is_reusable = False
        if self._head_only:  # the parser would wait for the body
            self._is_complete = True
            self._parser = HttpResponseParser(self)

    def on_body(self, body: bytes) -> None:
        if self._is_complete:
            self.is_reusable = False
            return
        self._size += len(body)
        if self._size > self._limit:
            self._too_long = True
            self._is_plain = False
            self._body = b""
        elif not self._body:
            self._body = body
        else:  # not a list: a body of tiny chunks would use forty times its size
            if type(self._body) is bytes:
                self._body = bytearray(self._body)
            self._body += body

    def on_message_complete(self) -> None:
        if self._status:
            self._is_complete = True


def _failure(error: Exception) -> ExchangeFailed:
    """Return the error of a callback, or one that says what the parser found."""
    cause = error.__context__
    if isinstance(cause, ExchangeFailed):
        return cause
    if isinstance(error, HttpParserUpgrade):
        return ExchangeFailed("it switched to another protocol")
    return ExchangeFailed(f"its response is not valid HTTP: {error}")
