"""Addresses, checked by a service that takes many at once: one call for up to 50, and each address its own answer."""

import asyncio
from typing import Any

from msgspec import Struct

from penstock import Flow, Result, Service, from_iterable

KNOWN = {"10115": "Berlin", "20095": "Hamburg", "80331": "München"}


class Address(Struct):
    """What a customer typed."""

    id: int
    postcode: str
    city: str


class Checked(Struct):
    """What the service made of it."""

    id: int
    city: str
    corrected: bool


async def check(addresses: list[Address]) -> list[Any]:
    """One round trip for all. An answer that is an exception fails its own address and no other."""
    await asyncio.sleep(0.03)
    return [
        Checked(address.id, city, corrected=city != address.city)
        if (city := KNOWN.get(address.postcode))
        else LookupError(f"there is no postcode {address.postcode}")
        for address in addresses
    ]


checker = Service("checker", check, max_in_flight=4, timeout=2, attempts=2)
flow = Flow("addresses", Address, key="id").batch(checker, size=50, seconds=0.01)


async def main() -> list[Result]:
    postcodes = [*KNOWN, "00000"]
    addresses = [Address(number, postcodes[number % 4], "Berlin") for number in range(200)]
    return [result async for result in flow.stream(from_iterable(addresses), ordered=True)]


if __name__ == "__main__":
    results = asyncio.run(main())
    for result in results[:4]:
        print(result.value if result.ok else result.failure)
    print(f"{len(results)} addresses in {checker.succeeded} calls")
