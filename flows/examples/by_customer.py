"""What each customer's events come to: an operator of reactivex, which etl.yaml sends its values through."""

from collections.abc import Iterable
from typing import Any

from reactivex import Observable
from reactivex import operators as ops

Sums = dict[str, float]


def summed(events: Observable[dict[str, Any]]) -> Observable[dict[str, Any]]:
    """One value for each customer, when the events are over. Only the sums are held, not the events."""
    nothing: Sums = {}
    return events.pipe(ops.reduce(_add, nothing), ops.flat_map(_values))


def _add(sums: Sums, event: dict[str, Any]) -> Sums:
    sums[event["customer"]] = sums.get(event["customer"], 0.0) + event["amount"]
    return sums


def _values(sums: Sums) -> Iterable[dict[str, Any]]:
    return [{"customer": customer, "amount": amount} for customer, amount in sums.items()]
