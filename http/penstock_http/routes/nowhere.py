"""All that no other route answers: 404, or 405 for a path that answers to other methods.

aiohttp would do it, but sends 100 Continue first, and refuses other expectations in its own form.
"""

from __future__ import annotations

from typing import NoReturn

from aiohttp import web

from penstock_http.origins import allowed_methods


async def refuse(request: web.Request) -> NoReturn:
    """Raise what fits."""
    allowed = await allowed_methods(request)
    if allowed:
        raise web.HTTPMethodNotAllowed(request.method, allowed)
    raise web.HTTPNotFound
