"""The laws of circuit breakers, in virtual time: a service that is down is hardly called, and elements wait for it."""

from __future__ import annotations

import asyncio
import itertools
import random
import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from laws.asking import FOREVER, Asking, Job, others
from laws.calling import Directly, both_ways, by_task
from laws.virtual import DAY, timers, within
from penstock import Breaker, Flow, Service, from_iterable
from penstock.errors import InvalidItem, ServiceErrorResponse, ServiceUnavailable, ServiceUnreachable
from penstock.results import DiscardResults
from penstock.runtime import Summary
from penstock.services.call_queue import EXPIRED_SHARE
from penstock.testing import run

FAILURES = 20
MAX_IN_FLIGHT = 256
"""Also the window of a run."""


def now() -> float:
    return asyncio.get_running_loop().time()


class Inventory:
    """A service with some latency, and an outage in which calls fail in some way."""

    def __init__(self, outage: str, down: tuple[float, float], *, seed: int = 0, latency: float = 0.15) -> None:
        self.outage, self.down, self.latency = outage, down, latency
        self.rng = random.Random(seed)
        self.down_calls: list[float] = []

    @property
    def is_down(self) -> bool:
        return self.down[0] <= now() < self.down[1]

    async def __call__(self, value: int) -> int:
        if self.is_down:
            self.down_calls.append(now())
            match self.outage:
                case "refuses":
                    raise ServiceUnreachable("inventory", "connection refused")
                case "rejects":
                    await asyncio.sleep(0.002)
                    raise ServiceErrorResponse("inventory", 503, "down")
                case "hangs":
                    await asyncio.sleep(FOREVER)
                case _:
                    raise ConnectionRefusedError
        latency = self.latency * self.rng.uniform(0.5, 1.5)
        left = self.down[0] - now()
        if self.outage == "is killed" and 0 <= left < latency:
            await asyncio.sleep(left)
            raise ConnectionResetError
        await asyncio.sleep(latency)
        return value


def enrich(service: Service, count: int) -> tuple[Summary, float, list[Any]]:
    """Send numbers through a flow that calls a service, and return its summary, its seconds and the timers left."""

    async def main() -> tuple[Summary, float, list[Any]]:
        flow = Flow("orders").map_async(service)
        summary = await flow.start(from_iterable(range(count)), DiscardResults()).finished
        return summary, now(), [*timers(), *others()]

    with capture_logs():
        return run(main())


def probes_of(inventory: Inventory, since: float) -> list[float]:
    return [call for call in inventory.down_calls if call > since]


@pytest.mark.parametrize(
    ("outage", "count", "attempts", "way"),
    [
        *itertools.product(["refuses"], [8000], [1, 3], [by_task]),
        *itertools.product(["hangs", "is killed", "rejects"], [4000], [1, 3], [by_task]),
        *itertools.product(["refuses", "hangs", "is killed", "rejects"], [4000], [3], [Directly]),
    ],
)
def test_an_outage_of_a_minute_fails_no_more_than_what_was_in_flight(
    outage: str, count: int, attempts: int, way: Any
) -> None:
    """Those that fail until it opens, those in flight then, and the probes. All others wait, and succeed afterwards."""
    inventory = Inventory(outage, (1.0, 61.0))
    service = Service("inventory", way(inventory), timeout=2, attempts=attempts, rng=random.Random(1))
    summary, seconds, left = enrich(service, count)
    assert service.statistics().opened == 1
    probes = len(probes_of(inventory, 3.5))
    assert probes <= 60
    bound = MAX_IN_FLIGHT + FAILURES + probes
    assert len(inventory.down_calls) <= bound
    assert summary.ok + summary.failed == summary.received == count
    assert summary.failed <= (bound if attempts == 1 else FAILURES)
    assert seconds < 6 + 60 * 1.3 + count * 0.15 / MAX_IN_FLIGHT * 1.2
    assert left == []


def orders(latencies: list[tuple[float, float]], runs: int, count: int, attempts: int, max_in_flight: int) -> Service:
    """Send orders, a third of which fail by design, from several runs at once. Return the service."""

    async def call(value: int) -> int:
        ok, failed = latencies[value % len(latencies)]
        seconds = ok if value % 3 else failed
        if seconds:
            await asyncio.sleep(seconds)
        if value % 3 == 0:
            raise ServiceErrorResponse("inventory", 503, "Inventory unavailable")
        return value

    service = Service("inventory", call, attempts=attempts, max_in_flight=max_in_flight, rng=random.Random(1))

    async def main() -> list[Summary]:
        flow = Flow("orders").map_async(service)
        started = [flow.start(from_iterable(range(count)), DiscardResults()) for _ in range(runs)]
        return [await each.finished for each in started]

    with capture_logs():
        for summary in run(main()):
            assert (summary.ok, summary.failed) == (count - -(-count // 3), -(-count // 3))
    return service


LATENCIES = st.sampled_from([0.0, 0.001, 0.05, 0.1, 0.15, 2.0, 7.0]) | st.floats(0, 5)


@given(
    latencies=st.lists(st.tuples(LATENCIES, LATENCIES), min_size=1, max_size=40),
    runs=st.sampled_from([1, 1, 2, 4, 25, 40]),
    attempts=st.integers(1, 3),
    max_in_flight=st.sampled_from([1, 3, 20, 64, 256]),
)
@settings(max_examples=30, deadline=None, phases=[Phase.explicit, Phase.generate])
def test_the_sample_orders_never_open_it(
    latencies: list[tuple[float, float]], runs: int, attempts: int, max_in_flight: int
) -> None:
    """A third of the calls of each run are rejected, sooner or later than the others are answered, and repeated."""
    service = orders(latencies, runs, 400 if runs == 1 else 40, attempts, max_in_flight)
    assert service.statistics().opened == 0


@pytest.mark.parametrize(
    "latency", [(0.15, 0.15), (0.15, 0.001), (0.001, 0.15), (0.0, 0.15), (0.15, 0.0), (0.001, 9.0)]
)
@pytest.mark.parametrize(("runs", "attempts"), [(1, 2), (64, 2), (64, 1)])
def test_the_sample_orders_never_open_it_with_equal_latencies(
    latency: tuple[float, float], runs: int, attempts: int
) -> None:
    """Calls that start together end together: 85 rejections of one run in one iteration, or one of each of 64 runs."""
    service = orders([latency], runs, 3000 if runs == 1 else 30, attempts, MAX_IN_FLIGHT)
    assert service.statistics().opened == 0


# Waiting


class Down:
    """A service that can be taken down, and counts its calls."""

    def __init__(self, error: Callable[[], Exception] = ConnectionRefusedError, seconds: float = 0.01) -> None:
        self.error, self.seconds = error, seconds
        self.is_down = True
        self.calls: list[Any] = []

    async def __call__(self, value: Any) -> Any:
        self.calls.append(value)
        await asyncio.sleep(self.seconds)
        if self.is_down:
            raise self.error()
        return value


def test_a_call_waits_for_max_open_wait_and_no_longer() -> None:
    """Each from when it was submitted, or from when the breaker opened. Then it fails without an attempt."""
    down = Down()
    service = Service(
        "s", down, max_in_flight=1, breaker=Breaker(failures=2, open=900, max_open=900, max_open_wait=100)
    )

    async def main() -> None:
        asking = Asking(service)
        asking.ask(0, 1, 2, 3, 4, 5)
        await asyncio.sleep(50)
        asking.ask("late")
        await asking.all()
        expired = {
            value: answer for value, answer in asking.answers.items() if isinstance(answer.error, ServiceUnavailable)
        }
        assert down.calls == [0, 1]
        assert list(expired) == [2, 3, 4, 5, "late"]
        assert asking.times[5] == pytest.approx(100.02, abs=0.1)
        assert asking.times["late"] == pytest.approx(150, abs=0.1)
        for answer in expired.values():
            assert answer.attempts == 0
            assert answer.error.waited == pytest.approx(100)
            assert str(answer.error).startswith("s is down; ")
            assert not answer.error.retryable
        assert service.is_open
        await asking.queue.aclose()
        assert [*timers(), *others()] == []

    with capture_logs() as logs:
        run(main())
    assert [log["event"] for log in logs].count("service.waits_expired") == 2
    assert [log["event"] for log in logs].count("service.breaker_opened") == 1


def test_many_calls_that_have_waited_too_long_do_not_hold_the_event_loop() -> None:
    """They fail in shares, one in each iteration, also if each was submitted at another time."""
    down, shares = Down(), list[int]()
    service = Service("s", down, max_in_flight=1, breaker=Breaker(failures=1, open=900, max_open=900))

    async def main() -> None:
        queue = service.open_queue(lambda calls, _: shares.append(len(calls)))
        queue.submit([Job(0)])
        await asyncio.sleep(1)
        for number in range(4000):
            queue.submit([Job(number)])
            await asyncio.sleep(0.001)
        began = time.perf_counter()
        assert queue.expire_held(now(), lambda since: ServiceUnavailable("s", now() - since)) == 4000
        assert time.perf_counter() - began < 0.5
        await asyncio.sleep(1)
        await queue.aclose()

    with capture_logs():
        run(main())
    assert sum(shares) == 4001
    assert max(shares) <= EXPIRED_SHARE


def test_probes_that_cannot_be_cancelled_are_replaced() -> None:
    """After two timeouts others are made, so that calls do not wait for them for ever."""
    down, probes = Down(), list[int]()

    async def call(value: int) -> int:
        if not down.is_down and len(probes) < 3:
            probes.append(value)
            while len(probes) < 4:
                try:
                    await asyncio.sleep(FOREVER)
                except asyncio.CancelledError:
                    pass
        return int(await down(value))

    service = Service("s", call, max_in_flight=8, timeout=2, breaker=Breaker(failures=5, open=1))

    async def main() -> None:
        asking = Asking(service)
        asking.ask(*range(20))
        await asyncio.sleep(0.5)
        down.is_down = False
        await asyncio.sleep(10)
        found = len(probes), len(asking.answers), service.statistics().breaker
        probes.append(-1)  # they return when they are cancelled next
        await asking.all()
        assert found == (3, 17, "closed")
        await asking.queue.aclose()

    with capture_logs():
        run(main())


def test_a_run_that_ends_while_it_is_open_leaves_nothing_and_the_next_run_waits() -> None:
    """The breaker stays open without a timer. A later run makes its probes."""
    down = Down()
    service = Service("s", down, breaker=Breaker(failures=3, open=10))

    async def main() -> None:
        first = Asking(service)
        first.ask(*range(500))
        await asyncio.sleep(1)
        assert service.is_open
        made = len(down.calls)
        await first.queue.aclose()
        assert [*timers(), *others()] == []
        await asyncio.sleep(3)
        down.is_down = False
        second = Asking(service)
        second.ask("a", "b")
        await asyncio.sleep(3)
        assert len(down.calls) == made, "calls wait"
        await second.all()
        assert 7 < now() < 11
        assert not service.is_open
        await second.queue.aclose()
        assert [*timers(), *others()] == []

    with capture_logs():
        run(main())


def test_another_event_loop_tries_the_service_anew() -> None:
    """The times of the loop that ended have no meaning in it."""
    down = Down()
    service = Service("s", down, max_in_flight=1, breaker=Breaker(failures=3, open=1000, max_open=1000))

    async def main(seconds: float) -> bool:
        asking = Asking(service)
        asking.ask(*range(5))
        await asyncio.sleep(seconds)
        is_open = service.is_open
        await asking.queue.aclose()
        return is_open

    with capture_logs():
        assert run(main(1))
        down.is_down = False
        assert not run(main(1))
    assert len(down.calls) == 3 + 5


def test_probes_are_few_also_if_calls_do_not_wait_and_the_limit_doubles_afterwards() -> None:
    """One task could make 1,024 such calls at once."""
    calls: list[float] = []
    up_at = 20.0

    async def call(value: int) -> int:
        calls.append(now())
        if now() < up_at:
            raise ConnectionError
        if now() < up_at + 30:
            await asyncio.sleep(1)
        return value

    service = Service("s", call, max_in_flight=64, breaker=Breaker(open=1, max_open=4))

    async def main() -> list[int]:
        asking = Asking(service)
        asking.ask(*range(5000))
        limits: list[int] = []
        await asyncio.sleep(20)
        while service.statistics().breaker != "closed":
            await asyncio.sleep(0.1)
        for _ in range(6):
            limits.append(service.statistics().limit)
            await asyncio.sleep(1)
        await asking.all()
        await asking.queue.aclose()
        return limits

    with capture_logs():
        limits = run(main())
    down = [at for at in calls if at < up_at]
    assert down.count(0.0) == 20
    assert max(down.count(at) for at in down if at > 0) == 3
    assert limits[0] <= 5
    assert all(after <= 2 * before + 3 for before, after in itertools.pairwise(limits))
    assert limits[-1] == 64


def test_retry_after_lengthens_the_opening() -> None:
    """Also that of a call that was in flight. The wait is not added to that of the breaker."""
    down = Down(lambda: ServiceErrorResponse("s", 503, "", 30.0))
    service = Service("s", down, breaker=Breaker(failures=5, open=1))

    async def main() -> None:
        asking = Asking(service)
        asking.ask(*range(50))
        await asyncio.sleep(1)
        down.is_down = False
        made = len(down.calls)
        await asyncio.sleep(28)
        assert service.is_open
        assert service.statistics().next_probe_seconds == pytest.approx(1.01, abs=0.02)
        asking.ask(50)
        await asking.all()
        assert made == 50
        assert now() == pytest.approx(30.03, abs=0.05)
        await asking.queue.aclose()

    with capture_logs():
        run(main())


def test_runs_share_the_probes() -> None:
    """A small run is not stuck behind a large one while the service comes back."""
    down = Down()
    service = Service("s", down, max_in_flight=4, breaker=Breaker(failures=3, open=1, max_open=1, probes=2))

    async def main() -> None:
        large, small = Asking(service), Asking(service)
        large.ask(*[("large", number) for number in range(200)])
        await asyncio.sleep(0.5)
        small.ask(*[("small", number) for number in range(3)])
        await asyncio.sleep(2)
        assert any(value[0] == "small" for value in down.calls)
        down.is_down = False
        await small.all()
        assert len(large.answers) < 50
        await large.all()
        await asyncio.gather(large.queue.aclose(), small.queue.aclose())

    with capture_logs():
        run(main())


@pytest.mark.parametrize(
    ("error", "breaker", "opens"),
    [
        (lambda: ValueError("an order"), Breaker(), False),
        (lambda: KeyError("declared"), Breaker(errors=(LookupError,)), True),
        (TimeoutError, Breaker(), True),
        (BrokenPipeError, Breaker(), True),
        (lambda: FileNotFoundError("a file"), Breaker(), False),
        (lambda: ServiceErrorResponse("s", 404, ""), Breaker(), False),
        (lambda: ServiceErrorResponse("s", 429, ""), Breaker(), True),
        (lambda: ServiceErrorResponse("s", 408, ""), Breaker(), True),
        (lambda: ServiceErrorResponse("s", 500, ""), Breaker(), True),
        (lambda: ServiceErrorResponse("s", 500, ""), None, False),
        (lambda: ServiceErrorResponse("s", None, "an item"), Breaker(), False),
        (lambda: InvalidItem("not sent"), Breaker(), False),
        (lambda: Odd(), Breaker(errors=(LookupError,)), False),
    ],
)
def test_which_errors_count(error: Callable[[], Exception], breaker: Breaker | None, opens: bool) -> None:
    """Those that say that the service is down, and none of those that are about one element."""
    down = Down(error)
    service = Service("s", down, breaker=breaker)
    _take(service, 40)
    assert service.statistics().opened == opens
    assert (len(down.calls) < 40 * 2) or not opens


class Odd(Exception):
    """An error whose attribute cannot be read."""

    @property
    def service_fault(self) -> None:
        raise RuntimeError


def _accept_none(_: BaseException) -> bool:
    return False


def _raise(error: BaseException) -> bool:
    raise RuntimeError from error


@pytest.mark.parametrize("retry_on", [_accept_none, _raise])
def test_errors_that_are_not_retryable_do_not_count(retry_on: Callable[[BaseException], bool]) -> None:
    """`retry_on` decides; one with a bug accepts none."""
    service = Service("s", Down(), retry_on=retry_on)
    _take(service, 40)
    assert service.statistics().opened == 0


def _take(service: Service, count: int) -> None:
    async def main() -> None:
        asking = Asking(service)
        asking.ask(*range(count))
        await asking.all()
        await asking.queue.aclose()

    with capture_logs():
        run(main())


def test_a_failure_rate_opens_it() -> None:
    """When so many of the last calls failed, with successes in between."""

    def opens(failing: int, breaker: Breaker) -> int:
        async def call(value: int) -> int:
            if value % 10 < failing:
                raise ConnectionError
            return value

        service = Service("s", call, max_in_flight=4, breaker=breaker)
        _take(service, 300)
        return service.statistics().opened

    assert opens(9, Breaker(failure_rate=0.8)) > 0
    assert opens(7, Breaker(failure_rate=0.8)) == 0
    assert opens(9, Breaker()) == 0, "nine in a row are too few"


def test_options_are_checked() -> None:
    """Each with its name and what is expected."""
    cases: list[tuple[dict[str, Any], str]] = [
        ({"failures": 0}, "failures: expected an integer >= 1, got 0"),
        ({"failures": 5, "failure_rate": 0.5}, "failures and failure_rate exclude each other: remove one"),
        ({"failure_rate": 80}, "failure_rate: expected a number > 0 and <= 1, got 80"),
        ({"window": 10}, "window is for failure_rate: add failure_rate, or remove window"),
        ({"open": 0}, "open: expected a number of seconds > 0, got 0"),
        ({"open": 90}, "max_open: expected a number of seconds >= 90 (open), got 60.0"),
        ({"probes": 1.5}, "probes: expected an integer >= 1, got 1.5"),
    ]
    for options, says in cases:
        with pytest.raises(ValueError, match=re.escape(f"breaker: {says}")):
            Breaker(**options)
    with pytest.raises(TypeError, match="errors: expected exception classes, got 'OSError'"):
        Breaker(errors=("OSError",))  # type: ignore[arg-type]


def test_a_breaker_belongs_to_the_identity_of_a_service() -> None:
    """And stays when a test replaces the function."""
    strict = Service("s", len, breaker=Breaker(failures=1))
    assert strict != Service("s", len)
    assert strict == Service("s", len, breaker=Breaker(failures=1))
    assert strict.with_function(max).breaker == Breaker(failures=1)
    assert Service("s", len, breaker=None).statistics().breaker == "none"


@both_ways
@given(
    faults=st.lists(
        st.sampled_from(["ok", "ok", "refuse", "at once", "503", "hang", "bug", "slow"]), min_size=1, max_size=30
    ),
    outages=st.lists(st.tuples(st.floats(0, 300), st.floats(0, 100)), max_size=3),
    attempts=st.integers(1, 3),
    breaker=st.sampled_from([Breaker(), Breaker(failures=2, probes=1), Breaker(failure_rate=0.5, max_open_wait=20)]),
    stop=st.none() | st.floats(0.01, 200),
)
@settings(max_examples=40, deadline=None)
def test_whatever_happens_every_element_ends_and_nothing_is_left(
    way: Any, faults: list[str], outages: list[tuple[float, float]], attempts: int, breaker: Breaker, stop: float | None
) -> None:
    """Under random faults and outages, with a run beside it that is cancelled at some time."""

    async def call(value: int) -> int:
        fault = faults[value % len(faults)]
        if any(begin <= now() < begin + seconds for begin, seconds in outages):
            fault = "refuse"
        if fault == "at once":
            raise ConnectionRefusedError
        await asyncio.sleep(FOREVER if fault == "hang" else 5 if fault == "slow" else 0.1)
        if fault == "refuse":
            raise ServiceUnreachable("s", "refused")
        if fault == "503":
            raise ServiceErrorResponse("s", 503, "")
        if fault == "bug":
            raise ValueError(value)
        return value

    limits = {"max_in_flight": 7, "timeout": 8, "attempts": attempts}
    service = Service("s", way(call), **limits, breaker=breaker, rng=random.Random(2))

    async def main() -> None:
        flow = Flow("f").map_async(service)
        kept = flow.start(from_iterable(range(100)), DiscardResults())
        other = flow.start(from_iterable(range(100)), DiscardResults())
        if stop is not None:
            await asyncio.sleep(stop)
            other.abort()
        summary, stopped = await kept.finished, await other.finished
        assert summary.received == 100 == summary.ok + summary.failed
        assert stopped.received == stopped.ok + stopped.failed + stopped.cancelled
        assert [timer for timer in timers() if timer.when() < DAY] == []
        statistics = service.statistics()
        assert (statistics.in_flight, statistics.waiting) == (0, 0)

    with capture_logs():
        run(within(DAY, main()))
