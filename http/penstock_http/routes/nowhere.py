"""All that no other route answers: 404, or 405 for a path that answers to other methods.

aiohttp would do it, but asks for a body with `Expect` first, and refuses other expectations in its own form.
"""

from __future__ import annotations

from typing import NoReturn

from aiohttp import web

from penstock_http.problems import NOWHERE


async def refuse(request: web.Request) -> NoReturn:
    """Raise what fits."""
    allowed: set[str] = set()
    for resource in request.app.router.resources():
        if resource.name != NOWHERE:
            _, methods = await resource.resolve(request)
            allowed |= methods
    if allowed:
        raise web.HTTPMethodNotAllowed(request.method, allowed)
    raise web.HTTPNotFound
