"""How results are grouped into writes."""

from __future__ import annotations

import asyncio
from typing import Any

from laws.virtual import quiet
from penstock import Flow, from_iterable
from penstock.results import LineWriter
from penstock.results.line_writer import WRITE_INTERVAL

COUNT = 100
TICK = 0.0001


def writes(delays: list[float]) -> list[tuple[float, int]]:
    """Run an element for each delay, all at once. Return when results were written, and how many each time."""
    written: list[tuple[float, int]] = []

    async def wait(seconds: float) -> float:
        await asyncio.sleep(seconds)
        return seconds

    async def main() -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()

        async def write(data: bytes) -> None:
            written.append((loop.time() - began, data.count(b"\n")))

        flow: Flow[Any, Any] = Flow("f").map_async(wait).window(COUNT)
        summary = await flow.start(from_iterable(delays), LineWriter(write)).finished
        assert summary.ok == len(delays)
        assert began + written[-1][0] >= loop.time() - TICK / 2, "the run waited after the last write"

    quiet(main())
    return written


def test_few_results_in_close_succession_share_a_write() -> None:
    """Ten results a millisecond, of a hundred in flight: one write a millisecond, and none waits longer."""
    written = writes([TICK * number for number in range(1, COUNT + 1)])
    assert sum(count for _, count in written) == COUNT
    assert len(written) <= COUNT / 2
    done = 0
    for time, count in written:
        assert time <= TICK * (done + 1) + WRITE_INTERVAL + TICK / 2
        done += count


def test_the_first_result_is_written_at_once() -> None:
    """However few of the elements in flight have one."""
    time, count = writes([TICK * number for number in range(1, COUNT + 1)])[0]
    assert (round(time, 6), count) == (TICK, 1)


def test_results_that_come_rarely_are_written_at_once() -> None:
    """Nothing is gained by waiting when no other result comes within the interval."""
    delays = [2 * WRITE_INTERVAL * number for number in range(1, COUNT + 1)]
    assert [round(time, 6) for time, _ in writes(delays)] == [round(delay, 6) for delay in delays]


def test_many_results_are_written_at_once() -> None:
    """An eighth of the elements in flight does not wait, also directly after another write."""
    written = writes([TICK] + [2 * TICK] * (COUNT // 2) + [1.0] * (COUNT // 2 - 1))
    assert [(round(time, 6), count) for time, count in written] == [(TICK, 1), (2 * TICK, 50), (1.0, 49)]
