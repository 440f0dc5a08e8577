"""The client: a pool of connections for each origin, on the event loop that uses it."""

from __future__ import annotations

import asyncio
import os
import re
import ssl
from collections.abc import Callable, Collection, Mapping
from functools import partial

from penstock.errors import InvalidItem, ServiceUnreachable
from penstock.services.http_client.connect import Addresses, Resolver, Route, look_up
from penstock.services.http_client.exchange import ExchangeFailed, Response
from penstock.services.http_client.origin import Origin, end_of, head_of
from penstock.services.http_client.pool import ConnectionPool, ConnectionStatistics
from penstock.services.http_client.proxies import proxy_for
from penstock.services.http_client.reasons import connection_error_reason
from penstock.services.http_client.request import Request
from penstock.services.http_client.responses import content_of
from penstock.services.http_client.tls import Tls
from penstock.support.tasks import Report, reported

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://[^/?#\s]+)(/[^?#\s]*)?(\?[^#\s]*)?", re.ASCII)
_METHOD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)

REPEATABLE = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS"})
"""Methods whose requests may be sent twice (RFC 9110, section 9.2.2)."""


class RequestHead:
    """What all requests of a service have in common, checked and encoded once.

    `headers` are those that are always the same, `names` the names of all. A request with the header Idempotency-Key is
    repeatable.
    """

    __slots__ = ("head", "head_only", "key", "method", "origin", "repeatable", "tls")

    def __init__(
        self,
        method: str,
        origin: Origin,
        headers: Mapping[str, str],
        tls: Tls | None = None,
        *,
        names: Collection[str] = (),
    ) -> None:
        if not _METHOD.fullmatch(method):
            raise ValueError(f"invalid method {method!r}")
        self.method = method.encode()
        self.origin = origin
        self.tls = tls
        self.key = f"{origin}{tls}"
        """Requests with the same key use the same connections."""
        known = {name.lower() for name in (*headers, *names)}
        self.head = head_of(origin, headers, known)
        self.head_only = method == "HEAD"
        self.repeatable = method in REPEATABLE or "idempotency-key" in known


class HttpClient:
    """Sends requests. Close it after use; a closed client can be used again.

    `connections_per_host` limits the connections to one host and port (further requests wait, within their timeout).
    `dns_seconds` is how long the addresses of a host are kept. `environment` names the proxies: HTTP_PROXY,
    HTTPS_PROXY and NO_PROXY. `look_up` finds the addresses of a host, in a thread.
    """

    def __init__(
        self,
        *,
        connections_per_host: int = 1024,
        dns_seconds: float = 60,
        environment: Mapping[str, str] = os.environ,
        look_up: Callable[[str, int], Addresses] = look_up,
    ) -> None:
        if connections_per_host < 1:
            raise ValueError(f"connections_per_host: expected an integer >= 1, got {connections_per_host}")
        self._connections_per_host = connections_per_host
        self._dns_seconds = dns_seconds
        self._environment = environment
        self._look_up = look_up
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pools: dict[str, ConnectionPool] = {}
        self._contexts: dict[Tls, ssl.SSLContext] = {}
        self._resolver: Resolver | None = None

    async def request(
        self,
        service: str,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        limit: int,
        tls: Tls | None = None,
    ) -> bytes:
        """Send a request and return the body of a 2xx response, at most `limit` bytes. `url` is percent-encoded.

        When it is cancelled, the connection is closed. Raises `InvalidItem` for a request that cannot be sent,
        `ServiceUnreachable` for connection errors, and the errors of `content_of`.
        """
        try:
            found = _URL.fullmatch(url)
            if found is None or not url.isascii():
                raise ValueError("its URL is not a valid HTTP URL")
            head = RequestHead(method, Origin.parse(found[1]), headers or {}, tls)
        except ValueError as error:
            raise InvalidItem(f"the request to {service} cannot be sent: {error}") from error
        target = (found[2] or "/") + (found[3] or "")
        rest = head.head + end_of(method, body)
        response = await reported(partial(self.start, service, head, target.encode(), rest, limit))
        return await content_of(service, response, limit)

    def start(
        self, service: str, head: RequestHead, target: bytes, rest: bytes, limit: int, on_end: Report[Response]
    ) -> Request:
        """Start a request, and return it. This is the hot path of every call.

        `target` is the path with the query, percent-encoded. `rest` is what follows the request line: headers, the
        empty line, the body. The body of the response has at most `limit` bytes. `on_end` receives the response, of any
        status, or the error; perhaps before this method returns. Raises `ServiceUnreachable`.
        """
        pool = self._pools.get(head.key)
        if pool is None or self._loop is not asyncio.get_running_loop():
            pool = self._open_pool(service, head)
        content = b"%b %b%b HTTP/1.1\r\n%b%b" % (head.method, pool.prefix, target, pool.headers, rest)
        request = Request(pool, service, content, limit, head.head_only, head.repeatable, on_end)
        request.start()
        return request

    def statistics(self, head: RequestHead | None = None) -> ConnectionStatistics:
        """Return how many connections there are now: to all hosts, or those that requests with this head use."""
        pools = self._pools.values() if head is None else [self._pools[key] for key in self._pools.keys() & {head.key}]
        return sum((pool.statistics() for pool in pools), ConnectionStatistics())

    async def aclose(self) -> None:
        """Close all connections. Requests in flight fail."""
        pools, self._pools = self._pools, {}
        self._contexts = {}
        for pool in pools.values():
            pool.close()
        if pools:
            await asyncio.sleep(0)  # transports close their sockets in the next iteration
            await asyncio.sleep(0)

    def _open_pool(self, service: str, head: RequestHead) -> ConnectionPool:
        loop = asyncio.get_running_loop()
        if self._loop is not loop or self._resolver is None:
            self._pools = {}  # of a loop that has ended
            self._loop = loop
            self._resolver = Resolver(loop, self._dns_seconds, self._look_up)
        origin = head.origin
        try:
            context = self._context(head.tls or Tls()) if origin.scheme == "https" else None
            route = Route(origin, proxy_for(origin, self._environment), context)
        except (ExchangeFailed, OSError, ValueError) as error:
            raise ServiceUnreachable(service, connection_error_reason(error)) from error
        pool = self._pools[head.key] = ConnectionPool(route, self._resolver, loop, self._connections_per_host)
        return pool

    def _context(self, tls: Tls) -> ssl.SSLContext:
        context = self._contexts.get(tls)
        if context is None:
            context = self._contexts[tls] = tls.context()
        return context
