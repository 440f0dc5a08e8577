"""Serve a flow in an aiohttp application: streamed bodies, streamed results, graceful shutdown.

Run as a program, it sends one request to itself.
"""

import asyncio
import json

from aiohttp import ClientSession, web

from penstock import Flow, Supervisor, ndjson
from penstock.results import LineWriter

FLOW = Flow("shares").map(lambda number: 12 // number, name="share")
SUPERVISOR = web.AppKey("supervisor", Supervisor)


async def shares(request: web.Request) -> web.StreamResponse:
    """Return a share for each line of the body, as soon as it is ready. A disconnect ends the run."""
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    await response.prepare(request)
    run = request.app[SUPERVISOR].start(FLOW, ndjson(request.content.iter_any()), LineWriter(response.write))
    summary = await run.finished
    if summary.reason != "disconnected":
        await response.write(json.dumps({"end": summary.reason, "ok": summary.ok}).encode() + b"\n")
    return response


async def begin(app: web.Application) -> None:
    app[SUPERVISOR] = Supervisor()
    await app[SUPERVISOR].add(FLOW)


async def stop(app: web.Application) -> None:
    """Let runs finish for ten seconds. aiohttp waits for the handlers afterwards."""
    await app[SUPERVISOR].shut_down(grace=10)


def make_app() -> web.Application:
    app = web.Application()
    app.on_startup.append(begin)
    app.on_shutdown.append(stop)
    app.router.add_post("/shares", shares)
    return app


async def main() -> None:
    runner = web.AppRunner(make_app())
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/shares"
    async with ClientSession() as client, client.post(url, data=b"3\n0\n4\n") as response:
        print(await response.text(), end="")
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(main())
