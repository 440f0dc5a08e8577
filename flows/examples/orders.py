r"""Enrich orders with price and stock: NDJSON from standard input, one result per line to standard output.

printf '{"orderId":1}\n{"orderId":"two"}\noops\n' | python flows/examples/orders.py
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from typing import Any, TypedDict

from penstock import Flow, Service, ndjson
from penstock.observe import configure_logging
from penstock.results import LineWriter


class Order(TypedDict):
    orderId: int


async def price(order: Order) -> dict[str, Any]:
    await asyncio.sleep(0.010)
    return {"price": 1000 + order["orderId"]}


async def stock(order: Order) -> dict[str, Any]:
    await asyncio.sleep(0.015)
    if order["orderId"] == 5:
        raise LookupError("no such shelf")
    return {"inStock": True}


flow = (
    Flow("orders", Order, key="orderId")
    .enrich(pricing=price, inventory=Service("inventory", stock, max_in_flight=64, timeout=2, attempts=2))
    .dead_letters("memory:")
)


async def chunks() -> AsyncIterator[bytes]:
    while chunk := await asyncio.to_thread(os.read, 0, 65536):
        yield chunk


async def write(lines: bytes) -> None:
    await asyncio.to_thread(sys.stdout.buffer.write, lines)


async def main() -> None:
    summary = await flow.run(ndjson(chunks()), LineWriter(write))
    sys.stderr.write(f"{summary.received} received, {summary.ok} ok, {summary.failed} failed\n")


if __name__ == "__main__":
    configure_logging(level="warning")  # logs go to standard error, results to standard output
    asyncio.run(main())
