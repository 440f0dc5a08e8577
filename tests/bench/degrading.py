"""A service over HTTP for `adaptive.py`: 40 requests at once take 100 ms, more of them longer, and 120 are rejected."""

from __future__ import annotations

import asyncio
import json

from aiohttp import web

CAPACITY = 40
SECONDS = 0.1
MOST = 120

handled = 0


async def stock(request: web.Request) -> web.Response:
    """Answer after a time that grows with the requests that are handled."""
    global handled
    if handled >= MOST:
        return web.Response(status=503)
    handled += 1
    try:
        excess = max(0, handled - CAPACITY) / CAPACITY
        await asyncio.sleep(SECONDS * (1 + 20 * excess))
    finally:
        handled -= 1
    return web.json_response({"inStock": True})


async def main() -> None:
    app = web.Application()
    app.router.add_get("/stock/{id}", stock)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    print(json.dumps({"event": "http.listening", "url": f"http://{host}:{port}"}), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
