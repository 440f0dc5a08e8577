"""Letters, stores and flows of redrives, for the tests."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from penstock import Flow
from penstock.deadletters import DeadLetter, MemoryStore
from penstock.support.ids import new_id, now


def letter(number: int = 0, **facts: Any) -> DeadLetter:
    """A letter of the flow `orders` whose input is an order with a number."""
    raw = json.dumps({"id": number}).encode()
    plain: dict[str, Any] = {
        "id": new_id(),
        "flow": "orders",
        "run": "r",
        "seq": number,
        "step": "pricing",
        "type": "Down",
        "message": "the service is down",
        "input": raw,
        "input_size": len(raw),
        "started_at": now(),
        "failed_at": now(),
    }
    return DeadLetter(**(plain | facts))


class Down(Exception):
    """The service is down."""

    retryable = False


class Pricing:
    """A service that fails for some orders, and counts its calls."""

    def __init__(self, *, fails: Any = (), seconds: float = 0.0) -> None:
        self.fails = fails
        self.seconds = seconds
        self.calls: Counter[int] = Counter()
        self.times: list[float] = []

    async def __call__(self, order: dict[str, Any]) -> dict[str, Any]:
        import asyncio

        number = order["id"]
        self.calls[number] += 1
        self.times.append(asyncio.get_running_loop().time())
        if self.seconds:
            await asyncio.sleep(self.seconds)
        if self.fails is True or (self.fails is not False and number in self.fails):
            raise Down("the service is down again")
        return {"price": number}


class Flows:
    """The flows of a process, by name."""

    def __init__(self, *flows: Flow[Any]) -> None:
        self.by_name: dict[str, Any] = {flow.name: flow for flow in flows}

    def flow(self, name: str) -> Any:
        return self.by_name.get(name)

    def names(self) -> list[str]:
        return list(self.by_name)


def orders(pricing: Any, store: MemoryStore | str | None = None) -> Flow[Any]:
    """A flow that calls a service."""
    from penstock import Service

    flow: Flow[Any] = Flow[Any]("orders", key="id").enrich({"pricing": Service("pricing", pricing, attempts=1)})
    return flow if store is None else flow.dead_letters(store)
