"""Run a flow file in a program, with services of this process instead of those over HTTP.

The program needs five results only. Leaving the block ends the run and waits for its end.
"""

import asyncio
import itertools
from pathlib import Path
from typing import Any

from penstock import Result, Service, from_iterable
from penstock.flowfile import load


async def price(order: dict[str, Any]) -> dict[str, Any]:
    await asyncio.sleep(0.010)
    return {"price": 1000 + order["orderId"]}


async def stock(order: dict[str, Any]) -> dict[str, Any]:
    await asyncio.sleep(0.015)
    return {"inStock": order["orderId"] % 2 == 0}


SERVICES = {"pricing": Service("pricing", price, timeout=2), "inventory": Service("inventory", stock, timeout=2)}


async def main() -> list[Result[Any]]:
    flow = load(Path(__file__).with_name("orders.yaml")).flow.services(SERVICES)
    orders = from_iterable({"orderId": number} for number in itertools.count(1))  # endless, limited by the window
    first: list[Result[Any]] = []
    async with flow.window(8).stream(orders) as results:
        async for result in results:
            first.append(result)
            if len(first) == 5:
                break
    return first


if __name__ == "__main__":
    for result in asyncio.run(main()):
        print(result.value if result.ok else result.failure)
