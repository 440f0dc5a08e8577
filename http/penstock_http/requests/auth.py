"""Check that a client may read customer data or deploy flows.

If a token is set, the client must send it. Otherwise the request must come from this machine.
"""

from __future__ import annotations

import hmac

from aiohttp import web

from penstock_http.problems import RequestRejected
from penstock_http.requests.hosts import host_of, is_loopback, is_same_origin
from penstock_http.state import STATE


def require_token(request: web.Request, action: str) -> None:
    """Raise 401 or 403 if the client may not do something. `action` completes the message, as in "see dead letters".

    Without a token, the request must be addressed to this machine and come from it. A request that came through a proxy
    counts as one from elsewhere, whatever its address is.
    """
    settings = request.app[STATE].settings
    if settings.token:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        # A header that is not UTF-8 contains surrogates; it is an invalid token like any other.
        is_equal = hmac.compare_digest(token.encode("utf-8", "surrogateescape"), settings.token.encode())
        if is_equal and scheme.lower() == "bearer":
            return
        raise RequestRejected(
            401,
            "unauthorized",
            f"a token is needed to {action}: send Authorization: Bearer TOKEN",
            {"WWW-Authenticate": 'Bearer realm="penstock"'},
        )
    is_local = is_loopback(settings.host) and is_loopback(request.remote or "") and _is_addressed_to_loopback(request)
    if not is_local or any(map(_is_added_by_proxies, request.headers)):
        raise RequestRejected(
            403,
            "unauthorized",
            f"only requests from this machine can {action} without a token; set PENSTOCK_TOKEN and restart",
        )


def is_trusted(request: web.Request) -> bool:
    """Return whether the client may read customer data."""
    try:
        require_token(request, "see it")
    except RequestRejected:
        return False
    return True


def authorize_upload(request: web.Request) -> None:
    """Raise 401 or 403 if the client may not deploy flows. A flow can name Python functions, which then run here."""
    settings = request.app[STATE].settings
    if settings.allow_deployments == "no":
        raise RequestRejected(
            403, "deployments_disabled", "deploying flows over HTTP is disabled; enable: --allow-deployments yes"
        )
    require_token(request, "deploy flows")
    # Web pages of other origins only get here if their origin is allowed. Without a token that is not enough.
    origin = request.headers.get("Origin")
    if origin is not None and not is_same_origin(request, origin) and not settings.token:
        raise RequestRejected(403, "cross_origin", f"a page of {origin} cannot deploy flows without a token")


def _is_added_by_proxies(header: str) -> bool:
    """Return whether proxies add a header with this name."""
    name = header.lower()
    return name in ("via", "forwarded", "x-real-ip") or name.startswith("x-forwarded-")


def _is_addressed_to_loopback(request: web.Request) -> bool:
    """Return whether the host in the request is this machine."""
    try:
        host = host_of(request)
    except RequestRejected:
        return False
    return host is not None and is_loopback(host.host)
