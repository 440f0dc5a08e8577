"""Connections are spread over the processes that share a listening socket."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from penstock_http.processes.connection_counts import COUNTS, ConnectionCounts, SharedConnectionCounts
from penstock_http.server.acceptor import PATIENCE_SECONDS, SharedListener
from waiting import until_async


class Side:
    """One of the processes, all of which are in this one here."""

    def __init__(self, sock: socket.socket, shared: SharedConnectionCounts, number: int) -> None:
        descriptor = shared.attach(number)[COUNTS]
        self.transports: set[asyncio.BaseTransport] = set()
        self.counts = ConnectionCounts(descriptor)
        os.close(descriptor)
        self.sock = sock.dup()
        self.sock.setblocking(False)
        self.listener = SharedListener(self.sock, self._protocol, lambda: len(self.transports), self.counts, number)

    def _protocol(self) -> asyncio.Protocol:
        side = self

        class Kept(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                self.transport = transport
                side.transports.add(transport)

            def connection_lost(self, exc: Exception | None) -> None:
                side.transports.discard(self.transport)

        return Kept()


@pytest.fixture
def sock() -> Iterator[socket.socket]:
    """A socket that several processes accept from."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock


async def test_connections_are_spread_evenly(sock: socket.socket) -> None:
    """Streams live long, so even those that are opened at the same time go to all processes in turn."""
    shared = SharedConnectionCounts()
    sides = [Side(sock, shared, number) for number in (1, 2, 3)]
    for side in sides:
        side.listener.start()
    with ExitStack() as stack:
        for total in (9, 30):
            for _ in range(total - sum(len(side.transports) for side in sides)):
                stack.enter_context(socket.create_connection(sock.getsockname()))
            await until_async(lambda total=total: sum(len(side.transports) for side in sides) == total)
            assert [len(side.transports) for side in sides] == [total // 3] * 3
    await until_async(lambda: not any(side.transports for side in sides))
    for side in sides:
        await side.listener.close(drain=False)
    await shared.aclose()


async def test_a_stuck_process_delays_no_connection_for_long(sock: socket.socket) -> None:
    """The others are patient with it, and less so each time: for twice the patience in all."""
    shared = SharedConnectionCounts()
    side, stuck = (Side(sock, shared, number) for number in (1, 2))
    side.listener.start()
    stuck.counts.set(2, 0)  # it accepts, but never runs
    loop = asyncio.get_running_loop()
    delays: list[float] = []
    call_later = loop.call_later
    loop.call_later = lambda delay, *args, **kw: delays.append(delay) or call_later(delay, *args, **kw)  # type: ignore[method-assign]
    with ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(socket.create_connection(sock.getsockname()))
        await until_async(lambda: len(side.transports) == 100)
    del loop.call_later
    await until_async(lambda: not side.transports)
    assert sum(delay for delay in delays if delay > 0.002) < 2 * PATIENCE_SECONDS, delays
    await side.listener.close(drain=False)
    stuck.sock.close()
    await shared.aclose()


async def test_a_process_that_stops_accepts_what_waits(sock: socket.socket) -> None:
    """The kernel would reset these connections if no process were left. One that is replaced leaves them to others."""
    shared = SharedConnectionCounts()
    sides = [Side(sock, shared, number) for number in (1, 2)]
    for side in sides:
        side.listener.start()
    with ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(socket.create_connection(sock.getsockname()))
        await sides[0].listener.close(drain=False)
        assert not sides[0].transports
        await sides[1].listener.close(drain=True)
        assert len(sides[1].transports) == 20
    await until_async(lambda: not sides[1].transports)
    await shared.aclose()
