"""Open connections: find the addresses of a host, try all of them, and pass a proxy and the TLS handshake."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import TypeAlias, TypeVar, cast

from aiohappyeyeballs import start_connection  # pyright: ignore[reportUnknownVariableType]  # its tuples
from msgspec import Struct

from penstock.services.http_client.connection import ConnectionOwner, HttpConnection, limit_reads
from penstock.services.http_client.exchange import HEAD_LIMIT, ExchangeFailed
from penstock.services.http_client.origin import UNIX, Origin
from penstock.services.http_client.tls import TlsConnection

NEXT_ADDRESS_SECONDS = 0.25
"""Seconds after which the next address of a host is tried too (RFC 8305, section 5)."""

P = TypeVar("P", bound=asyncio.BaseProtocol)

Addresses: TypeAlias = list[tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[object, ...]]]


class Resolver:
    """Finds the addresses of hosts, in threads, and keeps them for `seconds`."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, seconds: float, look_up: Callable[[str, int], Addresses]
    ) -> None:
        self._loop = loop
        self._look_up = look_up
        self._seconds = seconds
        self._known: dict[tuple[str, int], tuple[float, Addresses]] = {}
        self._pending: dict[tuple[str, int], asyncio.Future[Addresses]] = {}

    async def addresses(self, host: str, port: int) -> Addresses:
        """Return the addresses of a host. Calls at the same time share one look-up. Raises `socket.gaierror`."""
        key = host, port
        until, known = self._known.get(key, (0.0, []))
        if self._loop.time() < until:
            return known
        pending = self._pending.get(key)
        if pending is None:
            pending = self._loop.run_in_executor(None, self._look_up, host, port)
            self._pending[key] = pending
            pending.add_done_callback(lambda done: self._remember(key, done))
        return await asyncio.shield(pending)

    def forget(self, host: str, port: int) -> None:
        """Look the host up again next time: no address could be reached."""
        self._known.pop((host, port), None)

    def _remember(self, key: tuple[str, int], done: asyncio.Future[Addresses]) -> None:
        del self._pending[key]
        if not done.cancelled() and done.exception() is None:
            self._known[key] = self._loop.time() + self._seconds, done.result()


def look_up(host: str, port: int) -> Addresses:
    """Return the addresses of a host. Blocks. Raises `socket.gaierror`."""
    return cast("Addresses", socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))


class Route(Struct, frozen=True, eq=False):
    """How connections to an origin are made."""

    origin: Origin
    proxy: Origin | None = None
    context: ssl.SSLContext | None = None
    """For TLS; None without it."""

    @property
    def prefix(self) -> bytes:
        """What precedes the path in a request: a proxy without a tunnel needs the whole URL."""
        if self.proxy is None or self.context is not None:
            return b""
        return f"http://{self.origin.authority}".encode()

    @property
    def headers(self) -> bytes:
        """Further headers of each request."""
        return _proxy_authorization(self.proxy) if self.proxy is not None and self.context is None else b""


async def open_connection(route: Route, owner: ConnectionOwner, resolver: Resolver) -> HttpConnection:
    """Open a connection. Raises `OSError` or `ExchangeFailed`. Leaves nothing behind when it is cancelled."""
    loop, origin = asyncio.get_running_loop(), route.origin
    if route.context is None:
        return await _connect(lambda: HttpConnection(owner), route, resolver, loop)

    context = route.context
    if route.proxy is None:
        connection = await _connect(lambda: TlsConnection(owner, context, origin.host, loop), route, resolver, loop)
    else:
        tunnel = await _connect(lambda: Tunnel(origin, route.proxy, loop), route, resolver, loop)
        try:
            await tunnel.ready
        except BaseException:
            tunnel.transport.abort()
            raise
        connection = TlsConnection(owner, context, origin.host, loop)
        tunnel.transport.set_protocol(connection)
        connection.connection_made(tunnel.transport)
    try:
        await connection.ready
    except BaseException:
        if not connection.transport.is_closing():
            connection.abort()
        raise
    return connection


async def _connect(make: Callable[[], P], route: Route, resolver: Resolver, loop: asyncio.AbstractEventLoop) -> P:
    """Connect to the origin, or to its proxy."""
    to = route.proxy or route.origin
    if to.scheme == UNIX:
        _, protocol = await loop.create_unix_connection(make, to.host)
        return protocol
    addresses = await resolver.addresses(to.host, to.port)
    try:
        sock = await start_connection(addresses, happy_eyeballs_delay=NEXT_ADDRESS_SECONDS, loop=loop)
    except OSError:
        resolver.forget(to.host, to.port)
        raise
    try:
        _, protocol = await loop.create_connection(make, sock=sock)
    except BaseException:
        sock.close()
        raise
    return protocol


class Tunnel(asyncio.Protocol):
    """Asks a proxy for a connection to an origin (CONNECT). `ready` is resolved when the proxy has made it."""

    def __init__(self, origin: Origin, proxy: Origin | None, loop: asyncio.AbstractEventLoop) -> None:
        host = f"[{origin.host}]" if ":" in origin.host else origin.host
        target = f"{host}:{origin.port}".encode()
        self._request = b"CONNECT %b HTTP/1.1\r\nHost: %b\r\n%b\r\n" % (target, target, _proxy_authorization(proxy))
        self._head = b""
        self.transport: asyncio.Transport = cast("asyncio.Transport", None)
        self.ready: asyncio.Future[None] = loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        limit_reads(transport)
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._head += data
        end = self._head.find(b"\r\n\r\n")
        if end < 0 and len(self._head) <= HEAD_LIMIT:
            return
        words = self._head.split(b"\r\n", 1)[0].split(b" ", 2)
        if not 0 <= end <= HEAD_LIMIT or not words[0].startswith(b"HTTP/1."):
            self._fail("its proxy did not respond in HTTP/1.1")
        elif len(words) < 2 or len(words[1]) != 3 or not words[1].startswith(b"2"):
            status = words[1].decode("latin-1") if len(words) > 1 and words[1].isdigit() else "no status"
            self._fail(f"its proxy refused the connection with {status[:3]}")
        elif len(self._head) > end + 4:
            self._fail("its proxy sent data before the connection was used")
        elif not self.ready.done():
            self.ready.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio passes it
        self._fail("its proxy closed the connection")

    def _fail(self, reason: str) -> None:
        if not self.ready.done():
            self.ready.set_exception(ExchangeFailed(reason))
            self.ready.exception()  # it is not logged if the task that waits was cancelled
        self.transport.abort()


def _proxy_authorization(proxy: Origin | None) -> bytes:
    if proxy is None or proxy.authorization is None:
        return b""
    return f"Proxy-Authorization: {proxy.authorization}\r\n".encode("latin-1")
