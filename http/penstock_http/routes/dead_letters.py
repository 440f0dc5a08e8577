"""`/dead-letters`: what failed, by page and one by one. Asks for a token unless it is asked from this very machine."""

from __future__ import annotations

import hmac
from collections.abc import Mapping

from aiohttp import web

from penstock.deadletters import PAGE, PAGE_LIMIT, Filter, as_document, as_json
from penstock_http import negotiation
from penstock_http.context import CONTEXT
from penstock_http.limits import is_loopback
from penstock_http.problems import Refused


async def list_letters(request: web.Request) -> web.Response:
    """One page of letters, oldest first."""
    check_token(request)
    negotiation.only(request.query, *Filter.__struct_fields__, "after", "limit")
    limit = negotiation.number(request.query, "limit", PAGE, 1, PAGE_LIMIT)
    page = await request.app[CONTEXT].store.page(
        filter_of(request.query), after=request.query.get("after"), limit=limit
    )
    return _json({"letters": [as_document(letter) for letter in page.letters], "next": page.next})


async def show_letter(request: web.Request) -> web.Response:
    """One letter."""
    check_token(request)
    negotiation.only(request.query)
    id = request.match_info["id"]
    letter = await request.app[CONTEXT].store.get(id)
    if letter is None:
        raise Refused(404, "no_such_letter", f"there is no dead letter {id}")
    return _json(as_document(letter))


def filter_of(query: Mapping[str, str]) -> Filter:
    """The filter that a query asks for; raises 400 for times that are none."""
    try:
        return Filter.of(query)
    except ValueError as error:
        raise Refused(400, "bad_parameter", str(error)) from None


def check_token(request: web.Request) -> None:
    """Refuse who may not look: dead letters hold what customers sent.

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
            "dead letters are shown to whoever has the token: Authorization: Bearer …",
            {"WWW-Authenticate": 'Bearer realm="penstock"'},
        )
    local = is_loopback(settings.host) and is_loopback(request.remote or "") and is_loopback(request.url.host or "")
    if not local or "Forwarded" in request.headers or "X-Forwarded-For" in request.headers:
        raise Refused(
            403,
            "token_needed",
            "beyond this machine dead letters are shown with a token only: set PENSTOCK_TOKEN and restart",
        )


def _json(document: object) -> web.Response:
    return web.Response(
        body=as_json(document) + b"\n",
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )
