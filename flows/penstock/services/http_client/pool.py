"""The connections to one origin: last in, first out, so that those that are not needed become idle and are closed."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque

from msgspec import Struct

from penstock.services.http_client.connect import Resolver, Route, open_connection
from penstock.services.http_client.connection import HttpConnection
from penstock.services.http_client.exchange import ExchangeFailed


class ConnectionStatistics(Struct, frozen=True):
    """The connections of a pool now, or of several pools added up."""

    open: int = 0
    """Connections that are open, or being opened."""
    idle: int = 0
    """Open connections without a request."""
    awaited: int = 0
    """Requests that wait for a connection."""

    def __add__(self, other: ConnectionStatistics) -> ConnectionStatistics:
        return ConnectionStatistics(self.open + other.open, self.idle + other.idle, self.awaited + other.awaited)


class ConnectionPool:
    """Up to `limit` connections to an origin. Further requests wait for one, first come, first served."""

    def __init__(self, route: Route, resolver: Resolver, loop: asyncio.AbstractEventLoop, limit: int) -> None:
        self.route = route
        self.tls_session: ssl.SSLSession | None = None
        self.prefix = route.prefix
        self.headers = route.headers
        self._resolver = resolver
        self.loop = loop
        self._limit = limit
        self._connections: set[HttpConnection] = set()
        self._idle: list[HttpConnection] = []
        """The last one was used last."""
        self._opening = 0
        self._waiters: deque[asyncio.Future[HttpConnection | None]] = deque()
        """Resolved with a connection, or with None if there is room for a new one."""
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def statistics(self) -> ConnectionStatistics:
        """Return how many connections there are."""
        awaited = sum(not waiter.done() for waiter in self._waiters)
        return ConnectionStatistics(len(self._connections) + self._opening, len(self._idle), awaited)

    # Taking connections

    def take_idle(self) -> HttpConnection | None:
        """Return the connection that was used last, if it is not too old."""
        idle = self._idle
        while idle:
            connection = idle.pop()
            if connection.idle_until > self.loop.time():
                return connection
            connection.abort()
        return None

    async def acquire(self) -> HttpConnection:
        """Open a connection, or wait for one if there are as many as allowed."""
        while True:
            if self._closed:
                raise ExchangeFailed("the client was closed")
            if len(self._connections) + self._opening < self._limit:
                return await self._open()
            waiter: asyncio.Future[HttpConnection | None] = self.loop.create_future()
            self._waiters.append(waiter)
            try:
                connection = await waiter
            except asyncio.CancelledError:
                if waiter.done() and not waiter.cancelled():
                    self._pass_on(waiter.result())
                raise
            if connection is not None and not connection.closed:
                return connection

    async def _open(self) -> HttpConnection:
        self._opening += 1
        try:
            connection = await open_connection(self.route, self, self._resolver)
        except BaseException:
            self._opening -= 1
            self._offer_room()
            raise
        self._opening -= 1
        if self._closed or connection.closed:
            connection.abort()
            self._offer_room()
            reason = "the client was closed" if self._closed else connection.failure or "the connection was closed"
            raise ExchangeFailed(reason)
        self._connections.add(connection)
        return connection

    # Returning connections

    def release(self, connection: HttpConnection) -> None:
        """Take back a connection: for the request that waits longest, or for a later one."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return
        now = self.loop.time()
        connection.idle_until = now + connection.idle_seconds
        self._idle.append(connection)
        if self._timer is None:
            self._timer = self.loop.call_at(connection.idle_until, self._close_idle)

    def forget(self, connection: HttpConnection) -> None:
        """Forget a connection that was closed."""
        if connection in self._connections:
            self._connections.discard(connection)
            if connection in self._idle:
                self._idle.remove(connection)
            self._offer_room()

    def _pass_on(self, connection: HttpConnection | None) -> None:
        """Give what a cancelled request has received to the next one."""
        if connection is None:
            self._offer_room()
        elif not connection.closed:
            self.release(connection)

    def _offer_room(self) -> None:
        """Let a request that waits open a connection."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def _close_idle(self) -> None:
        """Close connections that were idle for too long. One timer serves all of them."""
        self._timer = None
        now = self.loop.time()
        for connection in [each for each in self._idle if each.idle_until <= now]:
            connection.abort()
        if self._idle:
            self._timer = self.loop.call_at(min(each.idle_until for each in self._idle), self._close_idle)

    def close(self) -> None:
        """Close all connections. Requests in flight fail."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for connection in list(self._connections):
            connection.fail("the client was closed")
        self._idle.clear()
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()
