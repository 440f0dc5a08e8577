"""The sum of each customer's amounts, as an operator of reactivex: what the step `through` of etl.yaml sends values through."""

from typing import Any

from reactivex import Observable
from reactivex import operators as ops


def _add(sums: dict[str, float], event: dict[str, Any]) -> dict[str, float]:
    sums[event["customer"]] = sums.get(event["customer"], 0.0) + event["amount"]
    return sums


def summed(events: Observable[dict[str, Any]]) -> Observable[dict[str, Any]]:
    """One value for each customer, when the events are over."""
    return events.pipe(
        ops.reduce(_add, {}),
    )
