"""The simulated pricing and inventory services as a real HTTP server, with faults on demand.

    GET  /prices/{orderId}   {"price": 1001}
    POST /prices             an array of prices for an array of ids or of orders
    GET  /stock/{orderId}    {"inStock": true}; 503 for ids divisible by 3
    GET  /statistics         requests begun, ended and cancelled, for each of the two services

Each fault is an option of `penstock simulate`. A request can set it by a query parameter or a header of the same name:
`?error-rate=1&slow-body=2`, `Hang-Rate: 0.5`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any, cast

import msgspec
from aiohttp import web

from penstock.orders import INVENTORY_SECONDS, PRICING_SECONDS
from penstock.support.json_encoding import describe_json_error
from penstock_http.simulation.faults import FaultSettings

MAX_ID = 2**53
"""The largest integer that all JSON readers represent exactly."""

SLOW_BODY_WRITES = 10
"""Number of writes of a slow body."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Endpoint = Callable[[web.Request], Awaitable[Any]]
"""Returns a JSON value, or a response for anything else."""


@dataclass(slots=True)
class RequestCounter:
    """Counts the requests of one service. Those that have neither ended nor been cancelled are in flight."""

    begun: int = 0
    ended: int = 0
    cancelled: int = 0


class Simulation:
    """The two services, with their faults and counters."""

    def __init__(self, faults: FaultSettings) -> None:
        self.counters = {"prices": RequestCounter(), "stock": RequestCounter()}
        self._faults = faults
        self._rng = random.Random(faults.seed)  # noqa: S311 - not used for secrets

    def count_requests(self, service: str, latency: float, endpoint: Endpoint) -> Handler:
        """Return a handler that adds latency and faults to an endpoint, and counts its requests."""
        counter = self.counters[service]

        async def handle(request: web.Request) -> web.StreamResponse:
            counter.begun += 1
            try:
                response = await self._respond(request, latency, endpoint)
            except asyncio.CancelledError:
                counter.cancelled += 1
                raise
            except BaseException:
                counter.ended += 1
                raise
            counter.ended += 1
            return response

        return handle

    async def _respond(self, request: web.Request, latency: float, endpoint: Endpoint) -> web.StreamResponse:
        try:
            faults = self._faults.override(request.headers, request.query)
        except ValueError as error:
            return problem(400, "Invalid fault", str(error))
        if self._rng.random() < faults.hang_rate:
            await asyncio.Event().wait()  # until the client disconnects or the server stops
        await asyncio.sleep(latency * faults.latency_scale + self._rng.uniform(0, faults.jitter))
        if self._rng.random() < faults.error_rate:
            return problem(500, "Simulated failure")
        result = await endpoint(request)
        response = result if isinstance(result, web.Response) else web.json_response(result)
        return await slow_body(request, response, faults.slow_body) if faults.slow_body else response

    async def statistics(self, _: web.Request) -> web.Response:
        """Respond with the counters."""
        return web.json_response({name: asdict(counter) for name, counter in self.counters.items()})


def make_app(faults: FaultSettings) -> web.Application:
    """Return the application. Run it with `handler_cancellation`, or no request is counted as cancelled."""
    simulation = Simulation(faults)
    app = web.Application()
    app.add_routes(
        [
            web.get("/prices/{orderId}", simulation.count_requests("prices", PRICING_SECONDS, price)),
            web.post("/prices", simulation.count_requests("prices", PRICING_SECONDS, prices)),
            web.get("/stock/{orderId}", simulation.count_requests("stock", INVENTORY_SECONDS, stock)),
            web.get("/statistics", simulation.statistics),
        ]
    )
    return app


@asynccontextmanager
async def simulated(faults: FaultSettings, host: str = "127.0.0.1", port: int = 0) -> AsyncGenerator[str, None]:
    """Run the services, and yield their URL. Port 0 takes a free one."""
    app = make_app(faults)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.5, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        actual_port = runner.addresses[0][1]
        yield f"http://{f'[{host}]' if ':' in host else host}:{actual_port}"
    finally:
        await runner.cleanup()


async def price(request: web.Request) -> Any:
    """Return the price of one order."""
    number = order_id(request)
    return {"price": 1000 + number} if number else order_not_found(number)


async def prices(request: web.Request) -> Any:
    """Return the prices of many orders."""
    try:
        body = await request.read()
    except web.RequestPayloadError as error:
        return problem(400, "The body cannot be read", str(error))
    try:
        orders = msgspec.json.decode(body, type=list[Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return problem(400, "The body is not an array of ids or orders", describe_json_error(error, body))
    return [price_of(order) for order in orders]


async def stock(request: web.Request) -> Any:
    """Return whether one order is in stock."""
    number = order_id(request)
    if not number:
        return order_not_found(number)
    if number % 3 == 0:
        return problem(503, "Inventory unavailable", type="InventoryUnavailable")
    return {"inStock": True}


def price_of(order: Any) -> dict[str, Any]:
    """Return the price for one item of an array, or its error."""
    number = cast("dict[str, Any]", order).get("orderId") if isinstance(order, dict) else order
    if type(number) is not int or not 0 < number <= MAX_ID:
        return {"error": {"type": "UnknownOrder", "status": 404, "message": "Unknown order"}}
    return {"price": 1000 + number}


def order_id(request: web.Request) -> int | None:
    """Return the id in the path, 0 if no order has it, None if it is not an integer."""
    text = request.match_info["orderId"]
    if not (text.isascii() and text.isdigit()):
        return None
    return int(text) if len(text) <= 16 and 0 < int(text) <= MAX_ID else 0


def order_not_found(number: int | None) -> web.Response:
    """Return the response to an invalid or unknown id."""
    if number is None:
        return problem(400, "The order id is not an integer")
    return problem(404, "Unknown order")


def problem(status: int, title: str, detail: str | None = None, type: str = "about:blank") -> web.Response:
    """Return a response with a problem document (RFC 9457)."""
    document = {"type": type, "title": title, "status": status}
    if detail:
        document["detail"] = detail
    return web.json_response(document, status=status, content_type="application/problem+json")


async def slow_body(request: web.Request, response: web.Response, seconds: float) -> web.StreamResponse:
    """Send a response whose body takes the given seconds."""
    body = response.body if isinstance(response.body, bytes) else b""
    stream = web.StreamResponse(status=response.status, headers={"Content-Type": response.content_type})
    stream.content_length = len(body)
    await stream.prepare(request)
    step = -(-len(body) // SLOW_BODY_WRITES) or 1
    for start in range(0, len(body), step):
        await asyncio.sleep(seconds / SLOW_BODY_WRITES)
        await stream.write(body[start : start + step])
    await stream.write_eof()
    return stream
