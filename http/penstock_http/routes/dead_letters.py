"""`/dead-letters`: what failed, by page and one by one. Asks for a token unless it is asked from this very machine."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from aiohttp import web

from penstock.deadletters import PAGE, PAGE_LIMIT, DeadLetterQuery, as_document, find_letter, merge_pages
from penstock.support.ids import id_of
from penstock_http.media import json_response
from penstock_http.problems import RequestRejected
from penstock_http.requests import negotiation
from penstock_http.requests.auth import require_token
from penstock_http.state import CONTEXT

SEE = "see dead letters"


async def list_letters(request: web.Request) -> web.Response:
    """One page of letters, oldest first."""
    require_token(request, SEE)
    negotiation.reject_unknown_parameters(request, *DeadLetterQuery.__struct_fields__, "after", "limit")
    limit = negotiation.number(request.query, "limit", PAGE, 1, PAGE_LIMIT)
    stores = request.app[CONTEXT].supervisor.stores.all()
    page = await merge_pages(stores, filter_of(request.query), after=after(request.query), limit=limit)
    return json_response({"letters": [as_document(letter) for letter in page.letters], "next": page.next})


async def show_letter(request: web.Request) -> web.Response:
    """One letter."""
    require_token(request, SEE)
    negotiation.reject_unknown_parameters(request)
    id = request.match_info["id"]
    with suppress(ValueError):  # what is no id is that of no letter
        id = id_of(id)
    letter = await find_letter(request.app[CONTEXT].supervisor.stores.all(), id)
    if letter is None:
        raise RequestRejected(404, "dead_letter_not_found", f"unknown dead letter {id}")
    return json_response(as_document(letter))


def filter_of(query: Mapping[str, str]) -> DeadLetterQuery:
    """The filter that a query asks for; raises 400 for times that are none."""
    try:
        return DeadLetterQuery.of(query)
    except ValueError as error:
        raise RequestRejected(400, "bad_parameter", str(error)) from None


def after(query: Mapping[str, str]) -> str | None:
    """The letter that a page begins after; raises 400 for what is no letter's id."""
    text = query.get("after")
    try:
        return None if text is None else id_of(text)
    except ValueError as error:
        raise RequestRejected(400, "bad_parameter", f"after has to be the next of the page before: {error}") from None
