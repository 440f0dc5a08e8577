"""`Expect: 100-continue`: a client asks whether its body is welcome before it sends it (RFC 9110, section 10.1.1).

aiohttp says yes before a handler has looked at the request. Here the handler does, after its checks.
"""

from __future__ import annotations

from aiohttp import HttpVersion11, web
from aiohttp.typedefs import Handler

from penstock_http.problems import Refused

CONTINUE = "100-continue"


async def leave_to_handler(request: web.Request) -> None:
    """In the place of what aiohttp does with `Expect`: nothing yet."""


@web.middleware
async def check_expectation(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse an expectation that nobody here can meet, with 417."""
    expected = _expected(request)
    if expected not in ("", CONTINUE):
        raise Refused(417, "expectation_failed", f"Expect has to be {CONTINUE}, got {expected}")
    return await handler(request)


async def welcome_body(request: web.Request) -> None:
    """Ask for the body, if the client waits to be asked."""
    if _expected(request) == CONTINUE:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # what comes now is the response, of which nothing was sent


def _expected(request: web.Request) -> str:
    """What a client expects; older ones than of HTTP/1.1 cannot mean it."""
    return request.headers.get("Expect", "").lower() if request.version >= HttpVersion11 else ""
