"""`/dead-letters`: list, group and show dead letters, and change the input of one. `audit` lists what was done."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from penstock.deadletters import PAGE, PAGE_LIMIT, DeadLetterQuery
from penstock.errors import LetterNotFound
from penstock.redrive import documents
from penstock.redrive.documents import audit_document, group_document, letter_document
from penstock.redrive.merged import LogCursor
from penstock.support.ids import id_of
from penstock_http.media import json_response
from penstock_http.problems import RequestRejected
from penstock_http.requests import negotiation
from penstock_http.requests.auth import authorize
from penstock_http.requests.json_body import JsonBody, invalid_body, read_object
from penstock_http.state import STATE

FILTERS = ("flow", "step", "type", "state", "group", "key", "run", "since", "until", "id")
"""Query parameters that select dead letters. `id` may be given several times."""

GROUP_FILTERS = ("flow", "step", "type", "state", "group")
"""Query parameters that select groups."""

MAX_IDS = 1000
"""Maximum number of ids in the parameters of a request."""

MAX_BODY_IDS = 10_000
"""Maximum number of ids in a body. The audit keeps the query of each action."""


async def list_letters(request: web.Request) -> web.Response:
    """Respond with one page of dead letters, oldest first."""
    authorize(request, "read")
    negotiation.reject_unknown_parameters(request, *FILTERS, "after", "limit", repeatable="id")
    page = await request.app[STATE].desk.page(query_of(request), after=_after_of(request), limit=limit_of(request))
    return json_response({"letters": [letter_document(letter) for letter in page.letters], "next": page.next})


async def list_groups(request: web.Request) -> web.Response:
    """Respond with one page of groups, the ones with the most recent letters first, and the total by state.

    Groups count all their letters, so they are not selected by conditions that only some of these letters fulfil;
    `state` selects the groups that have letters in that state.
    """
    authorize(request, "read")
    negotiation.reject_unknown_parameters(request, *GROUP_FILTERS, "after", "limit")
    desk, query, limit = request.app[STATE].desk, query_of(request), limit_of(request)
    groups = await desk.groups(query, after=request.query.get("after"), limit=limit)
    return json_response(
        {
            "groups": [group_document(group) for group in groups],
            "next": groups[-1].id if len(groups) == limit else None,
            "total": dict(await desk.total(query)),
        }
    )


async def count_letters(request: web.Request) -> web.Response:
    """Respond with the number of dead letters that match, by state."""
    authorize(request, "read")
    negotiation.reject_unknown_parameters(request, *FILTERS, repeatable="id")
    return json_response({"total": dict(await request.app[STATE].desk.total(query_of(request)))})


async def show_letter(request: web.Request) -> web.Response:
    """Respond with one dead letter and what was done to it."""
    authorize(request, "read")
    negotiation.reject_unknown_parameters(request)
    id = request.match_info["id"]
    found = await request.app[STATE].desk.show(id)
    if found is None:
        raise LetterNotFound(id)
    return json_response(letter_document(*found))


async def edit_letter(request: web.Request) -> web.Response:
    """Replace the input of one dead letter."""
    name = authorize(request, "edit", "read")  # the response has the letter
    negotiation.reject_unknown_parameters(request)
    body = await read_object(request, ("input", "inputText", "reason"))
    if ("input" in body) == ("inputText" in body):
        raise invalid_body("the body: expected either input (any JSON) or inputText (JSON as a text)")
    input = body.raw("input") if "input" in body else body.get("inputText", str, "", "a text").encode()
    desk = request.app[STATE].desk
    letter = await desk.edit(request.match_info["id"], input, body.requester(name))
    found = await desk.show(letter.id)  # None if it was purged in the meantime
    return json_response(letter_document(letter) if found is None else letter_document(*found))


async def list_audit(request: web.Request) -> web.Response:
    """Respond with one page of what was done, newest first."""
    authorize(request, "read")
    negotiation.reject_unknown_parameters(request, "job", "after", "limit")
    job, after = request.query.get("job"), request.query.get("after")
    page = await request.app[STATE].desk.audit(job=job, after=after, limit=limit_of(request))
    return json_response({"records": [audit_document(record) for record in page.records], "next": page.next})


def query_of(request: web.Request) -> DeadLetterQuery:
    """Return the query for the parameters of a request. Raises 400."""
    texts, ids = request.query, request.query.getall("id", [])
    if len(ids) > MAX_IDS:
        raise RequestRejected(400, "bad_parameter", f"id: expected at most {MAX_IDS} ids, got {len(ids)}")
    try:
        query = DeadLetterQuery.of({name: texts[name] for name in FILTERS if name in texts and name != "id"})
        return msgspec.structs.replace(
            query,
            group=texts.get("group"),
            key=_key_of(texts["key"]) if "key" in texts else None,
            ids=tuple(map(id_of, ids)) or None,
        )
    except ValueError as error:
        raise RequestRejected(400, "bad_parameter", str(error)) from None


def query_in(body: JsonBody) -> DeadLetterQuery:
    """Return the query in a body. Raises 400."""
    query = body.convert("query", documents.query_of)
    if query.ids is not None and len(query.ids) > MAX_BODY_IDS:
        raise invalid_body(f"query: ids: expected at most {MAX_BODY_IDS} ids, got {len(query.ids)}")
    return query


def check_selection(body: JsonBody, query: DeadLetterQuery) -> None:
    """Raise 400 for a query that selects everything, unless that is what the client says."""
    if query == DeadLetterQuery() and not body.get("all", bool, False, "true or false"):
        raise invalid_body('query: expected at least one condition; for all dead letters: {"all": true}')


def limit_of(request: web.Request) -> int:
    """Return the maximum size of a page. Raises 400."""
    return negotiation.integer_parameter(request.query, "limit", PAGE, 1, PAGE_LIMIT)


def _key_of(text: str) -> str | int | float:
    """Return a key: a number, a text in quotes, or else the text itself. So `"3"` is a text and `3` a number."""
    key: Any = text
    try:
        key = msgspec.json.decode(text.encode(errors="surrogateescape"), type=str | int | float)
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    return key  # type: ignore[no-any-return]


def _after_of(request: web.Request) -> str | None:
    """Return where the page starts. Raises 400 if it is neither an id nor the cursor of a log."""
    text = request.query.get("after")
    try:
        if text is None:
            return None
        return str(LogCursor.parse(text)) if LogCursor.matches(text) else id_of(text)
    except ValueError as error:
        raise RequestRejected(
            400, "bad_parameter", f"after: expected the value of next from the previous page: {error}"
        ) from None
