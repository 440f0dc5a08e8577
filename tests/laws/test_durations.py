"""The durations of a service: every attempt is in the histogram of its result, with the time that it took."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from laws.asking import FOREVER, Asking, answers_of
from penstock.core.context import BUCKETS
from penstock.services import NONE, Backoff, Service
from penstock.testing import VirtualTimeLoop, run

TIMEOUT = 20.0


def measured(service: Service) -> dict[str, tuple[int, float]]:
    """The number of attempts by result, and the seconds that they took together."""
    durations = service.statistics().durations
    return {result: (sum(each.counts), each.total) for result, each in durations.items()}


def counts(service: Service) -> Mapping[str, int]:
    """The number of attempts by result, as the counters have them."""
    return service.statistics().results


@given(
    plans=st.lists(st.tuples(st.sampled_from([0, 0.001, 0.3, 2, 9, FOREVER]), st.booleans()), min_size=1, max_size=30),
    max_in_flight=st.integers(1, 8),
    attempts=st.integers(1, 3),
    wait=st.sampled_from([0, 0.5]),
)
def test_every_attempt_is_measured(
    plans: list[tuple[float, bool]], max_in_flight: int, attempts: int, wait: float
) -> None:
    """However long it takes, however it ends, and whether other calls wait for it."""

    async def call(number: int) -> int:
        seconds, works = plans[number]
        if seconds:
            await asyncio.sleep(seconds)
        if not works:
            raise OSError("refused")
        return number

    async def main() -> None:
        backoff = Backoff(first=wait, cap=wait) if wait else NONE
        service = Service("s", call, max_in_flight=max_in_flight, attempts=attempts, timeout=TIMEOUT, backoff=backoff)
        await answers_of(service, *range(len(plans)))

        ends = [seconds for seconds, works in plans if works and seconds < TIMEOUT]
        fails = [seconds for seconds, works in plans if not works and seconds < TIMEOUT]
        late = len(plans) - len(ends) - len(fails)
        found = measured(service)
        assert {result: number for result, (number, _) in found.items()} == counts(service)
        assert found["ok"] == (len(ends), pytest.approx(sum(ends)))
        assert found["error"] == (attempts * len(fails), pytest.approx(attempts * sum(fails)))
        assert found["timeout"] == (attempts * late, pytest.approx(attempts * late * TIMEOUT))

    run(main())


def test_a_duration_is_in_the_bucket_of_its_seconds() -> None:
    """A bucket contains the durations up to its bound, as in Prometheus."""

    async def main() -> None:
        service = Service("s", asyncio.sleep)
        await answers_of(service, 0.004, 0.3, 0.4, 29)
        histogram = service.statistics().durations["ok"]
        assert {bound: n for bound, n in zip(BUCKETS, histogram.counts, strict=False) if n} == {
            0.005: 1,
            0.5: 2,
            30: 1,
        }

    run(main())


def test_calls_that_do_not_wait_share_the_time_of_their_iteration() -> None:
    """A thousand calls that keep the event loop busy for a second take a millisecond each, failed ones too."""

    async def call(value: int) -> int:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        loop.spend(0.001)
        if value % 4 == 0:
            raise OSError("refused")
        return value

    async def main() -> None:
        service = Service("s", call)
        await answers_of(service, *range(1000))
        assert measured(service) == {
            "ok": (750, pytest.approx(0.75)),
            "error": (250, pytest.approx(0.25)),
            "timeout": (0, 0),
            "cancelled": (0, 0),
        }

    run(main())


def test_time_in_the_queue_and_of_a_backoff_is_not_time_of_an_attempt() -> None:
    """The duration is that of the service; the time that an element waits for it is in the duration of its step."""
    tried: list[int] = []

    async def call(value: int) -> int:
        await asyncio.sleep(1)
        tried.append(value)
        if len(tried) <= 3:
            raise OSError("refused")
        return value

    async def main() -> None:
        service = Service("s", call, max_in_flight=1, attempts=3, backoff=Backoff(first=60, cap=60))
        await answers_of(service, 1, 2, 3)
        assert measured(service)["ok"] == (3, pytest.approx(3))
        assert measured(service)["error"] == (3, pytest.approx(3))

    run(main())


def test_calls_that_end_together_have_their_own_times() -> None:
    """Results are delivered in one iteration of the event loop; the calls may have started in different ones."""

    async def main() -> None:
        service = Service("s", asyncio.sleep)
        asking = Asking(service)
        for seconds in (4, 2, 1):
            asyncio.get_running_loop().call_at(4 - seconds, asking.ask, seconds)
        await asyncio.sleep(5)
        await asking.queue.aclose()
        assert set(asking.times.values()) == {4}
        assert measured(service)["ok"] == (3, pytest.approx(7))

    run(main())


@pytest.mark.parametrize("seconds", [0, 2])
def test_calls_that_end_as_their_run_ends_are_measured(seconds: int) -> None:
    """Their results are not delivered, but they are counted, and so are their durations."""

    async def main() -> None:
        async def call(value: int) -> int:
            if value:
                await asyncio.sleep(value)
                asyncio.get_running_loop().call_soon(asking.queue.close)  # before the result is delivered
            return value

        service = Service("s", call)
        asking = Asking(service)
        asking.ask(seconds)
        if not seconds:
            asyncio.get_running_loop().call_soon(asking.queue.close)  # after the call, which the task makes first
        await asyncio.sleep(3)
        assert (asking.answers, counts(service)["ok"]) == ({}, 1)
        assert measured(service)["ok"] == (1, pytest.approx(seconds))

    run(main())


def test_cancelled_attempts_are_measured_until_they_are_cancelled() -> None:
    """A run that ends cancels its calls, which are no failures of the service."""

    async def main() -> None:
        service = Service("s", asyncio.sleep)
        asking = Asking(service)
        asking.ask(FOREVER, FOREVER)
        await asyncio.sleep(7)
        await asking.queue.aclose()
        assert measured(service) == {"ok": (0, 0), "error": (0, 0), "timeout": (0, 0), "cancelled": (2, 14)}

    run(main())


def test_a_call_that_suppresses_its_timeout_has_its_whole_time() -> None:
    """The service took four timeouts and returned a response: that is no quick call."""

    async def stubborn(value: Any) -> Any:
        end = asyncio.get_running_loop().time() + 9
        while (left := end - asyncio.get_running_loop().time()) > 0:
            try:
                await asyncio.sleep(left)
            except asyncio.CancelledError:
                continue
        return value

    async def main() -> None:
        service = Service("s", stubborn, timeout=2)
        await answers_of(service, 1)
        assert measured(service)["ok"] == (1, pytest.approx(9))

    run(main())
