"""The laws of deadlines: no call starts after the deadline of its element, and each element is settled in time."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from laws.calling import Directly, by_task
from laws.virtual import quiet, results, timers
from penstock import (
    Backoff,
    Breaker,
    Failed,
    Flow,
    Otherwise,
    Service,
    When,
    from_async_iterable,
    from_iterable,
    remaining_seconds,
)
from penstock.core.deadlines import RunDeadline
from penstock.core.element import Path, path_of
from penstock.deadletters import DeadLetterQuery, MemoryStore
from penstock.errors import CallTimeout, DeadlineExceeded, ServiceErrorResponse
from penstock.results import DiscardResults
from penstock.runtime import Run, Summary
from penstock.services import NONE
from penstock.services.call_queue import EXPIRED_SHARE
from penstock.services.pacing import Pacer

SECONDS = st.floats(0.001, 5)


def now() -> float:
    return asyncio.get_running_loop().time()


class Times:
    """When elements were emitted, and when calls for them started."""

    def __init__(self, seed: int, *, fails: bool = True) -> None:
        self.rng = random.Random(seed)
        self.fails = fails
        self.emitted: dict[int, float] = {}
        self.calls: list[tuple[int, float]] = []
        self.given: list[float] = []

    def mark(self, value: dict[str, Any]) -> None:
        """Called by the first step."""
        self.emitted[value["id"]] = now()

    async def call(self, value: dict[str, Any]) -> dict[str, Any]:
        await self.respond([value])
        return value

    async def call_many(self, values: list[dict[str, Any]]) -> list[dict[str, Any]]:
        await self.respond(values)
        return values

    async def respond(self, values: list[dict[str, Any]]) -> None:
        self.calls += [(value["id"], now()) for value in values]
        remaining = remaining_seconds()
        assert remaining is not None
        self.given.append(remaining)
        if delay := self.rng.choice([0.0, 0.0, 0.3, 1.0, 4.0]):
            await asyncio.sleep(delay)
        if self.fails and self.rng.random() < 0.3:
            raise OSError("down")


class Settled(DiscardResults):
    """Takes results with their times."""

    def __init__(self) -> None:
        super().__init__()
        self.times: dict[Path, float] = {}
        self.failures: dict[Path, Any] = {}

    def on_next(self, value: list[Any]) -> None:
        for element in value:
            place = path_of(element)
            assert place not in self.times, "settled twice"
            self.times[place] = now()
            self.failures[place] = element.failure
        super().on_next(value)


async def paced(pauses: list[float]) -> AsyncIterator[dict[str, Any]]:
    for number, pause in enumerate(pauses):
        if pause:
            await asyncio.sleep(pause)
        yield {"id": number, "parts": [{"id": number}] * (number % 3)}


@st.composite
def services(draw: st.DrawFn, call: Any) -> Service:
    backoff = draw(st.sampled_from([NONE, Backoff(), Backoff(first=1.0)]))
    way = draw(st.sampled_from([by_task, Directly]))
    return Service(
        "s",
        way(call),
        max_in_flight=draw(st.integers(1, 4)),
        timeout=draw(SECONDS),
        attempts=draw(st.integers(1, 4)),
        backoff=backoff,
        rate=draw(st.sampled_from([None, None, 2.0])),
        retry_on=lambda error: True,
        rng=random.Random(draw(st.integers(0, 9))),
    )


KINDS = ["map_async", "ordered", "enrich", "batch", "flat_map", "throttle", "route"]


@st.composite
def with_steps(draw: st.DrawFn, flow: Flow[Any], times: Times, kinds: list[str]) -> Flow[Any]:
    for kind in draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=3)):
        one = draw(services(times.call))
        match kind:
            case "map_async" | "ordered":
                flow = flow.map_async(one, ordered=kind == "ordered")
            case "enrich":
                flow = flow.enrich({"a": one, "b": draw(services(times.call))})
            case "batch":
                max_wait = draw(st.sampled_from([0.02, 10.0]))
                flow = flow.batch(draw(services(times.call_many)), size=3, max_wait=max_wait)
            case "flat_map":
                flow = flow.flat_map(lambda value: value.get("parts", [value])).map_async(one)
            case "throttle":
                flow = flow.throttle(2.0)
            case _:
                odd = When(lambda value: value["id"] % 2, lambda branch, one=one: branch.map_async(one))
                flow = flow.route({"odd": odd, "even": Otherwise()})
    return flow


def run_of(flow: Flow[Any], pauses: list[float], at: float | None) -> tuple[Summary, Settled]:
    async def main() -> tuple[Summary, Settled]:
        deadline = None if at is None else RunDeadline(at, now() + at)
        settled = Settled()
        summary = await Run(flow.plan(), from_async_iterable(paced(pauses)), settled, deadline=deadline).finished
        await asyncio.sleep(0)
        assert len(timers()) == 1, "only that of the test"
        return summary, settled

    return quiet(main())


@given(data=st.data())
def test_no_call_starts_after_a_deadline_and_each_element_is_settled_once(data: st.DataObject) -> None:
    """Whatever the steps, faults and deadlines are."""
    times = Times(data.draw(st.integers(0, 99)))
    each, whole = data.draw(st.sampled_from([(1.5, None), (None, 2.5), (1.5, 2.5), (0.3, 20.0)]))
    flow = Flow[Any]("f").tap(times.mark)
    flow = data.draw(with_steps(flow, times, KINDS))
    flow = flow if each is None else flow.deadline(each)
    pauses = data.draw(st.lists(st.sampled_from([0.0, 0.0, 0.2, 1.1]), min_size=1, max_size=15))
    summary, _ = run_of(flow, pauses, whole)
    assert (summary.reason, summary.error) == ("completed", None)
    assert summary.received == len(pauses) == summary.ok + summary.failed + summary.filtered
    ends = float("inf") if whole is None else whole
    for number, start in times.calls:
        assert start < min(times.emitted[number] + (each or ends), ends) + 1e-9
    assert all(seconds > 0 for seconds in times.given)


@given(data=st.data())
def test_an_element_that_waits_fails_at_its_deadline(data: st.DataObject) -> None:
    """And not when its turn comes: no result is later than the deadline."""
    times = Times(data.draw(st.integers(0, 99)))
    each, whole = data.draw(st.sampled_from([(1.5, None), (None, 2.5), (1.5, 2.5)]))
    flow = data.draw(with_steps(Flow[Any]("f").tap(times.mark), times, ["map_async", "enrich", "route"]))
    flow = flow if each is None else flow.deadline(each)
    pauses = data.draw(st.lists(st.sampled_from([0.0, 0.0, 0.2, 1.1]), min_size=1, max_size=15))
    _, settled = run_of(flow, pauses, whole)
    ends = float("inf") if whole is None else whole
    arrived = 0.0
    for number, pause in enumerate(pauses):
        arrived += pause
        deadline = min(arrived + (each or ends), max(ends, arrived))
        assert settled.times[number,] <= deadline + 1e-3


async def outcomes(flow: Flow[Any], items: AsyncIterator[Any]) -> dict[int, str]:
    """When the elements of a flow were settled, and how."""
    found: dict[int, str] = {}
    async for result in flow.stream(from_async_iterable(items)):
        found[result.seq] = f"{now():g} {result.failure.type if isinstance(result, Failed) else 'ok'}"
    return found


def failures(flow: Flow[Any], values: list[Any]) -> list[Any]:
    """The failures of a flow in the order of its input; None for a success."""
    return [result.failure if isinstance(result, Failed) else None for result in results(flow, values, ordered=True)]


async def wait(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


def test_an_attempt_is_shortened() -> None:
    """To the time that remains. The message says the deadline and where it passed."""
    flow = Flow[Any]("f").map_async(Service("s", wait, timeout=60)).deadline(2)
    (failure,) = failures(flow, [5])
    assert (failure.step, failure.type, failure.attempts) == ("s", "DeadlineExceeded", 1)
    assert failure.message == "s: the deadline of 2 s passed while it was called"


def test_a_call_in_time_is_left_alone() -> None:
    """Just before the deadline."""
    assert failures(Flow[Any]("f").map_async(wait).deadline(2), [1.999, 2.001])[0] is None


def test_a_shorter_timeout_stays_a_timeout() -> None:
    """With no time for another attempt. The breaker counts it: the service had all the time that it may take."""
    flow = Flow[Any]("f").map_async(Service("s", wait, timeout=1)).deadline(2)
    assert failures(flow, [5])[0].type == "CallTimeout"


def test_an_attempt_after_a_timeout_is_shortened() -> None:
    """The timer of the timeouts is set to the deadline again."""
    service = Service("s", wait, timeout=1, attempts=3, backoff=NONE)

    async def main() -> tuple[Summary, float]:
        return await Flow[Any]("f").map_async(service).deadline(1.5).run(from_iterable([5])), now()

    summary, seconds = quiet(main())
    assert (summary.failed, seconds) == (1, 1.5)


def test_a_retry_that_would_be_late_is_not_made() -> None:
    """The element fails at once, with the error as the cause."""
    attempts: list[float] = []

    async def down(value: Any) -> Any:
        attempts.append(now())
        raise ServiceErrorResponse("s", 503, "busy", retry_after=3)

    flow = Flow[Any]("f").map_async(Service("s", down, attempts=9, backoff=Backoff(cap=60))).deadline(7)
    (failure,) = failures(flow, [1])
    assert attempts == [0, 3, 6]
    assert (failure.type, failure.attempts) == ("DeadlineExceeded", 3)
    assert failure.message == "s: the deadline of 7 s passes before it can be called again"
    assert failure.cause == "ServiceErrorResponse: s responded 503 busy"


def test_a_retry_that_waits_in_line_fails_at_the_deadline() -> None:
    """Its attempts and the error of the last one are not lost."""
    calls: list[tuple[Any, float]] = []

    async def once(value: float) -> float:
        calls.append((value, now()))
        if value == 1:
            raise OSError("down")
        return await wait(value)

    flow = Flow[Any]("f").map_async(Service("s", once, max_in_flight=1, attempts=3, backoff=Backoff(first=1e-6)))
    first, other = failures(flow.deadline(2), [1, 5])
    assert calls == [(1, 0), (5, 0)]
    assert (first.type, first.attempts, first.cause) == ("DeadlineExceeded", 1, "OSError: down")
    assert first.message == "s: the deadline of 2 s passed before it was called"
    assert other.attempts == 1


@pytest.mark.parametrize("how", ["slots", "rate", "pacer"])
def test_waiting_for_a_service_ends_at_the_deadline(how: str) -> None:
    """For a slot, for the rate, or because the service asked for a wait."""

    class Function:
        pacer = Pacer()

        async def __call__(self, value: float) -> float:
            if how == "pacer":
                self.pacer.pause(30, now())
            return await wait(30 if how == "slots" else 0.5)

    service = Service("s", Function(), max_in_flight=1, rate=0.1 if how == "rate" else None)

    async def main() -> tuple[list[str], float]:
        found = [
            result.failure.message if isinstance(result, Failed) else "ok"
            async for result in Flow[Any]("f").map_async(service).deadline(2).stream(from_iterable([1, 2, 3]))
        ]
        return sorted(found), now()

    found, seconds = quiet(main())
    waited = ["s: the deadline of 2 s passed before it was called"] * 2
    assert found == sorted([*waited, "ok" if how != "slots" else "s: the deadline of 2 s passed while it was called"])
    assert seconds == pytest.approx(2, abs=0.01)


def test_an_open_breaker_holds_calls_until_their_deadlines() -> None:
    """Attempts that end at a deadline do not open it: they say nothing about the service."""

    async def down(value: float) -> float:
        if value:
            return await wait(value)
        raise ServiceErrorResponse("s", 503, "down")

    service = Service("s", down, max_in_flight=1, breaker=Breaker(failures=2, open=60))

    async def main() -> tuple[list[tuple[str, float]], int, int]:
        flow = Flow[Any]("f").map_async(service).deadline(2)
        await flow.run(from_iterable([5] * 9))
        at_deadlines = service.statistics().opened
        found: list[tuple[str, float]] = []
        start = now()
        async for result in flow.stream(from_iterable([0.0] * 4)):
            assert isinstance(result, Failed)
            found.append((result.failure.type, now() - start))
        return found, at_deadlines, service.statistics().opened

    found, at_deadlines, opened = quiet(main())
    assert (at_deadlines, opened) == (0, 1)
    assert found == [("ServiceErrorResponse", 0), ("ServiceErrorResponse", 0), *[("DeadlineExceeded", 2)] * 2]


def test_many_that_expire_at_once_do_not_hold_the_event_loop() -> None:
    """They fail in shares, one in each iteration."""
    shares: list[int] = []

    class Counted(DiscardResults):
        def on_next(self, value: list[Any]) -> None:
            shares.append(len(value))
            super().on_next(value)

    flow = Flow[Any]("f").window(5000).map_async(Service("s", wait, max_in_flight=1)).deadline(1)
    summary = quiet(flow.run(from_iterable([9.0] * 5000), Counted()))
    assert (summary.failed, summary.seconds) == (5000, pytest.approx(1, abs=0.01))
    assert max(shares) <= EXPIRED_SHARE + 1
    assert len(shares) < 10


def test_one_element_of_a_batch_does_not_fail_others() -> None:
    """Expired elements are left out of the call, which may take until the latest deadline of the others."""
    calls: list[tuple[list[int], float, float | None]] = []

    async def many(values: list[int]) -> list[int]:
        calls.append((values, now(), remaining_seconds()))
        await asyncio.sleep(1.5)
        return values

    async def items() -> AsyncIterator[int]:
        for number in range(4):
            yield number
            await asyncio.sleep(0.5)

    service = Service("s", many, max_in_flight=1)

    async def main() -> dict[int, str]:
        return await outcomes(Flow[Any]("f").batch(service, size=2, max_wait=60).deadline(2.2), items())

    assert quiet(main()) == {0: "2 ok", 1: "2 ok", 2: "3.5 ok", 3: "3.5 ok"}
    assert [(values, start) for values, start, _ in calls] == [([0, 1], 0.5), ([2, 3], 2.0)]
    assert calls[1][2] == pytest.approx(1.7), "the deadline of 3"


def test_an_element_that_waits_for_its_batch_fails_at_its_deadline() -> None:
    """The others wait on."""
    calls: list[list[int]] = []

    async def many(values: list[int]) -> list[int]:
        calls.append(values)
        return values

    async def items() -> AsyncIterator[int]:
        yield 0
        await asyncio.sleep(2.1)
        yield 1
        await asyncio.sleep(0.4)
        yield 2

    async def main() -> dict[int, str]:
        return await outcomes(Flow[Any]("f").batch(many, size=2, max_wait=60).deadline(2), items())

    assert quiet(main()) == {0: "2 DeadlineExceeded", 1: "2.5 ok", 2: "2.5 ok"}
    assert calls == [[1, 2]]


def test_an_element_of_a_batch_that_waits_for_the_service_fails_at_its_deadline() -> None:
    """The others are called without it."""
    calls: list[tuple[list[str], float]] = []

    async def many(values: list[str]) -> list[str]:
        calls.append((values, now()))
        await asyncio.sleep(3 if values == ["x"] else 0.1)
        return values

    async def items() -> AsyncIterator[str]:
        yield "a"
        await asyncio.sleep(1)
        yield "b"

    service = Service("s", many, max_in_flight=1)

    async def main() -> dict[int, str]:
        busy = asyncio.ensure_future(Flow[Any]("g").batch(service, size=1, max_wait=1).run(from_iterable(["x"])))
        await asyncio.sleep(0)
        found = await outcomes(Flow[Any]("f").batch(service, size=2, max_wait=60).deadline(2.5), items())
        await busy
        return found

    assert quiet(main()) == {0: "2.5 DeadlineExceeded", 1: "3.1 ok"}
    assert calls == [(["x"], 0), (["b"], 3)]


def test_parts_inherit_the_deadline_of_their_element() -> None:
    """It does not start again."""
    flow = Flow[Any]("f").map_async(wait, name="first").flat_map(lambda value: [value, 2 * value], name="parts")
    flow = flow.map_async(wait, name="second").deadline(2.5)
    found = results(flow, [1])
    assert sorted(result.failure.message if isinstance(result, Failed) else "ok" for result in found) == [
        "ok",
        "second: the deadline of 2.5 s passed while it was called",
    ]


def test_an_element_in_a_step_without_calls_fails_at_the_next_service() -> None:
    """No call is made for it."""
    calls: list[int] = []

    async def call(value: int) -> int:
        calls.append(value)
        return value

    found = failures(Flow[Any]("f").throttle(1).map_async(call).deadline(2.5), [0, 1, 2, 3, 4])
    assert calls == [0, 1, 2]
    assert [failure and failure.attempts for failure in found] == [None, None, None, 0, 0]


def test_items_received_after_the_deadline_of_the_run_fail_at_once() -> None:
    """With their keys, without calls, and the run ends as completed."""
    calls: list[int] = []

    async def call(value: dict[str, int]) -> dict[str, int]:
        calls.append(value["id"])
        return value

    flow = Flow[Any]("f", key="id").map_async(call)
    summary, settled = run_of(flow, [0.0, 1.0, 1.0, 1.0], 1.5)
    assert (summary.reason, summary.ok, summary.failed) == ("completed", 2, 2)
    assert calls == [0, 1]
    late = settled.failures[2,]
    assert (late.step, late.type, late.attempts) == ("source", "DeadlineExceeded", 0)
    assert late.message == "source: the deadline of 1.5 s passed before the item was received"


def test_the_error_is_final() -> None:
    """Also for a `retry_on` that repeats everything."""
    assert not DeadlineExceeded("s", 2, "passed").retryable
    assert CallTimeout("s", 2).service == "s"


def test_the_remaining_time_is_known_in_a_thread_and_unknown_without_a_deadline() -> None:
    """Runs share the tasks of a service, but not their deadlines."""
    seen: list[tuple[str, float | None]] = []

    async def ask(value: str) -> None:
        seen.append((value, remaining_seconds()))
        await asyncio.sleep(0.5)

    def ask_in_thread(value: str) -> str:
        assert threading.current_thread() is not threading.main_thread()
        seen.append((value, remaining_seconds()))
        return value

    service = Service("s", ask, max_in_flight=1)

    async def main() -> None:
        with_deadline, without = Flow[Any]("a").map_async(service).deadline(3), Flow[Any]("b").map_async(service)
        await asyncio.gather(with_deadline.run(from_iterable(["a"] * 2)), without.run(from_iterable(["b"] * 2)))
        await Flow[Any]("c").map_async(Service("t", ask_in_thread, blocking=True)).deadline(9).run(from_iterable(["c"]))

    quiet(main())
    assert sorted(seen, key=str) == [("a", 2.0), ("a", 3.0), ("b", None), ("b", None), ("c", 9.0)]
    assert remaining_seconds() is None


def test_a_deadline_that_passed_is_not_that_of_the_next_call() -> None:
    """The same task makes both."""
    seen: list[float | None] = []

    async def ask(value: float) -> None:
        seen.append(remaining_seconds())
        await asyncio.sleep(value)

    service = Service("s", ask, max_in_flight=1)

    async def main() -> None:
        both = Flow[Any]("a").map_async(service).deadline(1), Flow[Any]("b").map_async(service)
        await asyncio.gather(*(flow.run(from_iterable([5.0])) for flow in both))

    quiet(main())
    assert seen == [1.0, None]


def test_a_call_that_ignores_its_cancelling_is_cancelled_again_after_the_timeout() -> None:
    """And not in every iteration of the event loop."""
    cancels: list[float] = []

    async def stubborn(value: int) -> int:
        while len(cancels) < 3:
            try:
                await asyncio.sleep(1000)
            except asyncio.CancelledError:
                cancels.append(now())
        return value

    flow = Flow[Any]("f").map_async(Service("s", stubborn, timeout=10)).deadline(2)
    assert failures(flow, [1]) == [None]
    assert cancels == [2, 12, 22]


def test_a_dead_letter_is_stored_and_its_redrive_has_a_new_deadline() -> None:
    """The deadline of a flow counts from the moment an element is emitted, in each run."""
    store = MemoryStore()

    async def main() -> tuple[Summary, Summary, list[Any]]:
        slow = Flow[Any]("f").map_async(wait, name="s").deadline(2).dead_letters(store)
        first, second = await slow.run(from_iterable([3])), await slow.run(from_iterable([1.5]))
        return first, second, list((await store.page(DeadLetterQuery())).letters)

    first, second, (letter,) = quiet(main())
    assert (first.failed, second.ok) == (1, 1)
    assert (letter.step, letter.type, letter.attempts) == ("s", "DeadlineExceeded", 1)


@pytest.mark.parametrize("seconds", [0, -1, float("inf"), float("nan")])
def test_a_deadline_is_a_time(seconds: float) -> None:
    """Above 0, and not endless: leave it out for none."""
    with pytest.raises(ValueError, match="deadline: expected a number of seconds > 0"):
        Flow("f").deadline(seconds)
