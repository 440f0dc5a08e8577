"""The orders flow: order, price, stock, and the simulated services that answer for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Any, TypedDict

from msgspec import Meta

from penstock.deadletters import Store
from penstock.errors import ElementError
from penstock.flow import Flow
from penstock.services import MAX_IN_FLIGHT, NONE, Service
from penstock.sources import Source, generated

PRICING_SECONDS = 0.100
INVENTORY_SECONDS = 0.150
TIMEOUT_SECONDS = 10.0


class Order(TypedDict):
    """An order. Whatever else it has comes back unchanged."""

    orderId: Annotated[int, Meta(ge=1)]


class InventoryUnavailable(ElementError):
    """The inventory cannot say whether something is in stock."""


def simulated_pricing(scale: float = 1.0, max_in_flight: int = MAX_IN_FLIGHT) -> Service:
    """A pricing service in this process: 100 ms, price = 1000 + id. `scale` multiplies the latency."""
    latency = PRICING_SECONDS * scale

    async def price(order: Order) -> dict[str, Any]:
        if latency:
            await asyncio.sleep(latency)
        return {"price": 1000 + order["orderId"]}

    return Service("pricing", price, max_in_flight=max_in_flight, timeout=TIMEOUT_SECONDS, attempts=2, backoff=NONE)


def simulated_inventory(scale: float = 1.0, max_in_flight: int = MAX_IN_FLIGHT) -> Service:
    """An inventory service in this process: 150 ms, fails for ids divisible by 3. `scale` multiplies the latency."""
    latency = INVENTORY_SECONDS * scale

    async def stock(order: Order) -> dict[str, Any]:
        if latency:
            await asyncio.sleep(latency)
        if order["orderId"] % 3 == 0:
            raise InventoryUnavailable("Inventory unavailable")
        return {"inStock": True}

    return Service("inventory", stock, max_in_flight=max_in_flight, timeout=TIMEOUT_SECONDS, attempts=2, backoff=NONE)


def orders_flow(
    pricing: Service | Callable[[Order], Any] | None = None,
    inventory: Service | Callable[[Order], Any] | None = None,
    dead_letters: str | Store | None = None,
) -> Flow[Order]:
    """The flow that is served by default. Without services of your own it uses the simulated ones."""
    flow = (
        Flow("orders", Order, key="orderId")
        .enrich(pricing=pricing or simulated_pricing(), inventory=inventory or simulated_inventory())
        .with_samples(sample_order)
    )
    return flow if dead_letters is None else flow.dead_letters(dead_letters)


def sample_orders(count: int) -> Source[Order]:
    """Orders 1 … count."""

    return generated(count, sample_order)


def sample_order(number: int) -> Order:
    """The order with a number."""
    return {"orderId": number}
