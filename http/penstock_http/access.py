"""Who may see what customers sent, and who may bring flows: whoever has the token; without one set, this machine."""

from __future__ import annotations

import hmac

from aiohttp import web
from yarl import URL

from penstock_http.context import CONTEXT
from penstock_http.limits import is_loopback
from penstock_http.problems import Refused


def check_token(request: web.Request, what: str) -> None:
    """Refuse who may not; `what` begins the sentence that says so: "dead letters are shown".

    With a token set, it is asked for always. Without one, only a request from this machine to this machine is answered;
    one that came through a proxy is from elsewhere, whatever its address says.
    """
    settings = request.app[CONTEXT].settings
    given = request.headers.get("Authorization", "")
    if settings.token:
        # A header that is no UTF-8 comes with surrogates; it is a wrong token like any other.
        if hmac.compare_digest(given.encode("utf-8", "surrogateescape"), f"Bearer {settings.token}".encode()):
            return
        raise Refused(
            401,
            "token_needed",
            f"{what} to whoever has the token: Authorization: Bearer …",
            {"WWW-Authenticate": 'Bearer realm="penstock"'},
        )
    local = is_loopback(settings.host) and is_loopback(request.remote or "") and is_loopback(request.url.host or "")
    if not local or "Forwarded" in request.headers or "X-Forwarded-For" in request.headers:
        raise Refused(
            403,
            "token_needed",
            f"beyond this machine {what} with a token only: set PENSTOCK_TOKEN and restart",
        )


def is_trusted(request: web.Request) -> bool:
    """Whether a request may see what customers sent."""
    try:
        check_token(request, "it is shown")
    except Refused:
        return False
    return True


def check_put(request: web.Request) -> None:
    """Refuse who may not bring a flow: a flow names Python functions and files, so to bring one is to run code here."""
    if request.app[CONTEXT].settings.allow_put == "no":
        raise Refused(403, "put_not_allowed", "flows are not taken over HTTP here: --allow-put yes switches it on")
    check_token(request, "flows are taken")
    # A page in a browser on this machine is not this machine: it says where it comes from.
    origin = request.headers.get("Origin")
    if origin is not None and not _same(origin, request):
        raise Refused(403, "other_origin", f"a page of {origin} may not bring flows")


def _same(origin: str, request: web.Request) -> bool:
    try:
        return URL(origin).authority == URL(f"http://{request.host}").authority and bool(URL(origin).host)
    except ValueError:
        return False
