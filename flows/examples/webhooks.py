"""Events, each told to all who subscribed to it: one element becomes many calls, and fails as one if a call fails.

`flat_map` makes a part for every subscriber. An event is settled when all its parts are; if a delivery fails for
good it has one dead letter, with the event as it came in.
"""

import asyncio
from collections.abc import Iterator
from typing import Any

from penstock import Flow, Result, Service, from_iterable

SUBSCRIBERS = {
    "order.paid": ["https://shop.example/hook", "https://ledger.example/hook", "https://mail.example/hook"],
    "order.sent": ["https://shop.example/hook", "https://away.example/hook"],
}

EVENTS = [
    {"id": 1, "type": "order.paid"},
    {"id": 2, "type": "order.sent"},
    {"id": 3, "type": "order.seen"},  # nobody wants to know: filtered
]


def deliveries(event: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for url in SUBSCRIBERS.get(event["type"], []):
        yield {"url": url, "event": event}


async def deliver(delivery: dict[str, Any]) -> str:
    """Stands for the POST; `penstock.services.web` has a service that makes a real one."""
    await asyncio.sleep(0.02)
    if "away" in delivery["url"]:
        raise ConnectionError(f"{delivery['url']} does not answer")
    return str(delivery["url"])


flow = (
    Flow[dict[str, Any]]("webhooks", key="id")
    .flat_map(deliveries)
    .map_async(Service("deliver", deliver, max_in_flight=32, timeout=5, attempts=3))
    .dead_letters("memory:")
)


async def main() -> list[Result]:
    return [result async for result in flow.stream(from_iterable(EVENTS))]


if __name__ == "__main__":
    for result in asyncio.run(main()):
        what = result.value if result.ok else result.failure and result.failure.message
        print(f"event {result.key}, part {result.part}: {what}")
