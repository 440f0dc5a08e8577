"""The laws of calls without a task, beside those that hold for all calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from structlog.testing import capture_logs

from laws.asking import Asking, answers_of, others
from laws.calling import Directly, Started
from penstock import Breaker, Flow, Service, from_iterable
from penstock.core.deadlines import remaining_seconds
from penstock.errors import InvalidItem
from penstock.services import NONE, CallFailed
from penstock.services.direct_calls import ITERATION_SHARE, DirectFunction
from penstock.services.pacing import Pacer
from penstock.support.tasks import Report
from penstock.testing import VirtualTimeLoop, run


def now() -> float:
    return asyncio.get_running_loop().time()


class AtOnce(DirectFunction):
    """Reports before `start` returns, or raises."""

    def __init__(self, call: Callable[[Any], Any]) -> None:
        self._call = call
        self.calls = 0

    def start(self, value: Any, on_result: Report[Any]) -> None:
        self.calls += 1
        on_result(self._call(value), None)


class Slow(DirectFunction):
    """Needs 2 ms of the event loop to start a call, which ends 40 ms later."""

    def __init__(self) -> None:
        self.calls = 0

    def start(self, value: Any, on_result: Report[Any]) -> None:
        self.calls += 1
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        loop.spend(0.002)
        loop.call_later(0.04, on_result, value, None)


class Paced:
    """Asks for a pause with its third response. Counts the tasks of its service in each call."""

    def __init__(self) -> None:
        self.pacer = Pacer()
        self.began: list[float] = []

    async def __call__(self, value: int) -> int:
        self.began.append(now())
        await asyncio.sleep(0.5)
        if value == 2:
            self.pacer.pause(10, now())
        return value


def test_no_task_is_started() -> None:
    """Not even one that starts the calls."""

    async def main() -> tuple[Any, set[Any]]:
        service = Service("s", AtOnce(lambda value: value + 1))
        service.retain()
        results = await answers_of(service, *range(5))
        left = others()
        service.release()
        return results, left

    assert run(main()) == ([1, 2, 3, 4, 5], set())


def test_calls_wait_as_the_service_asks_and_go_on_afterwards() -> None:
    """A pause is a matter of tasks. No call is lost or made twice when it begins and when it ends."""
    paced = Paced()

    async def main() -> list[Any]:
        service = Service("s", Directly(paced), max_in_flight=4, breaker=None)
        results = await answers_of(service, *range(20))
        assert (service.statistics().in_flight, others()) == (0, set())
        return results

    with capture_logs() as logs:
        assert run(main()) == list(range(20))
    assert [entry["event"] for entry in logs] == ["service.paced"]
    assert [round(began, 3) for began in paced.began] == sorted([0.0] * 4 + [10.5 + 0.5 * (n // 4) for n in range(16)])


def test_many_calls_that_end_at_once_do_not_hold_the_event_loop() -> None:
    """Others get their turn after so many."""

    async def main() -> tuple[int, int]:
        function = AtOnce(lambda value: value)
        asking = Asking(Service("s", function, max_in_flight=9))
        asking.ask(*range(3 * ITERATION_SHARE))
        await asyncio.sleep(0)
        first = function.calls
        await asking.all()
        await asking.queue.aclose()
        return first, function.calls

    assert run(main()) == (ITERATION_SHARE, 3 * ITERATION_SHARE)


def test_calls_that_take_long_to_start_do_not_hold_the_event_loop() -> None:
    """And each has its whole timeout: the time in which others are started is not part of it."""

    async def main() -> tuple[int, list[Any]]:
        function = Slow()
        asking = Asking(Service("s", function, timeout=0.055))
        asking.ask(*range(100))
        await asyncio.sleep(0)
        first = function.calls
        await asking.all()
        await asking.queue.aclose()
        return first, [asking.answers[value] for value in range(100)]

    first, results = run(main())
    assert first < 10
    assert results == list(range(100))


def test_a_call_whose_queue_closes_while_it_starts_is_cancelled() -> None:
    """A function that makes a request from a value may end the run."""
    asking: Asking

    async def forever(value: Any) -> None:
        await asyncio.Event().wait()

    class Closes(Directly):
        def start(self, value: Any, on_result: Report[Any]) -> Started:
            asking.queue.close()
            return super().start(value, on_result)

    async def main() -> tuple[int, int, set[Any]]:
        nonlocal asking
        asking = Asking(service := Service("s", Closes(forever)))
        asking.ask(1)
        await asyncio.sleep(1)
        statistics = service.statistics()
        return statistics.in_flight, statistics.results["cancelled"], others()

    assert run(main()) == (0, 1, set())


def test_a_task_that_is_cancelled_twice_waits_for_the_end_of_its_call() -> None:
    """Otherwise more than `max_in_flight` calls would be in flight."""
    ended: list[float] = []

    async def call(value: int) -> None:
        for _ in range(2):
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
        await asyncio.sleep(1)
        ended.append(now())

    async def main() -> float:
        task = asyncio.ensure_future(Directly(call)(7))
        for _ in range(2):
            await asyncio.sleep(5)
            task.cancel()
        await asyncio.wait((task,))
        assert task.cancelled()
        return now()

    assert [run(main())] == ended == [11]


def test_no_call_starts_while_the_event_loop_ends() -> None:
    """Those in flight, whose tasks it cancels, are cancelled: they have not failed."""
    called: list[int] = []

    async def forever(value: int) -> None:
        called.append(value)
        await asyncio.Event().wait()

    service = Service("s", Directly(forever), max_in_flight=2, attempts=3, backoff=NONE)

    async def main() -> None:
        Asking(service).ask(1, 2, 3)
        await asyncio.sleep(1)

    run(main())
    assert called == [1, 2]
    assert {result: count for result, count in service.statistics().results.items() if count} == {"cancelled": 2}


def test_an_error_before_the_call_starts_is_one_of_its_element() -> None:
    """The next ones are called."""

    def call(value: int) -> int:
        if value == 1:
            raise InvalidItem("it cannot be sent")
        return value

    first, second, third = run(answers_of(Service("s", AtOnce(call), attempts=3, retry_on=lambda _: False), 0, 1, 2))
    assert (first, third) == (0, 2)
    assert isinstance(second, CallFailed)
    assert (str(second.error), second.attempts) == ("it cannot be sent", 1)


def test_a_service_that_fails_before_calls_start_opens_its_breaker() -> None:
    """Also if 256 calls fail in one iteration of the event loop, no more of them are made than count."""

    def call(value: int) -> int:
        raise ConnectionRefusedError(value)

    async def main() -> tuple[int, str]:
        function = AtOnce(call)
        asking = Asking(service := Service("s", function, breaker=Breaker(failures=20, open=60)))
        asking.ask(*range(256))
        await asyncio.sleep(1)
        state = service.statistics().breaker
        await asking.queue.aclose()
        return function.calls, state

    with capture_logs():
        assert run(main()) == (20, "open")


@pytest.mark.parametrize("attempts", [1, 3])
def test_an_exit_ends_the_run_and_not_an_element(attempts: int) -> None:
    """As with any other function."""

    def call(value: int) -> int:
        raise SystemExit(value)

    async def main() -> None:
        asking = Asking(Service("s", AtOnce(call), attempts=attempts))
        asking.ask(7)
        await asyncio.sleep(1)

    with pytest.raises(SystemExit) as exited:
        run(main())
    assert exited.value.code == 7


def test_fewer_calls_are_in_flight_when_its_share_shrinks() -> None:
    """Of those of all processes; and more when it grows."""
    most: list[int] = []

    async def call(value: int) -> int:
        most.append(service.statistics().in_flight)
        await asyncio.sleep(1)
        return value

    service = Service("s", Directly(call), max_in_flight=8)

    async def main() -> float:
        service.bulkhead.share = 2
        asking = Asking(service)
        asking.ask(*range(20))
        await asyncio.sleep(2.5)
        service.bulkhead.share = 7
        await asking.all()
        await asking.queue.aclose()
        return now()

    assert run(main()) == pytest.approx(5)  # two start at 0, 1, 2, 3 and 4 s, and five more at 2.5 and 3.5 s
    assert max(most[:6]) == 2
    assert max(most) == 7


def test_a_deadline_is_that_of_its_own_call() -> None:
    """Calls of a run without deadlines have none after those of a run with deadlines."""
    given: list[float | None] = []

    async def call(value: Any) -> Any:
        given.append(remaining_seconds())
        return value

    async def main() -> None:
        service = Service("s", Directly(call))
        await Flow[Any]("limited").map_async(service).deadline(5).run(from_iterable([1]))
        await Flow[Any]("unlimited").map_async(service).run(from_iterable([2]))

    run(main())
    assert given == [pytest.approx(5), None]
