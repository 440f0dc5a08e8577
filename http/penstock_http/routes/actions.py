"""`/dead-letters/park`, `unpark`, `purge` and `edits`: do something to all dead letters that a query selects."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

from penstock.deadletters import DeadLetterQuery
from penstock.deadletters.dead_letter_queue import Requester
from penstock.redrive.documents import change_document, edit_report_document
from penstock_http.media import json_response
from penstock_http.requests import negotiation
from penstock_http.requests.auth import authorize
from penstock_http.requests.json_body import invalid_body, read_object
from penstock_http.routes.letters import check_selection, query_in
from penstock_http.state import STATE

MAX_ASSIGNMENTS = 50
"""Maximum number of fields that one edit sets."""

Action = Callable[[DeadLetterQuery, Requester], Awaitable[int]]


async def park(request: web.Request) -> web.Response:
    """Set waiting dead letters aside."""
    return await _act(request, "edit", request.app[STATE].desk.park)


async def unpark(request: web.Request) -> web.Response:
    """Make parked dead letters wait again."""
    return await _act(request, "edit", request.app[STATE].desk.unpark)


async def purge(request: web.Request) -> web.Response:
    """Delete dead letters."""
    return await _act(request, "purge", request.app[STATE].desk.purge)


async def edit_all(request: web.Request) -> web.Response:
    """Change the inputs of dead letters by expressions, or show what would change."""
    name = authorize(request, "edit", "read")  # the response has inputs
    negotiation.reject_unknown_parameters(request)
    body = await read_object(request, ("query", "all", "set", "preview", "reason"))
    assignments = body.get("set", list[str], [], 'a list of assignments, such as ["currency=\\"EUR\\""]')
    if not 1 <= len(assignments) <= MAX_ASSIGNMENTS:
        raise invalid_body(f"set: expected 1 to {MAX_ASSIGNMENTS} assignments, got {len(assignments)}")
    query, desk = query_in(body), request.app[STATE].desk
    if body.get("preview", bool, False, "true or false"):
        return json_response({"changes": [change_document(each) for each in await desk.preview(query, assignments)]})
    check_selection(body, query)
    return json_response(edit_report_document(await desk.apply(query, assignments, body.requester(name))))


async def _act(request: web.Request, scope: str, action: Action) -> web.Response:
    name = authorize(request, scope)
    negotiation.reject_unknown_parameters(request)
    body = await read_object(request, ("query", "all", "reason"))
    query = query_in(body)
    check_selection(body, query)
    return json_response({"count": await action(query, body.requester(name))})
