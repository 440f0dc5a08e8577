"""What is special for `throttle`: the rate, in virtual time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laws.virtual import summary_of
from penstock import Flow
from penstock.steps import Throttle


def times(count: int, rate: float, burst: int = 1, window: int = 256) -> list[float]:
    """When elements that are all there at once came through."""
    seen: list[float] = []
    flow = Flow("f").window(window).throttle(rate, burst=burst)
    summary_of(flow.tap(lambda _: seen.append(asyncio.get_running_loop().time())), range(count))
    return seen


def test_elements_come_at_the_rate() -> None:
    """Ten a second: one every 0.1 s, none doubled."""
    assert times(20, 10.0) == pytest.approx([number / 10 for number in range(20)])


def test_a_burst_passes_at_once() -> None:
    """After a pause `burst` elements pass together, then the rate holds."""
    assert times(8, 2.0, burst=5) == pytest.approx([0, 0, 0, 0, 0, 0.5, 1.0, 1.5])


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(1, 60),
    rate=st.floats(0.1, 1000),
    burst=st.integers(1, 10),
    window=st.integers(1, 30),
)
def test_never_more_than_burst_and_rate_allow(count: int, rate: float, burst: int, window: int) -> None:
    """In any stretch of time no more than burst + rate times seconds pass; all pass in the end."""
    seen = times(count, rate, burst, window)

    assert len(seen) == count
    for first in range(count):
        for last in range(first, count):
            assert last - first + 1 <= burst + (seen[last] - seen[first]) * rate + 1e-3


def test_order_is_kept() -> None:
    """Elements come through in the order in which they came."""
    seen: list[Any] = []
    summary_of(Flow("f").throttle(100).tap(seen.append), range(30))

    assert seen == list(range(30))


@pytest.mark.parametrize(("rate", "burst", "wrong"), [(0, 1, "rate"), (-1, 1, "rate"), (1, 0, "burst")])
def test_a_rate_above_zero_is_needed(rate: float, burst: int, wrong: str) -> None:
    """The message names what is wrong, and its value."""
    with pytest.raises(ValueError, match=f"^{wrong}: expected .*, got {rate if wrong == 'rate' else burst}"):
        Throttle(rate, burst=burst)
