"""`Expect: 100-continue`: a client waits for permission before it sends a body (RFC 9110, section 10.1.1).

aiohttp gives it before a handler has seen the request. Here the handler gives it, after its checks. Other expectations
are ignored, as the RFC allows: proxies do not send them.
"""

from __future__ import annotations

from aiohttp import HttpVersion11, web


async def ignore_expectation(request: web.Request) -> None:
    """Do nothing, in place of aiohttp's own handling of `Expect`."""


async def send_continue(request: web.Request) -> None:
    """Send 100 Continue if the client waits for it. HTTP/1.0 has no `Expect`."""
    if request.version >= HttpVersion11 and request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # what comes now is the response, of which nothing was sent
