"""Check that a client may see, redrive, change or delete dead letters, or deploy flows.

If tokens are set, the client must send one that has the scope. Otherwise the request must come from this machine.
"""

from __future__ import annotations

from aiohttp import HttpVersion11, hdrs, web

from penstock.tokens import LOCAL_NAME, SCOPES, Token, find_token
from penstock_http.problems import RequestRejected
from penstock_http.requests.hosts import host_of, is_loopback, is_same_origin
from penstock_http.state import STATE


def authorize(request: web.Request, *scopes: str) -> str:
    """Return the name of the client if it has all scopes. Raises 401 or 403.

    Without tokens, the request must be addressed to this machine and come from it. A request that came through a proxy
    counts as one from elsewhere, whatever its address is, and a page of another origin may only read. Some proxies add
    no header, but send HTTP/1.0 unless they are configured otherwise, so HTTP/1.0 counts as a proxy.
    """
    name = ""
    for scope in scopes:
        name = _authorize(request, scope)
    return name


def _authorize(request: web.Request, scope: str) -> str:
    settings = request.app[STATE].settings
    if tokens := settings.all_tokens:
        token = _token_of(request, tokens)
        if token is None:
            raise RequestRejected(
                401,
                "unauthorized",
                f"a token is needed to {SCOPES[scope]}: send Authorization: Bearer TOKEN",
                {hdrs.WWW_AUTHENTICATE: 'Bearer realm="penstock"'},
            )
        if scope not in token.scopes:
            raise RequestRejected(
                403,
                "insufficient_scope",
                f"the token {token.name} may not {SCOPES[scope]}: it needs the scope {scope}, and has "
                f"{', '.join(each for each in SCOPES if each in token.scopes)}",
                # RFC 6750, section 3.1
                {hdrs.WWW_AUTHENTICATE: f'Bearer realm="penstock", error="insufficient_scope", scope="{scope}"'},
                {"scope": scope},
            )
        return token.name
    is_local = is_loopback(settings.host) and is_loopback(request.remote or "") and _is_addressed_to_loopback(request)
    if not is_local or request.version < HttpVersion11 or any(map(_is_added_by_proxies, request.headers)):
        raise RequestRejected(
            403,
            "unauthorized",
            f"only requests from this machine over HTTP/1.1, not through a proxy, can {SCOPES[scope]} without a token; "
            "set PENSTOCK_TOKEN and restart",
        )
    # Web pages of other origins only get here if their origin is allowed. Without a token that is not enough.
    origin = request.headers.get(hdrs.ORIGIN)
    if scope != "read" and origin is not None and not is_same_origin(request, origin):
        raise RequestRejected(403, "cross_origin", f"a page of {origin} cannot {SCOPES[scope]} without a token")
    return LOCAL_NAME


def is_trusted(request: web.Request) -> bool:
    """Return whether the client may read customer data."""
    try:
        authorize(request, "read")
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
    authorize(request, "flows")


def _token_of(request: web.Request, tokens: tuple[Token, ...]) -> Token | None:
    """Return the token that a request was sent with, None without a valid one."""
    headers = request.headers.getall(hdrs.AUTHORIZATION, [])
    if len(headers) != 1:
        return None
    scheme, _, secret = headers[0].partition(" ")
    # A header that is not UTF-8 contains surrogates; it is an invalid token like any other.
    token = find_token(tokens, secret.encode("utf-8", "surrogateescape"))
    return token if scheme.lower() == "bearer" else None


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
