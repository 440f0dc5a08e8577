"""Sum up amounts by customer: an operator of reactivex, for etl.yaml."""

from collections.abc import Iterable
from typing import Any

from reactivex import Observable
from reactivex import operators as ops

Sums = dict[str, float]


def summed(events: Observable[dict[str, Any]]) -> Observable[dict[str, Any]]:
    """Emit one value for each customer when the events have ended. Keeps the sums only, not the events."""
    nothing: Sums = {}
    return events.pipe(ops.reduce(_add, nothing), ops.flat_map(_values))


def _add(sums: Sums, event: dict[str, Any]) -> Sums:
    sums[event["customer"]] = sums.get(event["customer"], 0.0) + event["amount"]
    return sums


def _values(sums: Sums) -> Iterable[dict[str, Any]]:
    return [{"customer": customer, "amount": amount} for customer, amount in sums.items()]
