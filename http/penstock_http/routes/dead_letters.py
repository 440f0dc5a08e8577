"""`/dead-letters`: list dead letters by page, and show one. Needs the token, or a request from this machine."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from aiohttp import web

from penstock.deadletters import PAGE, PAGE_LIMIT, DeadLetterQuery, as_document, find_letter, merge_pages
from penstock.support.ids import id_of
from penstock_http.media import json_response
from penstock_http.problems import RequestRejected
from penstock_http.requests import negotiation
from penstock_http.requests.auth import authorize
from penstock_http.state import STATE


async def list_dead_letters(request: web.Request) -> web.Response:
    """Respond with one page of dead letters, oldest first."""
    authorize(request, "read")
    negotiation.reject_unknown_parameters(request, *DeadLetterQuery.__struct_fields__, "after", "limit")
    limit = negotiation.integer_parameter(request.query, "limit", PAGE, 1, PAGE_LIMIT)
    stores = request.app[STATE].supervisor.stores.all()
    page = await merge_pages(stores, _query(request.query), after=_after(request.query), limit=limit)
    return json_response({"letters": [as_document(letter) for letter in page.letters], "next": page.next})


async def show_dead_letter(request: web.Request) -> web.Response:
    """Respond with one dead letter."""
    authorize(request, "read")
    negotiation.reject_unknown_parameters(request)
    id = request.match_info["id"]
    with suppress(ValueError):  # a text that is not an id is not found either
        id = id_of(id)
    letter = await find_letter(request.app[STATE].supervisor.stores.all(), id)
    if letter is None:
        raise RequestRejected(404, "dead_letter_not_found", f"unknown dead letter {id}")
    return json_response(as_document(letter))


def _query(parameters: Mapping[str, str]) -> DeadLetterQuery:
    """Return the query for the parameters of a request. Raises 400 for an invalid time."""
    try:
        return DeadLetterQuery.of(parameters)
    except ValueError as error:
        raise RequestRejected(400, "bad_parameter", str(error)) from None


def _after(parameters: Mapping[str, str]) -> str | None:
    """Return the id after which the page starts. Raises 400 if it is not an id."""
    text = parameters.get("after")
    try:
        return None if text is None else id_of(text)
    except ValueError as error:
        raise RequestRejected(
            400, "bad_parameter", f"after: expected the value of next from the previous page: {error}"
        ) from None
