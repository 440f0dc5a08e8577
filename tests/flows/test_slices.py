"""Slow steps are given their elements in slices, so that the event loop goes on in between."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from time import perf_counter

from penstock import Expression, Flow, from_iterable
from penstock.core.fairness import BUSY_SECONDS

BUSY_EXPRESSION = "value.lines.all(l, l in value.allowed)"
NUMBERS = list(range(300))


async def longest_pause(flow: Flow, values: list[object]) -> tuple[list[object], float, float]:
    """Run a flow; returns its values, how long that took, and the longest time without an iteration of the loop."""
    moments = [perf_counter()]

    async def tick() -> None:
        while True:
            moments.append(perf_counter())
            await asyncio.sleep(0)

    ticking = asyncio.create_task(tick())
    got = [result.value async for result in flow.stream(from_iterable(values))]
    ticking.cancel()
    moments.append(perf_counter())
    return got, moments[-1] - moments[0], max(later - earlier for earlier, later in pairwise(moments))


async def test_a_chain_of_slow_expressions_does_not_hold_the_event_loop() -> None:
    """256 values of one emission, three slow expressions each: the order stays, and the loop goes on in between."""
    flow = Flow("slow").filter(Expression(BUSY_EXPRESSION)).filter(Expression(BUSY_EXPRESSION), name="again")
    flow = flow.map(Expression("{'n': value.n, 'all': " + BUSY_EXPRESSION + "}"))
    values: list[object] = [{"n": number, "lines": NUMBERS, "allowed": NUMBERS} for number in range(256)]

    got, seconds, pause = await longest_pause(flow, values)

    assert got == [{"n": number, "all": True} for number in range(256)]
    assert pause < seconds / 4  # without slices the whole work is one pause


async def test_fast_expressions_are_not_slowed_down() -> None:
    """A small run has few iterations of the event loop: nothing waits while there is time."""
    flow = Flow("fast").filter(Expression("value.n >= 0")).map(Expression("value.n"))

    got, seconds, _ = await longest_pause(flow, [{"n": number} for number in range(4)])

    assert got == [0, 1, 2, 3]
    assert seconds < 100 * BUSY_SECONDS
