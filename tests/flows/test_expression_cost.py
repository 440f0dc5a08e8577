"""No value may keep CEL busy for long."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import thread_time
from typing import Any

import msgspec
import pytest

from flows.expression_costs import WORST, reals
from penstock import Expression
from penstock.errors import ExpressionFailed

LINE = 1 << 20
"""Bytes that a line may have, by default."""

ALLOWED = 0.5
"""Seconds of the processor that one value may take."""


@pytest.mark.parametrize(("text", "make"), WORST)
def test_no_value_within_a_line_takes_long(text: str, make: Callable[[int], Any]) -> None:
    """Of all sizes: those that are just within the limit are the worst.

    Larger ones are refused, which takes the longer the larger they are: some of these, and the largest.
    """
    expression = Expression(text)
    refused = 0
    for size, value, is_largest in of_all_sizes(make):
        if refused % 6 and not is_largest:
            refused += 1
            continue
        start = thread_time()
        try:
            expression(value)
        except ExpressionFailed:
            refused += 1
        assert thread_time() - start < ALLOWED, size


def of_all_sizes(make: Callable[[int], Any]) -> Iterator[tuple[int, Any, bool]]:
    """Yield sizes, their values, and whether it is the largest one that a line can hold."""
    size, value = 32, make(32)
    while True:
        larger = size * 5 // 4
        next_value = make(larger)
        is_largest = larger >= LINE or len(msgspec.json.encode(next_value)) >= LINE
        yield size, value, is_largest
        if is_largest:
            return
        size, value = larger, next_value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("value.s.replace('a', value.s)", {"s": "a" * 30_000}),
        ("value.lines.all(l, l in value.allowed)", {"lines": [1] * 5000, "allowed": [2] * 5000}),
        ("value.lines.all(l, value.s.split('').size() > 0)", {"lines": [1] * 100, "s": "a" * 100_000}),
    ],
)
def test_a_value_that_is_too_large_fails_with_advice(text: str, value: Any) -> None:
    with pytest.raises(ExpressionFailed, match=r"too large: \d+ values with \d+ .+ function in Python"):
        Expression(text)(value)


REAL = [
    "value.lines.map(l, {'sku': l.sku, 'n': l.quantity})",
    "value.lines.filter(l, l.quantity > 1)",
    "value.lines.filter(l, l.quantity > 1).map(l, l.sku)",
    "value.lines.all(l, l.quantity > 0 && l.sku.startsWith('SKU-'))",
    "value.lines.exists_one(l, l.sku == 'SKU-000001')",
    "value.lines.all(l, l.sku in value.allowed)",
    "value.lines.map(l, l.sku).join(', ')",
    "value.lines.map(l, double(l.quantity) * l.price)",
    "value.note.replace('\\n', ' ').trim()",
    "value.note.lowerAscii().contains('gift')",
    "value.note.split(' ').size() > 3",
    "value.note.matches('^[A-Za-z0-9 .,!?-]+$')",
    "'%s: %d'.format([value.note, size(value.lines)])",
    "{'id': value.id, 'lines': value.lines}",
    "value.?discount.orValue({'percent': 0})",
]


@pytest.mark.parametrize("text", REAL)
def test_orders_never_meet_the_limit(text: str) -> None:
    """200 lines are 20 kB."""
    value = {
        "id": 1,
        "lines": reals(200),
        "allowed": [f"SKU-{n:06}" for n in range(500)],
        "note": "Please wrap. " * 300,
    }
    Expression(text)(value)


def test_a_list_of_many_elements_can_be_mapped() -> None:
    assert len(Expression("value.lines.map(l, l.quantity)")({"lines": reals(1500)})) == 1500
