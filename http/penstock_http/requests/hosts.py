"""Which hosts and origins are served: protects the service from web pages (CSRF) and from DNS rebinding.

A browser on a machine that reaches the service sends requests on behalf of any page it shows. It reports the page's
origin in `Origin` (https://fetch.spec.whatwg.org/#origin-header) and its relation to the service in `Sec-Fetch-Site`
(https://www.w3.org/TR/fetch-metadata/); pages cannot change these headers. Other clients send neither.
"""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

from aiohttp import HttpVersion11, hdrs, web
from aiohttp.typedefs import Handler

from penstock.settings import Settings, origin_of, words_of
from penstock_http.problems import NOT_FOUND_ROUTE, RequestRejected

HEALTH = ("/health/live", "/health/ready")
"""Routes that are served to everybody: probes use any host name, and the answers are no secret."""

BULK = "/{name}/bulk"

EXPOSED = "Penstock-Run, Penstock-Revision, Retry-After"
"""Headers of responses that pages of allowed origins may read."""

ACCEPTED = "Accept, Authorization, Content-Encoding, Content-Type"
"""Headers of requests that pages of allowed origins may set."""

PREFLIGHT_SECONDS = 600
"""Seconds for which a browser may remember the response to a preflight request."""

_HOST = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~-]+)(?::(?P<port>[0-9]{0,5}))?")


class Authority(NamedTuple):
    """A host in lower case, without brackets and without a dot at its end, and a port, None for the default one."""

    host: str
    port: int | None


def authority_of(text: str) -> Authority | None:
    """The authority in a `Host` header or an origin; None if it is malformed (RFC 9110, section 7.2)."""
    found = _HOST.fullmatch(text)
    if found is None or int(found["port"] or 0) > 65535:
        return None
    host = found["host"].lower().strip("[]").removesuffix(".")
    return Authority(host, int(found["port"]) if found["port"] else None)


def host_of(request: web.Request) -> Authority | None:
    """The authority that a request is for; None without a `Host` header, which HTTP/1.0 allows.

    Raises `RequestRejected` for one that is malformed, and for a request target that is an absolute URL: its
    authority counts
    instead of the header (RFC 9112, section 3.2.2), and only proxies are sent such requests.
    """
    if not request.raw_path.startswith(("/", "*")):
        raise RequestRejected(
            400, "bad_request", "the request target: expected a path such as /flows, got an absolute URL"
        )
    given = request.headers.getall(hdrs.HOST, [])
    if not given and request.version < HttpVersion11:
        return None
    host = authority_of(given[0]) if len(given) == 1 else None
    if host is None:
        raise RequestRejected(400, "bad_request", f"the Host header: expected one host name with a port, got {given}")
    return host


def is_same_origin(request: web.Request, origin: str) -> bool:
    """Whether an origin has the host and the port that a request is for.

    The scheme is not compared: behind a proxy that ends TLS the service does not know its own.
    """
    scheme, _, text = origin.partition("://")
    default = {"http": 80, "https": 443}.get(scheme)
    page, host = authority_of(text), host_of(request)
    if default is None or page is None or host is None:
        return False
    return (page.host, page.port or default) == (host.host, host.port or default)


class Origins:
    """The hosts and origins that the settings allow."""

    def __init__(self, settings: Settings) -> None:
        self.allowed = frozenset(map(origin_of, words_of(settings.allowed_origins)))
        self._hosts = frozenset(words_of(settings.allowed_hosts))
        self._on_loopback = is_loopback(settings.host)

    @web.middleware
    async def check(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse requests for other hosts and from pages of other origins; answer preflight requests."""
        if _route(request) in HEALTH:
            return await handler(request)
        self._check_host(request)
        origin = self._check_origin(request)
        if origin in self.allowed and request.method == hdrs.METH_OPTIONS and _PREFLIGHT in request.headers:
            return await _preflight(request)
        return await handler(request)

    async def add_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        """Let pages of allowed origins read a response; for `on_response_prepare`."""
        vary = response.headers.get(hdrs.VARY)
        response.headers[hdrs.VARY] = f"{vary}, Origin" if vary else "Origin"
        origin = request.headers.get(hdrs.ORIGIN)
        if origin in self.allowed:
            response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
            response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = EXPOSED

    def _check_host(self, request: web.Request) -> None:
        authority = host_of(request)
        if authority is None or not (self._on_loopback or self._hosts):
            return
        host = authority.host
        if not (self._on_loopback and is_loopback(host)) and host not in self._hosts:
            allowed = ["localhost"] * self._on_loopback + sorted(self._hosts)
            raise RequestRejected(
                403,
                "host_not_allowed",
                f"the host {host}: expected one of {', '.join(allowed)}; to allow it: --allowed-hosts {host}",
            )

    def _check_origin(self, request: web.Request) -> str | None:
        """The origin of the page that sent a request, None for another client; raises `RequestRejected`."""
        origins = request.headers.getall(hdrs.ORIGIN, [])
        origin = origins[0] if len(origins) == 1 else None
        if origin in self.allowed:
            return origin
        if origins and (origin is None or not is_same_origin(request, origin)):
            raise _rejection(f"a page of {', '.join(origins)}")
        if request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin") and not _opens_page(request):
            raise _rejection("a page of another origin")
        return origin


_PREFLIGHT = hdrs.ACCESS_CONTROL_REQUEST_METHOD


def _opens_page(request: web.Request) -> bool:
    """Whether the user follows a link to a route that only shows something: the linking page cannot read the response.

    A link to a bulk route would start a run.
    """
    fetch = request.headers.get("Sec-Fetch-Mode"), request.headers.get("Sec-Fetch-Dest")
    reads = request.method in (hdrs.METH_GET, hdrs.METH_HEAD)
    return reads and fetch == ("navigate", "document") and _route(request) != BULK


def _rejection(who: str) -> RequestRejected:
    return RequestRejected(403, "cross_origin", f"{who} may not send requests; to allow an origin: --allowed-origins")


async def _preflight(request: web.Request) -> web.Response:
    """The response to a preflight request of an allowed origin.

    See https://fetch.spec.whatwg.org/#cors-preflight-fetch.
    """
    methods = await allowed_methods(request)
    return web.Response(
        status=204,
        headers={
            hdrs.ACCESS_CONTROL_ALLOW_METHODS: ", ".join(sorted(methods)),
            hdrs.ACCESS_CONTROL_ALLOW_HEADERS: ACCEPTED,
            hdrs.ACCESS_CONTROL_MAX_AGE: str(PREFLIGHT_SECONDS),
        },
    )


async def allowed_methods(request: web.Request) -> set[str]:
    """The methods that the path of a request has routes for."""
    found: set[str] = set()
    for resource in request.app.router.resources():
        if resource.name != NOT_FOUND_ROUTE:
            _, methods = await resource.resolve(request)
            found |= methods
    return found


def _route(request: web.Request) -> str | None:
    """The pattern of the route of a request."""
    resource = request.match_info.route.resource
    return None if resource is None else resource.canonical


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's own: localhost and names below it, 127.0.0.0/8, ::1."""
    host = host.lower().removesuffix(".")
    if host == "localhost" or host.endswith(".localhost"):  # RFC 6761, section 6.3
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
