"""The adaptive limit: it settles where a service is used and not overloaded, whatever the service does when it is."""

from __future__ import annotations

import asyncio
import random
from itertools import pairwise
from typing import Any

import pytest

from laws.asking import Asking, others
from laws.degrading import SECONDS, Callers, FixedLimit, Server
from laws.virtual import quiet
from penstock import AdaptiveLimit, Flow, Service, from_iterable
from penstock.errors import ServiceErrorResponse
from penstock.orders import orders_flow, sample_order
from penstock.services import NONE
from penstock.services.adaptive_limit import MAX_HOLD, AdaptiveLimiter

BEST = 40 / SECONDS
"""Successes a second with the best fixed limit."""

OVERLOADS = ["queues", "slows down", "rejects", "hangs"]


def adaptive(server: Server, **limits: int) -> Callers:
    return Callers(AdaptiveLimiter(AdaptiveLimit(**limits)), server)


@pytest.mark.parametrize("spread", ["even", "exponential"])
@pytest.mark.parametrize("kind", OVERLOADS)
def test_it_settles_at_the_capacity(kind: str, spread: str) -> None:
    """Nine tenths of what the best fixed limit gives; four fifths if one call too many costs the timeout of all."""
    callers = adaptive(Server(kind, spread=spread))
    callers.run(20)
    throughput = callers.run(MAX_HOLD + 10 if kind == "hangs" else 15)
    assert throughput > BEST * (0.7 if kind == "hangs" else 0.9)
    assert 30 < callers.mean_limit < 65


@pytest.mark.parametrize("kind", ["slows down", "hangs"])
def test_a_fixed_limit_that_is_too_high_is_far_worse(kind: str) -> None:
    """What the adaptive limit is for."""
    assert Callers(FixedLimit(256), Server(kind)).run(20) < BEST / 10


@pytest.mark.parametrize("kind", ["queues", "slows down", "rejects"])
def test_it_follows_the_capacity_within_seconds(kind: str) -> None:
    """Upwards after the limit was held for a while; downwards at once, after calls that time out have ended."""
    server = Server(kind)
    callers = adaptive(server)
    callers.run(20)
    server.capacity = 80
    callers.run(8)
    assert callers.run(5) > 0.85 * 1600
    server.capacity = 20
    callers.run(10)
    assert callers.run(5) > 0.8 * 400


@pytest.mark.parametrize("spread", ["even", "exponential"])
@pytest.mark.parametrize("kind", ["handles all", "fails a third", "rejects a third at once"])
def test_it_climbs_to_the_maximum_while_the_service_is_healthy(kind: str, spread: str) -> None:
    """Also if a third of the elements is rejected by design."""
    callers = adaptive(Server(kind, spread=spread))
    callers.run(14)
    callers.run(2)
    assert callers.mean_limit > 240


def test_a_service_that_became_slower_is_not_throttled_for_long() -> None:
    """Its latency does not depend on the calls in flight, which shows when the limit is halved."""
    server = Server("handles all")
    callers = adaptive(server)
    callers.run(10)
    server.seconds *= 4
    callers.run(10)
    callers.run(5)
    assert callers.mean_limit > 240


def test_a_service_that_begins_to_reject_a_third_is_not_throttled_for_long() -> None:
    """Bad data fails with any limit."""
    server = Server("handles all")
    callers = adaptive(server)
    callers.run(10)
    server.kind = "fails a third"
    callers.run(10)
    callers.run(5)
    assert callers.mean_limit > 240


def test_a_limit_that_is_not_used_does_not_grow() -> None:
    """Nothing is known about more calls than there are."""
    callers = adaptive(Server("handles all"))
    callers.run(20, demand=lambda: 10)
    assert callers.limiter.limit <= 15


def test_a_limit_that_is_hardly_used_does_not_shrink() -> None:
    """It has no part in what goes wrong."""
    server = Server("handles all")
    callers = adaptive(server)
    callers.run(10)
    assert callers.limiter.limit == 256
    callers.run(2, demand=lambda: 100)
    server.kind, server.capacity = "hangs", 0
    callers.run(30, demand=lambda: 100)
    assert callers.limiter.limit == 256


def test_it_stays_within_its_bounds() -> None:
    callers = adaptive(Server("handles all"), min=10, max=20)
    callers.run(10)
    assert callers.limiter.limit == 20
    callers.server.kind, callers.server.capacity = "hangs", 0
    callers.run(60)
    assert 10 <= callers.limiter.limit <= 20


def test_one_decrease_in_a_round_trip() -> None:
    """Calls that began before a decrease do not cause another one."""
    server = Server("queues", 80)
    callers = adaptive(server)
    callers.run(5)
    server.capacity = 10
    decreases: list[float] = []
    while callers.now < 15:
        before = callers.limiter.limit
        callers.run(0.001)
        if callers.limiter.limit < before:
            decreases.append(callers.now)
    assert len(decreases) > 3
    assert all(later - earlier > 2 * SECONDS for earlier, later in pairwise(decreases))


def test_a_single_timeout_proves_nothing() -> None:
    """One call in a thousand hangs, for forty times as long as the others take."""
    server, rng = Server("handles all"), random.Random(1)
    respond = server.respond
    server.respond = lambda now, calls: (  # type: ignore[method-assign]
        (2.0, "timed_out") if rng.random() < 0.001 else respond(now, calls)
    )
    callers = adaptive(server)
    callers.run(10)
    callers.run(10)
    assert callers.mean_limit > 200


def test_a_hundredth_of_timeouts_is_usual_too() -> None:
    """They take a third of the time of all calls. They are as many with any limit."""
    server, rng = Server("handles all"), random.Random(1)
    respond = server.respond
    server.respond = lambda now, calls: (  # type: ignore[method-assign]
        (2.0, "timed_out") if rng.random() < 0.01 else respond(now, calls)
    )
    callers = adaptive(server)
    callers.run(60)
    callers.run(10)
    assert callers.mean_limit > 220


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"min": 0}, "max_in_flight: min: expected an integer >= 1, got 0"),
        ({"max": 1.5}, "max_in_flight: max: expected an integer >= 1, got 1.5"),
        ({"min": 8, "max": 4}, "max_in_flight: max: expected an integer >= 8 (min), got 4"),
    ],
)
def test_invalid_limits(limits: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace(")", r"\)")):
        AdaptiveLimit(**limits)


class Degrading:
    """A service in virtual time that becomes slower beyond 40 calls at once."""

    def __init__(self, capacity: int = 40) -> None:
        self.capacity = capacity
        self.calls = self.peak = 0
        self.rng = random.Random(1)
        self.limit_exceeded = False
        self.service: Service | None = None

    async def __call__(self, value: int) -> int:
        self.calls += 1
        self.peak = max(self.peak, self.calls)
        excess = max(0, self.calls - self.capacity) / self.capacity
        try:
            await asyncio.sleep(0.05 * self.rng.uniform(0.8, 1.2) * (1 + 20 * excess))
        finally:
            self.calls -= 1
        return value


def test_elements_of_a_flow_reach_a_degrading_service_as_fast_as_it_can() -> None:
    """40 at once in 50 ms each: 800 a second. A limit of 256 needs a hundred times as long, and elements time out."""
    degrading = Degrading()
    service = Service("s", degrading, max_in_flight=AdaptiveLimit(), timeout=2, attempts=3)
    flow = Flow[int]("f").map_async(service)

    async def main() -> tuple[Any, float]:
        summary = await flow.run(from_iterable(range(4000)))
        return summary, asyncio.get_running_loop().time()

    summary, seconds = quiet(main())
    assert summary.ok == 4000
    assert seconds < 5 / 0.7
    assert degrading.peak < 80
    statistics = service.statistics()
    assert (statistics.max_in_flight, service.max_in_flight) == (256, 256)
    assert 30 < statistics.limit < 60


def test_no_more_calls_are_in_flight_than_the_limit() -> None:
    """Also while it shrinks: calls that end are not replaced."""
    degrading = Degrading(10)
    service = Service("s", degrading, max_in_flight=AdaptiveLimit(2, 64), timeout=2)
    seen: list[tuple[int, int]] = []
    call = degrading.__call__

    async def counted(value: int) -> int:
        limit = service.statistics().limit
        seen.append((degrading.calls + 1, limit))
        return await call(value)

    service = Service("s", counted, max_in_flight=AdaptiveLimit(2, 64), timeout=2)
    summary = quiet(Flow[int]("f").map_async(service).run(from_iterable(range(3000))))
    assert summary.ok == 3000
    assert len({limit for _, limit in seen}) > 3
    assert all(calls <= limit for calls, limit in seen)


def test_the_sample_orders_use_all_that_is_allowed() -> None:
    """A third of them is rejected with 503, twice. The services are healthy."""

    async def stock(order: dict[str, Any]) -> dict[str, Any]:
        await asyncio.sleep(0.05)
        if order["orderId"] % 3 == 0:
            raise ServiceErrorResponse("inventory", 503, "")
        return {"inStock": True}

    inventory = Service("inventory", stock, max_in_flight=AdaptiveLimit(), attempts=2, backoff=NONE)
    flow = orders_flow(inventory=inventory)
    summary = quiet(flow.run(from_iterable([sample_order(number) for number in range(1, 6001)])))
    assert summary.failed == 2000
    assert inventory.statistics().limit == 256


def test_calls_of_a_run_that_ended_are_forgotten() -> None:
    """They do not count as timeouts, nor as calls in flight of the next run."""

    async def main() -> None:
        service = Service("s", lambda _: asyncio.sleep(1000), max_in_flight=AdaptiveLimit(), timeout=2000)
        service.retain()
        asking = Asking(service)
        asking.ask(*range(20))
        await asyncio.sleep(1)
        assert service.statistics().in_flight == 4
        await asking.queue.aclose()
        assert service.statistics().in_flight == 0
        other = Asking(service)
        other.ask(*range(20))
        await asyncio.sleep(1)
        assert service.statistics().in_flight == 4
        assert service.statistics().limit == 4
        await other.queue.aclose()
        service.release()
        await asyncio.sleep(0)
        assert not others()

    quiet(main())


def test_a_limit_of_one_call_works() -> None:
    """And calls that do not wait are made one after another by one task, as without a limit."""

    async def main() -> int:
        service = Service("s", lambda value: value, max_in_flight=AdaptiveLimit(1, 2))
        asking = Asking(service)
        asking.ask(*range(5000))
        await asking.all()
        tasks = len(service.bulkhead.tasks)
        await asking.queue.aclose()
        return tasks

    assert quiet(main()) <= 2


def test_another_event_loop_starts_anew() -> None:
    """Its clock says nothing about the calls of before."""
    service = Service("s", Degrading(), max_in_flight=AdaptiveLimit(), timeout=2)
    flow = Flow[int]("f").map_async(service)
    quiet(flow.run(from_iterable(range(3000))))
    assert service.statistics().limit > 20

    async def main() -> int:
        asking = Asking(service)
        limit = service.statistics().limit
        await asking.queue.aclose()
        return limit

    assert quiet(main()) == 4


def test_a_blocking_service_has_threads_for_the_maximum() -> None:
    service = Service("s", abs, blocking=True, max_in_flight=AdaptiveLimit(2, 7))
    assert quiet(Flow[int]("f").map_async(service).run(from_iterable(range(50)))).ok == 50
    assert service.max_in_flight == 7
    assert service.adaptive_limit == AdaptiveLimit(2, 7)


def test_services_for_tests_have_the_same_limit() -> None:
    service = Service("s", abs, max_in_flight=AdaptiveLimit(2, 7))
    assert service.with_function(len).adaptive_limit == AdaptiveLimit(2, 7)
    assert service != Service("s", abs, max_in_flight=7)
    assert "AdaptiveLimit(min=2, max=7)" in repr(service)


def test_the_hold_has_an_end() -> None:
    """After a long overload, more is tried after half a minute."""
    server = Server("hangs")
    callers = adaptive(server)
    callers.run(20)
    server.capacity = 2
    callers.run(600)
    server.capacity = 80
    callers.run(MAX_HOLD + 60)
    assert callers.run(10) > 0.7 * 1600
