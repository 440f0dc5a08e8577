"""Coroutines, where nobody awaits anything: they fail their element, and are no value and no "yes"."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from laws.virtual import results
from penstock import Flow, Service, When

FLOW = Flow("f")


async def later(*_: Any) -> Any:
    return [True]


async def found(value: Any) -> Any:
    return 1


async def broken(value: Any) -> Any:
    raise ValueError("no")


@pytest.mark.parametrize(
    "flow",
    [
        FLOW.map(lambda value: later(value)),
        FLOW.filter(lambda value: later(value)),
        FLOW.tap(lambda value: later(value)),
        FLOW.flat_map(lambda value: later(value)),
        FLOW.route(a=When(lambda value: later(value), lambda flow: flow.map(str))),
        FLOW.enrich(found=Service("found", found), merge=lambda value, answers: later(value)),
        FLOW.map_async(Service("broken", broken, attempts=3, retry_on=lambda error: later(error))),
    ],
    ids=["map", "filter", "tap", "flat_map", "route", "merge", "retry_on"],
)
def test_what_would_have_to_be_awaited_fails_its_element(flow: Flow[Any]) -> None:
    """A lambda cannot be told beforehand; its coroutine is closed, so Python warns of none that was never awaited."""
    failures = [result.failure for result in results(flow, [1, 2])]
    assert [failure and failure.type for failure in failures] == ["TypeError"] * 2
    assert all(failure and "returns an awaitable" in failure.message for failure in failures)


def test_a_plain_step_may_find_a_cancelled_future() -> None:
    """Its `CancelledError` is about that value and nothing else: one element fails, the next ones go on."""

    def look(value: int) -> int:
        if value == 1:
            future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            future.cancel()
            return future.result()
        return value

    for flow in (
        FLOW.map(look),
        FLOW.filter(lambda v: look(v) + 1),
        FLOW.tap(look),
        FLOW.flat_map(lambda v: [look(v)]),
    ):
        assert [result.ok for result in sorted(results(flow, range(3)), key=lambda one: one.seq)] == [True, False, True]


def test_a_blocking_call_may_come_to_the_end_of_an_iterator() -> None:
    """No future takes a `StopIteration`; it would be waited for in vain."""
    service = Service("s", lambda value: next(iter([])), blocking=True, timeout=7)
    (result,) = results(FLOW.map_async(service), [1])
    assert (result.failure.type, result.failure.message) == ("RuntimeError", "it raised StopIteration()")
