"""The laws of a service, in virtual time."""

from __future__ import annotations

import asyncio
import gc
import itertools
import random
import threading
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextvars import ContextVar
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from laws.asking import FOREVER, Asking, Job, answers_of, echo, others
from laws.calling import both_ways
from penstock import Flow, from_iterable
from penstock.results import DiscardResults
from penstock.runtime import Summary
from penstock.services import CallFailed, CallQueue, Service
from penstock.services.call_task import QUEUE_SHARE
from penstock.testing import run
from waiting import HANG_SECONDS

# At most so many at once


@both_ways
@given(width=st.integers(1, 7), queues=st.lists(st.integers(1, 30), min_size=1, max_size=4), seed=st.integers(0, 9))
def test_never_more_calls_than_max_in_flight(way: Any, width: int, queues: list[int], seed: int) -> None:
    """Over all queues, with failures, retries and timeouts, no more than `max_in_flight` calls are under way."""
    chance = random.Random(seed)
    under_way = most = 0

    async def call(value: Any) -> Any:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        try:
            await asyncio.sleep(chance.choice([0, 0.5, 1, 3]))
            if chance.random() < 0.3:
                raise ValueError(value)
            return value
        finally:
            under_way -= 1

    async def main() -> None:
        service = Service("s", way(call), max_in_flight=width, timeout=2, attempts=3, rng=chance)
        asked = [list(range(count)) for count in queues]
        await asyncio.gather(*(answers_of(service, *values) for values in asked))
        assert (service.statistics().in_flight, service.statistics().waiting, others()) == (0, 0, set())

    run(main())
    assert under_way == 0
    assert most <= width


@both_ways
def test_all_places_are_used(way: Any) -> None:
    """While calls wait, no place stays empty: 10 calls of 1 s, 5 at once, take 2 s."""

    async def main() -> float:
        await answers_of(Service("s", way(echo), max_in_flight=5), *range(10))
        return asyncio.get_running_loop().time()

    assert run(main()) == pytest.approx(2)


# In turn


@both_ways
def test_queues_are_served_in_turn(way: Any) -> None:
    """A small queue is not stuck behind a large one: when calls wait, each queue has its turn call by call."""
    made: list[str] = []

    async def call(value: tuple[str, int]) -> None:
        made.append(value[0])
        await asyncio.sleep(1)

    async def main() -> None:
        service = Service("s", way(call), max_in_flight=1)
        large, small, third = Asking(service), Asking(service), Asking(service)
        large.ask(*[("large", number) for number in range(100)])
        await asyncio.sleep(0.5)
        small.ask(*[("small", number) for number in range(3)])
        third.ask(*[("third", number) for number in range(3)])
        await small.all()
        await third.all()
        assert len(large.answers) <= 4
        for asking in (large, small, third):
            await asking.queue.aclose()

    run(main())
    assert made[:7] == ["large", "large", "small", "third", "large", "small", "third"]


def test_calls_that_never_wait_are_made_in_shares() -> None:
    """Lanes whose calls do not wait have turns too, of several calls each; one that runs dry leaves the line."""
    made: list[str] = []

    async def at_once(value: tuple[str, int]) -> None:
        made.append(value[0])

    async def main() -> None:
        service = Service("s", at_once)
        queues = {name: Asking(service) for name in "abc"}
        for (name, asking), count in zip(queues.items(), (3 * QUEUE_SHARE, 5, 2 * QUEUE_SHARE), strict=True):
            asking.ask(*[(name, number) for number in range(count)])
        async with asyncio.timeout(1):
            for asking in queues.values():
                await asking.all()
                await asking.queue.aclose()

    run(main())
    shares = [(name, len(list(calls))) for name, calls in itertools.groupby(made)]
    assert shares == [
        ("a", QUEUE_SHARE),
        ("b", 5),
        ("c", QUEUE_SHARE),
        ("a", QUEUE_SHARE),
        ("c", QUEUE_SHARE),
        ("a", QUEUE_SHARE),
    ]


def test_calls_that_never_wait_leave_the_loop_its_turn() -> None:
    """A service that answers at once does not keep the event loop for itself."""

    async def at_once(value: int) -> int:
        return value

    async def main() -> int:
        asking = Asking(Service("s", at_once))
        asking.ask(*range(10_000))
        turns = 0
        while len(asking.answers) < 10_000:
            await asyncio.sleep(0)
            turns += 1
        await asking.queue.aclose()
        return turns

    assert run(main()) >= 5


# Kept between runs


@both_ways
def test_a_call_that_refuses_to_end_holds_no_place_of_a_kept_service(way: Any) -> None:
    """A run that leaves such a call behind leaves its place too: the next run is served."""

    async def call(value: int) -> int:
        if value == 1:
            try:
                await asyncio.sleep(FOREVER)
            finally:
                await asyncio.sleep(FOREVER)
        return value

    async def main() -> tuple[list[int], set[asyncio.Task[Any]]]:
        service = Service("s", way(call), max_in_flight=1)
        service.retain()
        stuck = Asking(service)
        stuck.ask(1)
        await asyncio.sleep(1)
        await stuck.queue.aclose()
        answers = await answers_of(service, 2, 3)
        service.release()
        await asyncio.sleep(0)
        return answers, others()

    with capture_logs() as logs:
        assert run(main()) == ([2, 3], set())
    assert [(entry["event"], entry["calls"]) for entry in logs] == [("service.calls_not_cancelled", 1)]


def test_callers_that_others_cancelled_are_replaced() -> None:
    """Whoever cancels all tasks between two runs, as fixtures of tests do, does not leave a dead pool."""

    async def main() -> list[list[int]]:
        service = Service("s", echo)
        service.retain()
        answers: list[list[int]] = []
        for _ in range(2):
            answers.append(await answers_of(service, 1, 2))
            callers = others()
            for caller in callers:
                caller.cancel()
            await asyncio.gather(*callers, return_exceptions=True)
        service.release()
        return answers

    assert run(main()) == [[1, 2], [1, 2]]


def test_a_service_is_kept_until_the_last_one_lets_go() -> None:
    """Two supervisors of one service do not take its callers from each other."""

    async def main() -> list[int]:
        service = Service("s", echo)
        service.retain()
        service.retain()
        await answers_of(service, 1, 2)
        left: list[int] = []
        for _ in range(2):
            service.release()
            await asyncio.sleep(0)
            left.append(len(others()))
        return left

    assert run(main()) == [2, 0]


# Leaving


@both_ways
@given(seed=st.integers(0, 99), at=st.floats(0, 6), width=st.integers(1, 8))
def test_a_queue_that_closes_leaves_nothing_and_hurts_nobody(way: Any, seed: int, at: float, width: int) -> None:
    """Closing at any moment cancels that queue's calls, no other's, and no answer comes after it."""
    chance = random.Random(seed)
    under_way: Counter[str] = Counter()
    told: list[dict[str, Any]] = []

    async def call(value: tuple[str, int]) -> Any:
        under_way[value[0]] += 1
        try:
            await asyncio.sleep(chance.choice([0, 0.5, 2]))
            if chance.random() < 0.3:
                raise ValueError
            return value
        finally:
            under_way[value[0]] -= 1

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context))
        service = Service("s", way(call), max_in_flight=width, timeout=1, attempts=2, rng=chance)
        leaving, staying = Asking(service), Asking(service)
        leaving.ask(*[("leaving", number) for number in range(20)])
        staying.ask(*[("staying", number) for number in range(20)])
        await asyncio.sleep(at)
        await leaving.queue.aclose()
        assert (under_way["leaving"], leaving.queue.waiting) == (0, 0)
        seen = len(leaving.order)
        leaving.ask(("leaving", 99))
        await staying.all()
        assert len(leaving.order) == seen
        await staying.queue.aclose()
        assert (others(), service.statistics().in_flight, service.statistics().waiting) == (set(), 0, 0)
        await asyncio.sleep(100)  # whatever was left would show itself now

    run(main())
    assert told == []


@both_ways
def test_cancelled_calls_are_counted_as_such(way: Any) -> None:
    """A call cut short by its run's end is neither an error nor a timeout."""

    async def main() -> dict[str, int]:
        service = Service("s", way(echo), max_in_flight=3)
        asking = Asking(service)
        asking.ask(*range(10))
        await asyncio.sleep(0.5)
        await asking.queue.aclose()
        await asking.queue.aclose()
        return service.statistics().results

    assert run(main()) == {"ok": 0, "error": 0, "timeout": 0, "cancelled": 3}


def test_answers_that_nobody_waits_for_are_counted() -> None:
    """Calls that swallow their cancelling have ended well, whoever left; no call is in no account."""

    async def deaf(value: Any) -> Any:
        try:
            await asyncio.sleep(FOREVER)
        except asyncio.CancelledError:
            return value

    async def main() -> dict[str, int]:
        service = Service("s", deaf)
        asking = Asking(service)
        asking.ask(*range(5))
        await asyncio.sleep(0.5)
        await asking.queue.aclose()
        return service.statistics().results

    assert run(main()) == {"ok": 5, "error": 0, "timeout": 0, "cancelled": 0}


def test_a_queue_that_closes_with_failures_counts_each_call_once() -> None:
    """Those that failed in the same turn, and one that swallows its cancelling."""

    async def deaf(value: str) -> str:
        if value == "bad":
            raise ValueError
        try:
            await asyncio.sleep(FOREVER)
        except asyncio.CancelledError:
            return value
        return value

    async def main() -> dict[str, int]:
        service = Service("s", deaf)
        asking = Asking(service)
        asking.ask("bad", "bad", "good")
        while not asking.queue.failed:
            await asyncio.sleep(0)
        await asking.queue.aclose()
        await asyncio.sleep(1)
        return service.statistics().results

    assert run(main()) == {"ok": 1, "error": 2, "timeout": 0, "cancelled": 0}


def test_a_service_serves_one_event_loop_after_another() -> None:
    """Nothing of a loop stays in a service once its queues are closed."""
    service = Service("s", echo, max_in_flight=2, timeout=5)
    assert [run(answers_of(service, 1, 2, 3)), run(answers_of(service, 4, 5, 6))] == [[1, 2, 3], [4, 5, 6]]


@both_ways
def test_a_loop_that_ended_without_closing_its_queues_does_not_spoil_the_next(way: Any) -> None:
    """A run that was abandoned with its loop (Ctrl-C in a script) leaves the service usable."""
    service = Service("s", way(echo), max_in_flight=2, timeout=5)

    async def abandon() -> None:
        Asking(service).ask(1, 2, 3)
        await asyncio.sleep(0.5)

    run(abandon())
    assert run(answers_of(service, 4, 5, 6)) == [4, 5, 6]
    assert (service.statistics().in_flight, service.statistics().waiting) == (0, 0)


# What calls may do without harm


def test_a_call_that_ends_cancelled_by_itself_is_a_failure() -> None:
    """`CancelledError` out of a call that nobody cancelled (a future of its own was) fails its element alone."""

    async def call(value: int) -> int:
        if value == 1:
            future = asyncio.get_running_loop().create_future()
            future.cancel()
            await future
        return value

    async def main() -> None:
        service = Service("s", call, max_in_flight=1)
        first, second, third = await answers_of(service, 0, 1, 2)
        assert (first, type(second), third, service.statistics().in_flight) == (0, CallFailed, 2, 0)

    run(main())


@pytest.mark.parametrize("bad", ["retry_on", "retry_after"])
def test_a_policy_that_breaks_fails_the_element_and_not_the_service(bad: str) -> None:
    """When it cannot be told whether or when to try again, there is no further attempt."""

    class Odd(Exception):
        retry_after = "soon"

    async def call(value: int) -> None:
        raise Odd if bad == "retry_after" else ValueError

    def broken(error: BaseException) -> bool:
        raise RuntimeError("a bug in retry_on")

    async def main() -> None:
        kwargs: dict[str, Any] = {"retry_on": broken} if bad == "retry_on" else {}
        service = Service("s", call, max_in_flight=1, attempts=2, **kwargs)
        answers = await answers_of(service, 1, 2)
        assert [type(answer) for answer in answers] == [CallFailed, CallFailed]
        assert service.statistics().in_flight == 0

    run(main())


def test_an_error_in_done_is_loud_and_stops_nobody() -> None:
    """A bug in what takes the answers is told to the event loop's handler; other queues go on."""
    told: list[dict[str, Any]] = []

    def broken(jobs: Sequence[Any], answers: Sequence[Any]) -> None:
        raise RuntimeError("a bug in done")

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context))
        service = Service("s", echo, max_in_flight=1)
        queue = service.open_queue(broken)
        queue.submit([Job(1), Job(2)])
        assert await answers_of(service, 3, 4) == [3, 4]
        await queue.aclose()

    run(main())
    assert {str(context["exception"]) for context in told} == {"a bug in done"}


def test_calls_do_not_inherit_the_context_of_another_run() -> None:
    """Workers are shared, so a call must not see the context variables of the run that happened to start them."""
    owner: ContextVar[str] = ContextVar("owner", default="nobody")

    async def call(value: Any) -> str:
        return owner.get()

    async def main() -> None:
        service = Service("s", call, max_in_flight=1)

        async def first() -> CallQueue:
            owner.set("first")
            asking = Asking(service)
            asking.ask(1)
            await asking.all()
            return asking.queue

        queue = await asyncio.create_task(first())
        assert await answers_of(service, 2) == ["nobody"]
        await queue.aclose()

    run(main())


def test_an_idle_caller_keeps_nothing_alive() -> None:
    """Once a run has left, neither its elements nor its queue hang on in a caller that others keep alive."""

    async def fail(value: Any) -> None:
        raise ValueError

    async def main() -> None:
        service = Service("s", fail, max_in_flight=1)
        keeper = service.open_queue(lambda jobs, answers: None)
        asking = Asking(service)
        job = Job(1)
        asking.queue.submit([job])
        await asyncio.sleep(1)
        await asking.queue.aclose()
        traces: list[weakref.ref[Any]] = [weakref.ref(job), weakref.ref(asking)]
        del job, asking
        gc.collect()
        assert [trace() for trace in traces] == [None, None]
        await keeper.aclose()

    run(main())


def test_blocking_calls_have_as_many_threads_as_may_be_in_flight() -> None:
    """They are in flight together, so their timeouts count no waiting; nor do those of another service."""
    together = threading.Barrier(40)

    async def main() -> tuple[Summary, Summary]:
        one, other = (
            Flow[int]("f").map_async(
                Service(name, lambda _: together.wait(HANG_SECONDS), blocking=True, max_in_flight=20, timeout=90)
            )
            for name in ("one", "other")
        )
        runs = [flow.start(from_iterable(range(20)), DiscardResults()) for flow in (one, other)]
        first, second = [await run.finished for run in runs]
        return first, second

    assert [summary.ok for summary in asyncio.run(main())] == [20, 20]


def test_blocking_calls_run_in_threads() -> None:
    """A plain function that blocks does not hold up the event loop. (Threads need a loop in real time.)"""
    service = Service("s", lambda value: (value, threading.current_thread() is threading.main_thread()), blocking=True)
    assert asyncio.run(answers_of(service, 1)) == [(1, False)]


async def several(value: Any) -> AsyncIterator[Any]:
    yield value


@pytest.mark.parametrize(
    ("call", "blocking", "reason"),
    [(5, False, "got 5"), (several, False, "one response"), (echo, True, "leave out blocking=True")],
)
def test_a_service_of_what_gives_no_answer_is_refused(call: Any, blocking: bool, reason: str) -> None:
    """It would answer with a coroutine or a generator, which nobody awaits."""
    with pytest.raises(TypeError, match=reason):
        Service("s", call, blocking=blocking)


@pytest.mark.parametrize(
    "wrong", [{"max_in_flight": 0}, {"attempts": 0}, {"timeout": 0}, {"timeout": -1}, {"timeout": float("nan")}]
)
def test_a_service_without_bounds_is_refused(wrong: dict[str, Any]) -> None:
    """Every wait has an end and every bound is at least one."""
    with pytest.raises(ValueError, match=r"service s: .*: expected"):
        Service("s", echo, **wrong)
