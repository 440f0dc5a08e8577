"""Orders from a file, an order a line, to results, a result a line: price and stock are asked side by side.

    python flows/examples/orders.py < orders.ndjson > results.ndjson

Without an input of its own it takes a few orders that show what may happen to one.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any, TypedDict

from penstock import Flow, Service, ndjson
from penstock.sinks import Lines

SAMPLE = b'{"orderId":1,"customer":"c1"}\n{"orderId":2}\n{"orderId":"three"}\noops\n{"orderId":5}\n'


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
    if sys.stdin.isatty():
        yield SAMPLE
    while not sys.stdin.isatty() and (chunk := await asyncio.to_thread(sys.stdin.buffer.read1, 65536)):
        yield chunk


async def write(lines: bytes) -> None:
    await asyncio.to_thread(sys.stdout.buffer.write, lines)


async def main() -> None:
    summary = await flow.start(ndjson(chunks()), Lines(write)).finished
    sys.stderr.write(f"{summary.received} received, {summary.ok} ok, {summary.failed} failed\n")


if __name__ == "__main__":
    asyncio.run(main())
