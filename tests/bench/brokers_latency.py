"""A flow whose service takes 20 ms, 256 calls at once, against the ideal: all places busy all the time."""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import Any

from figures import Figure

from penstock import Flow, Service, from_iterable
from penstock.results import DiscardResults

WIDTH, SECONDS = 256, 0.02

WINDOW = 2 * WIDTH


async def part_of_ideal(source: Any, count: int) -> float:
    """Run a source that emits `count` values or more. Return the ideal time as a part of the time from the first."""
    done = 0
    begun = 0.0
    finished = asyncio.Event()

    async def call(value: Any) -> Any:
        nonlocal done, begun
        begun = begun or time.perf_counter()
        await asyncio.sleep(SECONDS)
        done += 1
        if done == count:
            finished.set()
        return value

    flow = Flow[Any]("f").window(WINDOW).map_async(Service("s", call, max_in_flight=WIDTH))
    run = flow.start(source, DiscardResults())
    async with asyncio.timeout(300):
        await finished.wait()
    seconds = time.perf_counter() - begun
    run.drain()
    await run.finished
    return count / WIDTH * SECONDS / seconds


async def from_memory(count: int) -> float:
    """The same from a list: what is missing to the ideal is then asyncio's, whose sleep of 20 ms takes longer."""
    return await part_of_ideal(from_iterable([{"n": number} for number in range(count)]), count)


def figures_of(parts: list[float], memory: list[float]) -> list[Figure]:
    """The figures of runs of a broker, and of the neighbouring runs from memory."""
    ratios = [part / other for part, other in zip(parts, memory, strict=True)]
    note = f"from memory: {statistics.median(memory):.2f}"
    return [
        Figure("20 ms service 256 wide, window 512", statistics.median(parts), "of ideal", at_least=0.9, note=note),
        Figure("against the same from memory", statistics.median(ratios), "x", at_least=0.9),
    ]
