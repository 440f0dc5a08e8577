"""Leave the service: have clients move to other processes, and finish what is open. Nothing is refused or cut."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import structlog
from aiohttp import hdrs, web

from penstock_http.deployments.registry import FlowRegistry
from penstock_http.server.connection import Connection, ConnectionFactory
from penstock_http.server.membership import Membership

log: structlog.stdlib.BoundLogger = structlog.get_logger()

IDLE_SECONDS = 5.0
"""Seconds without a request after which an idle connection is closed.

Not at once: a client that uses its connection just then would lose a request. One that sends a request in this time
is told by its response that the connection closes.
"""

CHECK_SECONDS = 0.05
"""Seconds between two checks of the connections: aiohttp does not report when the last one is closed."""


def close_when_leaving(app: web.Application, stop: asyncio.Event, membership: Membership) -> None:
    """Have each response tell its client that the connection closes, once this process stops or is replaced.

    The client, or its load balancer, makes its next connection to another process.
    """

    async def close(request: web.Request, response: web.StreamResponse) -> None:
        if stop.is_set() or membership.retiring.is_set():
            response.force_close()
            response.headers[hdrs.CONNECTION] = "close"

    app.on_response_prepare.append(close)


async def wait_for_drain_delay(seconds: float, skip: asyncio.Event) -> None:
    """Go on serving for some seconds after the first stop signal, or until the second one sets `skip`.

    `/health/ready` responds with 503, so that load balancers send requests elsewhere before connections are refused.
    """
    if seconds:
        log.info("shutdown.delayed", seconds=seconds)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await skip.wait()


async def first_of(*events: asyncio.Event) -> None:
    """Wait until one of the events is set."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


async def retire(
    server: web.Server, factory: ConnectionFactory, registry: FlowRegistry, stop: asyncio.Event, timeout: float
) -> asyncio.Future[None]:
    """Stop the workers, and wait until no connection is open, for a signal, or for `timeout` seconds.

    Returns what is done when all workers have stopped. The shutdown ends those that are left. They are not given up
    before that: as long as this process has not stopped those that must not run twice, no other process may lead.

    Counts checks instead of reading the clock, so that a pause of the process takes no time from the clients.
    """
    stopping = asyncio.ensure_future(registry.stop_workers())
    checks = round(timeout / CHECK_SECONDS)
    while checks > 0 and not stop.is_set() and (server.connections or factory.handshakes or not stopping.done()):
        factory.close_idle_handshakes(IDLE_SECONDS)
        for connection in server.connections:
            if isinstance(connection, Connection):
                connection.close_if_idle(IDLE_SECONDS)
        await asyncio.sleep(CHECK_SECONDS)
        checks -= 1
    if checks <= 0:
        log.warning("process.retirement_timeout", seconds=timeout, connections=len(server.connections))
    return stopping
