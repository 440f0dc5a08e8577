"""What is special for `map_async`: order, and failures that keep their place."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laws.virtual import results
from penstock import Flow, Service
from penstock.services import NONE


async def wait(seconds: float) -> float:
    await asyncio.sleep(abs(seconds))
    if seconds < 0:
        raise ValueError(seconds)
    return seconds


def test_without_order_answers_come_as_they_are_ready() -> None:
    """The fastest comes first."""
    assert [result.seq for result in results(Flow("f").map_async(wait), [3, 1, 2])] == [1, 2, 0]


@settings(max_examples=40, deadline=None)
@given(seconds=st.lists(st.integers(-5, 5), max_size=12), width=st.integers(1, 5))
def test_in_order_answers_come_as_they_were_asked_for(seconds: list[int], width: int) -> None:
    """Whatever takes how long and fails: elements go on in the order in which they came."""
    flow = Flow("f").map_async(wait, ordered=True, max_in_flight=width)
    told = results(flow, seconds)

    assert [result.seq for result in told if result.ok] == [n for n, value in enumerate(seconds) if value >= 0]
    assert [result.seq for result in told if not result.ok] == [n for n, value in enumerate(seconds) if value < 0]


def test_failed_elements_keep_their_place_in_order() -> None:
    """An element that failed before waits for its turn too."""

    def refuse(value: int) -> int:
        if value == 0:
            raise ValueError(value)
        return value

    seen: list[int] = []
    flow = Flow("f").map(refuse).map_async(wait, ordered=True)
    seen = [result.seq for result in results(flow, [2, 0, 1], ordered=True)]

    assert seen == [0, 1, 2]


def test_a_failure_tells_its_attempts() -> None:
    """The failure names the step, and how often the call was made."""
    (told,) = results(Flow("f").map_async(Service("s", wait, attempts=3, backoff=NONE), name="asking"), [-1])

    assert (told.failure.step, told.failure.type, told.failure.attempts) == ("asking", "ValueError", 3)


def test_a_call_that_takes_too_long_fails_with_its_limit() -> None:
    """The sentence has the service and its seconds."""
    (told,) = results(Flow("f").map_async(wait, timeout=2, name="slow"), [60])

    assert (told.failure.type, told.failure.message) == ("CallTimeout", "slow did not respond within 2 s")


@pytest.mark.parametrize("function", [lambda value: value + 1, lambda value: asyncio.sleep(1, value + 1)])
def test_plain_functions_and_awaitables_are_calls_too(function: object) -> None:
    """What a call gives back is awaited if it can be."""
    assert [result.value for result in results(Flow("f").map_async(function), [1])] == [2]  # type: ignore[arg-type]
