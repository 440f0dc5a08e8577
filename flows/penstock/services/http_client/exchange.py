"""One exchange of request and response: how its failure is reported, and what a response is."""

from __future__ import annotations

from msgspec import Struct

from penstock.support.text import printable

HEAD_LIMIT = 64 * 1024
"""Maximum bytes of the head of a response (status line and headers), and of the trailers and chunk lines together."""


class ExchangeFailed(Exception):
    """No complete response was received. `reason` is one line and does not contain the host.

    `unanswered`: a connection that was kept from an earlier exchange was closed before the first byte of the response.
    The server has probably not read the request, so a request that may be repeated is sent again.
    """

    def __init__(self, reason: str, *, unanswered: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.unanswered = unanswered


class Response(Struct, frozen=True, gc=False):
    """A complete response."""

    status: int
    head: bytes
    """The status line and the headers; each line ends with CRLF."""
    lower: bytes
    """The same in lower case, in which names of headers are found."""
    body: bytes
    """The content as it was sent: compressed if the head says so."""
    too_long: bool = False
    """Whether the body was longer than its limit. It is empty then."""
    is_plain: bool = False
    """Whether it is a 200 whose body is the content, and whose headers ask for no wait. So are nearly all responses."""

    @property
    def reason(self) -> str:
        """The reason phrase of the status line, which may be empty."""
        words = self.head.partition(b"\r\n")[0].split(b" ", 2)
        return printable(words[2].decode("latin-1").strip()) if len(words) == 3 else ""

    def header(self, name: bytes) -> str | None:
        """Return the value of a header; several of them joined by commas. `name` is in lower case.

        The head is searched when it is needed: to have the parser report every header costs more than all else that it
        does.
        """
        head = self.lower
        start = b"\r\n" + name + b":"
        at = head.find(start)
        if at < 0:
            return None
        values = list[bytes]()
        while at >= 0:
            at += len(start)
            end = head.index(b"\r\n", at)
            values.append(self.head[at:end].strip())
            at = head.find(start, end)
        return b", ".join(values).decode("latin-1")
