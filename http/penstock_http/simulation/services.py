"""The simulated pricing and inventory services as a real HTTP server, with faults on demand.

    GET  /prices/{orderId}   {"price": 1001}
    POST /prices             an array of ids or of orders, answered with an array
    GET  /stock/{orderId}    {"inStock": true}; 503 for ids divisible by 3
    GET  /statistics         requests begun, ended and cancelled, for each of the two

Every fault is a flag of `penstock simulate`, and for one request a query field or a header of the same name:
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

LARGEST_ID = 2**53
"""What every JSON reader takes for the number that was meant."""

BODY_PARTS = 10
"""Writes that a slow body comes in."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Answer = Callable[[web.Request], Awaitable[Any]]
"""Gives JSON, or a response for anything else."""


@dataclass(slots=True)
class RequestCounter:
    """The requests of one service. What was begun and neither ended nor was cancelled is under way."""

    begun: int = 0
    ended: int = 0
    cancelled: int = 0


class Simulation:
    """The two services."""

    def __init__(self, knobs: FaultSettings) -> None:
        self.tallies = {"prices": RequestCounter(), "stock": RequestCounter()}
        self._knobs = knobs
        self._chance = random.Random(knobs.seed)  # noqa: S311 - chance, no secret

    def counted(self, service: str, latency: float, answer: Answer) -> Handler:
        """A handler that is slow and faulty as wished, and counted."""
        tally = self.tallies[service]

        async def handle(request: web.Request) -> web.StreamResponse:
            tally.begun += 1
            try:
                response = await self._answered(request, latency, answer)
            except asyncio.CancelledError:
                tally.cancelled += 1
                raise
            except BaseException:
                tally.ended += 1
                raise
            tally.ended += 1
            return response

        return handle

    async def _answered(self, request: web.Request, latency: float, answer: Answer) -> web.StreamResponse:
        try:
            knobs = self._knobs.tuned(request.headers, request.query)
        except ValueError as error:
            return problem(400, "Bad knob", str(error))
        chance = self._chance
        if chance.random() < knobs.hang_rate:
            await asyncio.Event().wait()  # ends when the caller or the server gives up
        await asyncio.sleep(latency * knobs.latency_scale + chance.uniform(0, knobs.jitter))
        if chance.random() < knobs.error_rate:
            return problem(500, "Simulated failure")
        said = await answer(request)
        response = said if isinstance(said, web.Response) else web.json_response(said)
        return await slow_body(request, response, knobs.slow_body) if knobs.slow_body else response

    async def statistics(self, _: web.Request) -> web.Response:
        """What became of the requests so far."""
        return web.json_response({name: asdict(tally) for name, tally in self.tallies.items()})


def make_app(knobs: FaultSettings) -> web.Application:
    """The simulated services. Run it with `handler_cancellation`, or no request is counted as cancelled."""
    simulation = Simulation(knobs)
    app = web.Application()
    app.add_routes(
        [
            web.get("/prices/{orderId}", simulation.counted("prices", PRICING_SECONDS, price)),
            web.post("/prices", simulation.counted("prices", PRICING_SECONDS, prices)),
            web.get("/stock/{orderId}", simulation.counted("stock", INVENTORY_SECONDS, stock)),
            web.get("/statistics", simulation.statistics),
        ]
    )
    return app


@asynccontextmanager
async def simulated(knobs: FaultSettings, host: str = "127.0.0.1", port: int = 0) -> AsyncGenerator[str, None]:
    """The services, listening; gives their address. Port 0 takes a free one."""
    app = make_app(knobs)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.5, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        taken = runner.addresses[0][1]
        yield f"http://{f'[{host}]' if ':' in host else host}:{taken}"
    finally:
        await runner.cleanup()


async def price(request: web.Request) -> Any:
    """The price of one order."""
    number = order_id(request)
    return {"price": 1000 + number} if number else order_not_found(number)


async def prices(request: web.Request) -> Any:
    """The prices of many orders."""
    try:
        body = await request.read()
    except web.RequestPayloadError as error:
        return problem(400, "The body is broken", str(error))
    try:
        orders = msgspec.json.decode(body, type=list[Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return problem(400, "Not an array of ids or orders", describe_json_error(error, body))
    return [price_of(order) for order in orders]


async def stock(request: web.Request) -> Any:
    """Whether one order can be delivered."""
    number = order_id(request)
    if not number:
        return order_not_found(number)
    if number % 3 == 0:
        return problem(503, "Inventory unavailable", type="InventoryUnavailable")
    return {"inStock": True}


def price_of(order: Any) -> dict[str, Any]:
    """One item of many: a price, or why there is none."""
    number = cast("dict[str, Any]", order).get("orderId") if isinstance(order, dict) else order
    if type(number) is not int or not 0 < number <= LARGEST_ID:
        return {"error": {"type": "UnknownOrder", "status": 404, "message": "There is no such order"}}
    return {"price": 1000 + number}


def order_id(request: web.Request) -> int | None:
    """The id in the path, 0 when no order has it, None when it is no number."""
    text = request.match_info["orderId"]
    if not (text.isascii() and text.isdigit()):
        return None
    return int(text) if len(text) <= 16 and 0 < int(text) <= LARGEST_ID else 0


def order_not_found(number: int | None) -> web.Response:
    """The answer to an id that is none."""
    if number is None:
        return problem(400, "An id is a whole number")
    return problem(404, "There is no such order")


def problem(status: int, title: str, detail: str | None = None, type: str = "about:blank") -> web.Response:
    """A refusal, as RFC 9457 has it."""
    document = {"type": type, "title": title, "status": status}
    if detail:
        document["detail"] = detail
    return web.json_response(document, status=status, content_type="application/problem+json")


async def slow_body(request: web.Request, response: web.Response, seconds: float) -> web.StreamResponse:
    """A response whose body comes bit by bit."""
    body = response.body if isinstance(response.body, bytes) else b""
    stream = web.StreamResponse(status=response.status, headers={"Content-Type": response.content_type})
    stream.content_length = len(body)
    await stream.prepare(request)
    step = -(-len(body) // BODY_PARTS) or 1
    for start in range(0, len(body), step):
        await asyncio.sleep(seconds / BODY_PARTS)
        await stream.write(body[start : start + step])
    await stream.write_eof()
    return stream
