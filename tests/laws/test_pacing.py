"""Pacing: what the responses of a service ask for holds all of its calls, and not only the one that received it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from laws.asking import Asking
from penstock.errors import ServiceErrorResponse
from penstock.services import NONE, Service
from penstock.services.pacing import MAX_PAUSE, Pacer, parse_rate_limit, parse_rate_limit_policy
from penstock.testing import run


class Limited:
    """A service with a quota of calls in each window. It tells what remains, or only rejects what is too much."""

    def __init__(self, quota: int, window: float, *, tells: bool = True, policy: bool = True) -> None:
        self.pacer = Pacer()
        self.quota, self.window, self.tells, self.policy = quota, window, tells, policy
        self.began: list[float] = []
        self.rejected = 0

    async def __call__(self, value: int) -> int:
        now = asyncio.get_running_loop().time()
        current = int(now / self.window)
        used = sum(int(begin / self.window) == current for begin in self.began)
        self.began.append(now)
        self.pacer.in_flight += 1
        await asyncio.sleep(0.01)
        self.pacer.in_flight -= 1
        left = (current + 1) * self.window - now
        now = asyncio.get_running_loop().time()
        if used >= self.quota:
            self.rejected += 1
            self.pacer.pause(left, now)
            raise ServiceErrorResponse("s", 429, "", left)
        if self.tells:
            window = (self.quota, self.window) if self.policy else None
            self.pacer.limit(self.quota - used - 1, left, now, window)
        return value


def take(limited: Limited, calls: int, **options: Any) -> tuple[list[Any], float, Service]:
    """The results of calls that are all there at once, and the seconds that they took."""
    service = Service("s", limited, backoff=NONE, **options)

    async def main() -> tuple[list[Any], float]:
        asking = Asking(service)
        asking.ask(*range(calls))
        results = await asking.all()
        await asking.queue.aclose()
        return results, asyncio.get_running_loop().time()

    with capture_logs() as logs:
        results, seconds = run(main())
    limited.logs = [each for each in logs if each["event"] == "service.paced"]  # type: ignore[attr-defined]
    return results, seconds, service


def test_retry_after_holds_all_calls() -> None:
    """After the first rejections no call starts before the time that the service asked for."""
    limited = Limited(10, 5.0, tells=False)
    results, seconds, service = take(limited, 40, max_in_flight=4, attempts=3)
    assert sorted(results) == list(range(40))
    assert limited.rejected <= 4 * 3, "at most those in flight, in each window but the last"
    assert 15 < seconds < 16
    assert 14 < service.statistics().paced_seconds < 15.1


@pytest.mark.parametrize("policy", [True, False])
def test_a_quota_that_the_service_tells_is_never_exceeded(policy: bool) -> None:
    """Calls in flight count too. Without a policy one call finds out what the next window allows."""
    limited = Limited(10, 5.0, policy=policy)
    results, seconds, _ = take(limited, 45, max_in_flight=4)
    assert sorted(results) == list(range(45))
    assert limited.rejected == 0
    assert 20 < seconds < 21.2


def test_after_a_pause_calls_do_not_start_all_at_once() -> None:
    """As after an outage: three calls, then one more with each success. It costs few round trips."""
    pacer = Pacer()
    began: list[float] = []

    class Pausing:
        def __init__(self) -> None:
            self.pacer = pacer

        async def __call__(self, value: int) -> int:
            loop = asyncio.get_running_loop()
            if value == 0:
                pacer.pause(10.0, loop.time())
            began.append(loop.time())
            await asyncio.sleep(0.01)
            return value

    service = Service("s", Pausing(), max_in_flight=256)

    async def main() -> float:
        asking = Asking(service)
        asking.ask(*range(600))
        await asking.all()
        await asking.queue.aclose()
        return asyncio.get_running_loop().time()

    with capture_logs():
        ended = run(main())
    after = [round(begin - 10, 6) for begin in began if begin > 5]
    starts = [after.count(begin) for begin in sorted(set(after))]
    assert starts[:5] == [3, 6, 12, 24, 48]
    assert sum(starts) == 599, "the first call asks for the pause before any other has started"
    assert ended < 10.15


def test_a_pause_is_logged_once() -> None:
    """And not for every call that waits."""
    limited = Limited(10, 5.0)
    take(limited, 45, max_in_flight=4)
    logs = limited.logs  # type: ignore[attr-defined]
    assert len(logs) == 4
    assert logs[0]["log_level"] == "warning"
    assert logs[0]["service"] == "s"
    assert 4 < logs[0]["seconds"] <= 5


def test_a_pause_has_a_limit() -> None:
    """A service that asks for a year is tried again after a minute."""
    pacer = Pacer()
    pacer.pause(31_536_000, now=100.0)
    assert pacer.wait(100.0) == MAX_PAUSE
    assert pacer.wait(100.0 + MAX_PAUSE) == 0
    pacer.limit(0, 31_536_000, now=200.0)
    assert pacer.wait(200.0) == MAX_PAUSE


def test_a_run_that_ends_does_not_wait_for_a_pause() -> None:
    """Its calls are cancelled at once, and the next run waits for what is left of the pause."""
    pacer = Pacer()

    class Pausing:
        def __init__(self) -> None:
            self.pacer = pacer

        async def __call__(self, value: int) -> int:
            pacer.pause(10.0, asyncio.get_running_loop().time())
            return value

    service = Service("s", Pausing(), max_in_flight=1)

    async def main() -> tuple[float, float]:
        loop = asyncio.get_running_loop()
        first = Asking(service)
        first.ask(1, 2)
        await asyncio.sleep(1)
        first.ask(3)
        await asyncio.sleep(1)
        began = loop.time()
        await first.queue.aclose()
        closed = loop.time() - began
        second = Asking(service)
        second.ask(4)
        await second.all()
        await second.queue.aclose()
        return closed, loop.time()

    with capture_logs():
        closed, ended = run(main())
    assert closed < 0.1
    assert 10 <= ended < 10.5


@given(
    st.lists(
        st.tuples(st.sampled_from(["wait", "start", "limit", "pause", "renewed"]), st.integers(0, 5), st.floats(0, 100))
    )
)
def test_a_pacer_always_lets_calls_through_at_last(steps: list[tuple[str, int, float]]) -> None:
    """Whatever was asked for: within two maximum pauses."""
    pacer, now = Pacer(), 0.0
    for step, number, seconds in steps:
        match step:
            case "wait":
                now += seconds
                pacer.wait(now)
            case "start":
                if not pacer.wait(now):
                    pacer.start()
            case "limit":
                pacer.limit(number, seconds, now)
            case "renewed":
                pacer.limit(number, seconds, now, (number + 1, seconds + 0.1))
            case _:
                pacer.pause(seconds, now)
    for _ in range(3):
        wait = pacer.wait(now)
        assert 0 <= wait <= MAX_PAUSE + 1e-6
        now += wait + 1e-6
    assert pacer.wait(now) == 0


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ('"default";r=50;t=30', (50, 30.0)),
        ('"a";r=9;t=1, "b";r=3;t=60;pk=:cHsdsRa894==:', (3, 60.0)),
        ("default;r=0", (0, None)),
        ('"a, b; r=7" ; r=1 ; t=2', (1, 2.0)),
        ('"a";t=5', None),
        ('"a";r=-1;t=5', None),
        ('"a";r=1.5', None),
        ("limit=100, remaining=50", None),
        ("", None),
        ('"a";r=1' + " " * 2000, None),
        (None, None),
    ],
)
def test_a_rate_limit_is_parsed(text: str | None, limit: tuple[int, float | None] | None) -> None:
    """Invalid ones are ignored."""
    assert parse_rate_limit(text) == limit


@pytest.mark.parametrize(
    ("text", "window"),
    [('"a";q=100;w=60', (100, 60.0)), ('"a";q=10;w=1,"b";q=100;w=60', (100, 60.0)), ('"a";q=0;w=60', None), ("", None)],
)
def test_a_rate_limit_policy_is_parsed(text: str, window: tuple[int, float] | None) -> None:
    """Of several the one that allows the fewest calls."""
    assert parse_rate_limit_policy(text) == window
