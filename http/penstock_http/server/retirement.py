"""Finish what is open in a process that another one replaces. Nothing is refused or cut."""

from __future__ import annotations

import asyncio

import structlog
from aiohttp import hdrs, web

from penstock_http.deployments.registry import FlowRegistry
from penstock_http.server.connection import Connection
from penstock_http.server.membership import Membership

log: structlog.stdlib.BoundLogger = structlog.get_logger()

IDLE_SECONDS = 5.0
"""Seconds without a request after which an idle connection is closed.

Not at once: a client that uses its connection just then would lose a request. One that sends a request in this time
is told by its response that the connection closes.
"""

CHECK_SECONDS = 0.05
"""Seconds between two checks of the connections: aiohttp does not report when the last one is closed."""


def close_when_retiring(app: web.Application, membership: Membership) -> None:
    """Have each response tell its client that the connection closes, once another process replaces this one."""

    async def close(request: web.Request, response: web.StreamResponse) -> None:
        if membership.retiring.is_set():
            response.force_close()
            response.headers[hdrs.CONNECTION] = "close"

    if membership.peers.count > 1:
        app.on_response_prepare.append(close)


async def first_of(*events: asyncio.Event) -> None:
    """Wait until one of the events is set."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


async def retire(server: web.Server, registry: FlowRegistry, stop: asyncio.Event, timeout: float) -> None:
    """Stop the workers, and wait until no connection is open, for a signal, or for `timeout` seconds.

    Counts checks instead of reading the clock, so that a pause of the process takes no time from the clients.
    """
    stopping = asyncio.ensure_future(registry.stop_workers())
    checks = round(timeout / CHECK_SECONDS)
    while checks > 0 and not stop.is_set() and (server.connections or not stopping.done()):
        for connection in server.connections:
            if isinstance(connection, Connection):
                connection.close_if_idle(IDLE_SECONDS)
        await asyncio.sleep(CHECK_SECONDS)
        checks -= 1
    if checks <= 0:
        log.warning("process.retirement_timeout", seconds=timeout, connections=len(server.connections))
    stopping.cancel()  # the shutdown ends the workers that are left
    await asyncio.gather(stopping, return_exceptions=True)
