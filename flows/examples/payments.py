"""Payments to a provider that takes ten a second and is sometimes busy: throttled, tried again, never made twice.

Every attempt of a payment carries the same idempotency key, so the provider knows one that it has taken before.
A refusal that another attempt cannot change says so (`retryable = False`) and is final at once.
"""

import asyncio
from typing import Any

from penstock import Backoff, ElementError, Flow, Result, Service, from_iterable


class Busy(ElementError):
    """The provider is busy; another attempt may help."""


class CardRefused(ElementError):
    """The bank said no, and will say no again."""

    retryable = False


class Provider:
    """Takes payments, each key once; the answer to every first attempt at a payment above 500 is lost."""

    def __init__(self) -> None:
        self.taken: dict[str, float] = {}

    async def pay(self, payment: dict[str, Any]) -> dict[str, Any]:
        await asyncio.sleep(0.02)
        if payment["card"] == "expired":
            raise CardRefused("the card has expired")
        key, new = payment["key"], payment["key"] not in self.taken
        self.taken[key] = payment["amount"]
        if new and payment["amount"] > 500:
            raise Busy("503")
        return payment | {"state": "paid"}


PAYMENTS = [
    {"id": number, "amount": 200.0 * number, "card": "expired" if number == 2 else "valid"} for number in range(1, 6)
]


async def main(provider: Provider) -> list[Result]:
    pay = Service("pay", provider.pay, max_in_flight=4, timeout=2, attempts=3, backoff=Backoff(first=0.05, cap=1))
    flow = (
        Flow[dict[str, Any]]("payments", key="id")
        .map(lambda payment: payment | {"key": f"payment-{payment['id']}"}, name="idempotency key")
        .throttle(10, burst=2)
        .map_async(pay)
    )
    return [result async for result in flow.stream(from_iterable(PAYMENTS))]


if __name__ == "__main__":
    for result in asyncio.run(main(Provider())):
        print(result.value if result.ok else result.failure)
