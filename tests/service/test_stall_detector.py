"""The stall detector, in virtual time: only time in which the process ran counts."""

from __future__ import annotations

import asyncio

import pytest

from penstock.testing import VirtualTimeLoop, run
from penstock_http.requests.stall_detector import CHECK_SECONDS, StallDetector


def pauses(loop: asyncio.AbstractEventLoop, times: dict[float, float]) -> None:
    """Pause the process at these times, for so many seconds each."""
    assert isinstance(loop, VirtualTimeLoop)
    for when, seconds in times.items():
        loop.call_at(when, loop.spend, seconds)


def waits(stall: float, arrives: float | None, times: dict[float, float]) -> float:
    """Wait for a client whose bytes arrive at a time, or never. Returns when the wait ended."""

    async def main() -> float:
        loop = asyncio.get_running_loop()
        pauses(loop, times)
        taken: asyncio.Future[None] = loop.create_future()
        if arrives is not None:
            loop.call_at(arrives, taken.set_result, None)
        await StallDetector(stall, 16).write(taken, 0)
        return loop.time()

    return run(main())


def test_a_client_without_progress_stalls() -> None:
    """After the timeout, at the next check."""
    with pytest.raises(TimeoutError):
        waits(4, 4 + 2 * CHECK_SECONDS, {})


def test_a_client_with_progress_in_time_does_not_stall() -> None:
    """Even shortly before the timeout."""
    assert waits(4, 3.9, {}) == pytest.approx(3.9)


@pytest.mark.parametrize("times", [{1.0: 7.0}, {1.0: 60.0, 62.0: 60.0}])
def test_a_pause_of_the_process_is_not_a_stall(times: dict[float, float]) -> None:
    """However long it is: it counts as at most one interval between two checks."""
    assert waits(4, 1 + sum(times.values()) + 1.5, times) > 4


def test_a_client_without_progress_after_a_pause_stalls() -> None:
    """The pause only delays it."""
    with pytest.raises(TimeoutError):
        waits(4, 70, {1.0: 60.0})
