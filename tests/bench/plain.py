"""The yardstick: bulk orders by hand with asyncio and aiohttp, and nothing else.

No Rx, no metrics, no dead letters on disk: failures are kept in a bounded deque. What is left is what the work costs:
lines from whole chunks, msgspec, two services called side by side with one retry from pools of long-lived tasks, at
most 256 orders of a request in flight, results written many at a time by one writer.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import ssl
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import ClientSession, ClientTimeout, TCPConnector, web

SCALE = float(os.environ.get("LATENCY_SCALE", "1"))
WINDOW = int(os.environ.get("WINDOW", "256"))
POOL = 256
WRITE = 256
"""Lines that are worth a write of their own."""

decode = msgspec.json.Decoder().decode
encode_lines = msgspec.json.Encoder().encode_lines
failures: deque[tuple[Any, Exception]] = deque(maxlen=10_000)


class InventoryUnavailable(Exception):
    """The inventory does not answer."""


def remote(session: ClientSession, url: str) -> Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]:
    """A service over HTTP: a request for each order."""
    ca = os.environ.get("SERVICES_CA")
    context = None if ca is None else ssl.create_default_context(cafile=ca)

    async def call(order: dict[str, Any]) -> dict[str, Any]:
        async with session.get(f"{url}/{order['orderId']}", ssl=context or True) as response:
            response.raise_for_status()
            return decode(await response.read())

    return call


async def pricing(order: dict[str, Any]) -> dict[str, Any]:
    if SCALE:
        await asyncio.sleep(0.1 * SCALE)
    return {"price": 1000 + order["orderId"]}


async def inventory(order: dict[str, Any]) -> dict[str, Any]:
    if SCALE:
        await asyncio.sleep(0.15 * SCALE)
    if order["orderId"] % 3 == 0:
        raise InventoryUnavailable("Inventory unavailable")
    return {"inStock": True}


class Job(msgspec.Struct, eq=False, gc=False):
    """An order on its way. Made by msgspec because that costs a third of a class's own `__init__`."""

    run: Run
    seq: int
    order: Any
    error: Exception | None = None
    left: int = 2


class Pool:
    """Long-lived tasks that call one service for whatever order is next; a busy one wakes one more."""

    def __init__(self, field: str, call: Callable[[Any], Awaitable[Any]]) -> None:
        self.field = field
        self.call = call
        self.jobs: deque[Job] = deque()
        self.idle: list[asyncio.Future[None]] = []
        self.tasks = [asyncio.create_task(self.work()) for _ in range(POOL)]

    def submit(self, jobs: list[Job]) -> None:
        self.jobs.extend(jobs)
        self.wake()

    def wake(self) -> None:
        if self.idle:
            self.idle.pop().set_result(None)

    async def work(self) -> None:
        loop = asyncio.get_running_loop()
        jobs, call, field = self.jobs, self.call, self.field
        made = 0
        while True:
            if not jobs:
                future = loop.create_future()
                self.idle.append(future)
                await future
                if len(jobs) > 1:
                    self.wake()
                continue
            job = jobs.popleft()
            try:
                job.order[field] = await call(job.order)
            except Exception:
                await self.again(job)
            job.left -= 1
            if not job.left:
                job.run.done(job)
            made += 1
            if made >= POOL:
                made = 0
                await asyncio.sleep(0)

    async def again(self, job: Job) -> None:
        """The one retry."""
        try:
            job.order[self.field] = await self.call(job.order)
        except Exception as error:
            job.error = error


class Run:
    """One request: how many orders it may have in flight, what is done, and what came of it."""

    def __init__(self, pools: list[Pool]) -> None:
        self.pools = pools
        self.free = WINDOW
        self.received = 0
        self.failed = 0
        self.complete = False
        self.finished: list[Job] = []
        self._room = asyncio.Event()
        self._news = asyncio.Event()

    def done(self, job: Job) -> None:
        if not self.finished:
            self._news.set()
        self.finished.append(job)

    def submit(self, orders: list[Any]) -> None:
        jobs = []
        for seq, order in enumerate(orders, self.received):
            job = Job(self, seq, order)
            if type(order) is dict and type(id := order.get("orderId")) is int and id >= 1:
                jobs.append(job)
            else:
                invalid = ValueError("orderId must be an integer of 1 or more")
                job.error = order if isinstance(order, Exception) else invalid
                self.done(job)
        self.received += len(orders)
        self.free -= len(orders)
        for pool in self.pools:
            pool.submit(jobs)

    async def take(self, lines: AsyncIterator[list[bytes]]) -> None:
        """Have all orders made, as far as there is room."""
        try:
            async for some in lines:
                at = 0
                while at < len(some):
                    while not self.free:
                        self._room.clear()
                        await self._room.wait()
                    orders = [parsed(line) for line in some[at : at + self.free] if line and line != b"\r"]
                    at += self.free
                    self.submit(orders)
        finally:
            self.complete = True
            self._news.set()

    async def results(self) -> AsyncIterator[bytes]:
        """Lines for the client, as many as are ready."""
        while not (self.complete and self.free == WINDOW):
            await self._news.wait()
            self._news.clear()
            jobs, self.finished = self.finished, []
            for at in range(0, len(jobs), WRITE):
                part = jobs[at : at + WRITE]
                yield encode_lines([self.record(job) for job in part])
                self.free += len(part)
                self._room.set()

    def record(self, job: Job) -> dict[str, Any]:
        if job.error is None:
            return {"ok": True, "seq": job.seq, "value": job.order}
        self.failed += 1
        failures.append((job.order, job.error))
        error = {"type": type(job.error).__name__, "message": str(job.error)}
        return {"ok": False, "seq": job.seq, "error": error}


def parsed(line: bytes) -> Any:
    try:
        return decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return error


async def uploaded(request: web.Request) -> AsyncIterator[list[bytes]]:
    """The lines of the body, as they arrive."""
    rest = b""
    while chunk := await request.content.readany():
        lines = chunk.split(b"\n")
        lines[0] = rest + lines[0]
        rest = lines.pop()
        yield lines
    if rest.strip():
        yield [rest]


async def made(count: int) -> AsyncIterator[list[bytes]]:
    """Sample orders."""
    for at in range(1, count + 1, WINDOW):
        yield [b'{"orderId":%d}' % id for id in range(at, min(at + WINDOW, count + 1))]


async def answer(request: web.Request, lines: AsyncIterator[list[bytes]]) -> web.StreamResponse:
    started = time.perf_counter()
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    response.enable_chunked_encoding()
    await response.prepare(request)
    run = Run(request.app["pools"])
    taking = asyncio.create_task(run.take(lines))
    try:
        async for data in run.results():
            await response.write(data)
        await taking
    finally:
        taking.cancel()
    counts = {"received": run.received, "ok": run.received - run.failed, "failed": run.failed}
    end = {"reason": "completed", **counts, "seconds": time.perf_counter() - started}
    await response.write(encode_lines([{"end": end}]))
    await response.write_eof()
    return response


async def post(request: web.Request) -> web.StreamResponse:
    return await answer(request, uploaded(request))


async def get(request: web.Request) -> web.StreamResponse:
    return await answer(request, made(min(int(request.query.get("count", "10")), 1_000_000)))


async def clear(request: web.Request) -> web.Response:
    failures.clear()
    return web.Response(status=204)


async def pools(app: web.Application) -> AsyncIterator[None]:
    timeout = ClientTimeout(total=30)
    async with ClientSession(connector=TCPConnector(limit=0), timeout=timeout) as session:
        calls = {"pricing": pricing, "inventory": inventory}
        for name in calls:
            if url := os.environ.get(f"{name.upper()}_URL"):
                calls[name] = remote(session, url)
        app["pools"] = [Pool(name, call) for name, call in calls.items()]
        yield
        for pool in app["pools"]:
            for task in pool.tasks:
                task.cancel()


def application() -> web.Application:
    app = web.Application()
    app.cleanup_ctx.append(pools)
    app.add_routes([web.post("/orders/bulk", post), web.get("/orders/bulk", get), web.delete("/dead-letters", clear)])
    return app


async def main() -> None:
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)  # a window of orders is 256 times some dicts: the default looks at each too often
    runner = web.AppRunner(application(), access_log=None, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", int(os.environ.get("PORT", "8080")))
    await site.start()
    print(json.dumps({"event": "http.listening", "url": f"http://127.0.0.1:{runner.addresses[0][1]}"}), flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(main())
