"""A flow file in a program of your own: services of this process in the place of those it names, results as they come.

Leaving the loop cancels what is under way: here the program is content with the first five results.
"""

import asyncio
import itertools
from contextlib import aclosing
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


async def main() -> list[Result]:
    flow = load(Path(__file__).with_name("orders.yaml")).flow.services(SERVICES)
    orders = from_iterable({"orderId": number} for number in itertools.count(1))  # it never ends, and is never flooded
    results: list[Result] = []
    async with aclosing(flow.window(8).stream(orders)) as stream:
        async for result in stream:
            results.append(result)
            if len(results) == 5:
                break
    return results


if __name__ == "__main__":
    for result in asyncio.run(main()):
        print(result.value if result.ok else result.failure)
