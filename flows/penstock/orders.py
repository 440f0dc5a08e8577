"""The orders flow: price and stock of each order, and the simulated services that it calls."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypedDict

from msgspec import Meta

from penstock.deadletters import DeadLetterStore
from penstock.errors import ElementError
from penstock.flow.flow import Flow
from penstock.services import MAX_IN_FLIGHT, NONE, Service
from penstock.sources import Source, generate

PRICING_SECONDS = 0.100
INVENTORY_SECONDS = 0.150
TIMEOUT_SECONDS = 10.0


class Order(TypedDict):
    """An order. Further fields are returned unchanged."""

    orderId: Annotated[int, Meta(ge=1)]


class InventoryUnavailable(ElementError):
    """The inventory cannot determine whether an item is in stock."""


def prices_after(seconds: float) -> Callable[[Order], Awaitable[dict[str, Any]]]:
    """Make a pricing service in this process with a delay: price = 1000 + id."""

    async def pricing(order: Order) -> dict[str, Any]:
        if seconds:
            await asyncio.sleep(seconds)
        return {"price": 1000 + order["orderId"]}

    return pricing


def stock_after(seconds: float) -> Callable[[Order], Awaitable[dict[str, Any]]]:
    """Make an inventory service in this process with a delay. It fails for ids divisible by 3."""

    async def inventory(order: Order) -> dict[str, Any]:
        if seconds:
            await asyncio.sleep(seconds)
        if order["orderId"] % 3 == 0:
            raise InventoryUnavailable("Inventory unavailable")
        return {"inStock": True}

    return inventory


pricing = prices_after(PRICING_SECONDS)
inventory = stock_after(INVENTORY_SECONDS)


def sample_order(number: int) -> Order:
    """Return the sample with a number: an order with this id."""
    return {"orderId": number}


def simulated_pricing(scale: float = 1.0, max_in_flight: int = MAX_IN_FLIGHT) -> Service:
    """Make the pricing service, with its 100 ms multiplied by `scale`."""
    return _service("pricing", pricing if scale == 1.0 else prices_after(PRICING_SECONDS * scale), max_in_flight)


def simulated_inventory(scale: float = 1.0, max_in_flight: int = MAX_IN_FLIGHT) -> Service:
    """Make the inventory service, with its 150 ms multiplied by `scale`."""
    return _service("inventory", inventory if scale == 1.0 else stock_after(INVENTORY_SECONDS * scale), max_in_flight)


def _service(name: str, call: Callable[[Order], Any], max_in_flight: int) -> Service:
    return Service(name, call, max_in_flight=max_in_flight, timeout=TIMEOUT_SECONDS, attempts=2, backoff=NONE)


def orders_flow(
    pricing: Service | Callable[[Order], Any] | None = None,
    inventory: Service | Callable[[Order], Any] | None = None,
    dead_letters: str | DeadLetterStore | None = None,
) -> Flow[Order, dict[str, Any]]:
    """Make the flow of `orders.yaml` in Python. It uses the simulated services unless others are given."""
    flow = Flow("orders", Order, key="orderId").enrich(
        pricing=pricing or simulated_pricing(), inventory=inventory or simulated_inventory()
    )
    return flow if dead_letters is None else flow.dead_letters(dead_letters)


def sample_orders(count: int) -> Source[Order]:
    """Make a source of orders 1 … count."""
    return generate(count, sample_order)
