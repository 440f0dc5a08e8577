"""The desk of a service over HTTP: how long it waits for a response."""

import asyncio
import json

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from penstock.deadletters import DeadLetterQuery
from penstock.deadletters.dead_letter_queue import JobOptions, Requester
from penstock.errors import ServiceNotReached
from penstock.redrive.records import LogReport
from penstock.redrive.remote_desk import RemoteDesk

SECONDS = 0.2


async def slow(request):
    """Respond as a redrive of a log does, when it is done."""
    body = json.loads(await request.read())
    await asyncio.sleep(3 * SECONDS)
    return web.json_response({"results": []} if "try" in body else {"total": 3, "resolved": 3, "failed": 0})


async def test_a_redrive_of_a_log_has_no_time_limit():
    """Its response comes when all letters have run. A plan changes nothing, and is given up."""
    app = web.Application()
    app.router.add_post("/dead-letters/redrives", slow)
    query, options = DeadLetterQuery(flow="orders"), JobOptions()
    async with TestServer(app) as server, RemoteDesk(str(server.make_url("")), read_seconds=SECONDS) as desk:
        assert await desk.redrive(query, options, Requester("me")) == LogReport(total=3, resolved=3)
        assert await desk.try_letters(query, options, 3) == []
        with pytest.raises(ServiceNotReached, match="it did not respond in time"):
            await desk.plan(query, options)
