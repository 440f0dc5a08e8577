"""Check the host and the origin of requests, to protect the service from web pages (CSRF) and from DNS rebinding.

A browser that can reach the service sends requests on behalf of any page that it shows. It reports the page's
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
"""Routes without checks: probes use any host name, and the responses are not secret."""

BULK = "/{name}/bulk"
"""The route that starts runs."""

EXPOSED = "Penstock-Run, Penstock-Revision, Location, Retry-After"
"""Headers of responses that pages of allowed origins may read."""

ACCEPTED = "Accept, Authorization, Content-Encoding, Content-Type, Penstock-Deadline"
"""Headers of requests that pages of allowed origins may set."""

PREFLIGHT_SECONDS = 600
"""Seconds for which a browser may remember the response to a preflight request."""

_HOST = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~-]+)(?::(?P<port>[0-9]{0,5}))?")


class Authority(NamedTuple):
    """A host in lower case, without brackets and trailing dot, and a port, None for the default port."""

    host: str
    port: int | None


class Origins:
    """The hosts and origins that the settings allow."""

    def __init__(self, settings: Settings) -> None:
        self.allowed = frozenset(map(origin_of, words_of(settings.allowed_origins)))
        self._hosts = frozenset(words_of(settings.allowed_hosts))
        self._on_loopback = is_loopback(settings.host)

    @web.middleware
    async def check(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Reject requests for other hosts and from pages of other origins. Respond to preflight requests."""
        if _route(request) in HEALTH:
            return await handler(request)
        self._check_host(request)
        origin = self._check_origin(request)
        if origin in self.allowed and _is_preflight(request):
            return await _preflight(request)
        return await handler(request)

    async def add_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        """Let pages of allowed origins read a response. A handler of `on_response_prepare`."""
        vary = response.headers.get(hdrs.VARY)
        response.headers[hdrs.VARY] = f"{vary}, Origin" if vary else "Origin"
        origin = request.headers.get(hdrs.ORIGIN)
        if origin in self.allowed:
            response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
            response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = EXPOSED

    def _check_host(self, request: web.Request) -> None:
        """Raise 403 if the host is not allowed."""
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
        """Return the origin of the page that sent a request, None for other clients. Raises 403 if not allowed."""
        origins = request.headers.getall(hdrs.ORIGIN, [])
        origin = origins[0] if len(origins) == 1 else None
        if origin in self.allowed:
            return origin
        if origins and (origin is None or not is_same_origin(request, origin)):
            raise _rejection(f"a page of {', '.join(origins)}")
        if request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin") and not _opens_page(request):
            raise _rejection("a page of another origin")
        return origin


def authority_of(text: str) -> Authority | None:
    """Return the authority in a `Host` header or an origin, None if it is malformed (RFC 9110, section 7.2)."""
    found = _HOST.fullmatch(text)
    if found is None or int(found["port"] or 0) > 65535:
        return None
    host = found["host"].lower().strip("[]").removesuffix(".")
    return Authority(host, int(found["port"]) if found["port"] else None)


def host_of(request: web.Request) -> Authority | None:
    """Return the host and port that a request is addressed to, None without a `Host` header, which HTTP/1.0 allows.

    Raises 400 for a malformed header, and for a request target that is an absolute URL. The authority of such a URL
    would count instead of the header (RFC 9112, section 3.2.2), and only proxies get such requests.
    """
    if not request.raw_path.startswith(("/", "*")):
        raise RequestRejected(
            400, "bad_request", "the request target: expected a path such as /flows, got an absolute URL"
        )
    headers = request.headers.getall(hdrs.HOST, [])
    if not headers and request.version < HttpVersion11:
        return None
    host = authority_of(headers[0]) if len(headers) == 1 else None
    if host is None:
        raise RequestRejected(400, "bad_request", f"the Host header: expected one host name with a port, got {headers}")
    return host


def is_same_origin(request: web.Request, origin: str) -> bool:
    """Return whether an origin has the host and port that a request is addressed to.

    The scheme is not compared, because behind a proxy that terminates TLS the service does not know its own.
    """
    scheme, _, text = origin.partition("://")
    default = {"http": 80, "https": 443}.get(scheme)
    page, host = authority_of(text), host_of(request)
    if default is None or page is None or host is None:
        return False
    return (page.host, page.port or default) == (host.host, host.port or default)


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is this machine: localhost and its subdomains, 127.0.0.0/8, ::1."""
    host = host.lower().removesuffix(".")
    if host == "localhost" or host.endswith(".localhost"):  # RFC 6761, section 6.3
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


async def allowed_methods(request: web.Request) -> set[str]:
    """Return the methods that the path of a request supports."""
    found: set[str] = set()
    for resource in request.app.router.resources():
        if resource.name != NOT_FOUND_ROUTE:
            _, methods = await resource.resolve(request)
            found |= methods
    return found


def _is_preflight(request: web.Request) -> bool:
    return request.method == hdrs.METH_OPTIONS and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers


async def _preflight(request: web.Request) -> web.Response:
    """Return the response to a preflight request from an allowed origin.

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


def _opens_page(request: web.Request) -> bool:
    """Return whether the user follows a link to a route that has no effects. The linking page cannot read the response.

    A link to a bulk route would start a run.
    """
    fetch = request.headers.get("Sec-Fetch-Mode"), request.headers.get("Sec-Fetch-Dest")
    is_read = request.method in (hdrs.METH_GET, hdrs.METH_HEAD)
    return is_read and fetch == ("navigate", "document") and _route(request) != BULK


def _rejection(sender: str) -> RequestRejected:
    return RequestRejected(
        403, "cross_origin", f"{sender} may not send requests; to allow an origin: --allowed-origins"
    )


def _route(request: web.Request) -> str | None:
    """Return the pattern of the route of a request."""
    resource = request.match_info.route.resource
    return None if resource is None else resource.canonical
