"""Who may see what customers sent, and who may bring flows: whoever has the token; without one set, this machine."""

from __future__ import annotations

import hmac

from aiohttp import web

from penstock_http.problems import RequestRejected
from penstock_http.requests.hosts import host_of, is_loopback, is_same_origin
from penstock_http.state import CONTEXT


def require_token(request: web.Request, what: str) -> None:
    """Refuse who may not; `what` is in the sentence that says so: "see dead letters".

    With a token set, it is asked for always. Without one, only a request from this machine to this machine is answered;
    one that came through a proxy is from elsewhere, whatever its address says.
    """
    settings = request.app[CONTEXT].settings
    given = request.headers.get("Authorization", "")
    if settings.token:
        scheme, _, token = given.partition(" ")
        # A header that is no UTF-8 comes with surrogates; it is a wrong token like any other.
        same = hmac.compare_digest(token.encode("utf-8", "surrogateescape"), settings.token.encode())
        if same and scheme.lower() == "bearer":
            return
        raise RequestRejected(
            401,
            "unauthorized",
            f"a token is needed to {what}: send Authorization: Bearer TOKEN",
            {"WWW-Authenticate": 'Bearer realm="penstock"'},
        )
    local = is_loopback(settings.host) and is_loopback(request.remote or "") and _is_for_this_machine(request)
    if not local or any(map(_is_of_proxy, request.headers)):
        raise RequestRejected(
            403,
            "unauthorized",
            f"without a token, only requests from this machine can {what}: set PENSTOCK_TOKEN and restart",
        )


def _is_of_proxy(header: str) -> bool:
    """Whether a header is one that proxies add."""
    name = header.lower()
    return name in ("via", "forwarded", "x-real-ip") or name.startswith("x-forwarded-")


def _is_for_this_machine(request: web.Request) -> bool:
    """Whether the host that a request is for is this machine; False without one."""
    try:
        host = host_of(request)
    except RequestRejected:
        return False
    return host is not None and is_loopback(host.host)


def is_trusted(request: web.Request) -> bool:
    """Whether a request may see what customers sent."""
    try:
        require_token(request, "see it")
    except RequestRejected:
        return False
    return True


def authorize_upload(request: web.Request) -> None:
    """Refuse who may not bring a flow: a flow names Python functions and files, so to bring one is to run code here."""
    if request.app[CONTEXT].settings.allow_deployments == "no":
        raise RequestRejected(
            403, "deployments_disabled", "deploying flows over HTTP is disabled; enable: --allow-deployments yes"
        )
    require_token(request, "deploy flows")
    # Pages of other origins do not get here unless their origin is allowed. Without a token that is not enough.
    origin = request.headers.get("Origin")
    if origin is not None and not is_same_origin(request, origin) and not request.app[CONTEXT].settings.token:
        raise RequestRejected(403, "cross_origin", f"a page of {origin} cannot deploy flows without a token")
