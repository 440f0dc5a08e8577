"""The law of waiting for services: every call ends in time, and the time of others is not its own."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from laws.asking import FOREVER, Asking, answers_of, echo, others
from laws.calling import both_ways
from penstock.core.fairness import SETTLE_SECONDS
from penstock.errors import CallTimeout
from penstock.services import NONE, Service
from penstock.testing import VirtualTimeLoop, run


@both_ways
@given(starts=st.lists(st.floats(0, 20, allow_nan=False), min_size=1, max_size=12))
def test_a_timeout_is_exact_for_every_call(way: Any, starts: list[float]) -> None:
    """One timer serves all calls, and still each is cut at its own time, whenever it began."""

    async def never(value: Any) -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        service = Service("s", way(never), timeout=5)
        asking = Asking(service)
        loop = asyncio.get_running_loop()
        for number, start in enumerate(starts):
            loop.call_at(start, asking.ask, number)
        await asyncio.sleep(30)
        await asking.all()
        for number, start in enumerate(starts):
            assert asking.times[number] == pytest.approx(start + 5, abs=1e-6)
            assert isinstance(asking.answers[number].error, CallTimeout)
        await asking.queue.aclose()

    run(main())


def test_time_in_line_is_not_time_of_the_call() -> None:
    """A timeout counts from the call, not from its place in line."""

    async def main() -> list[Any]:
        return await answers_of(Service("s", echo, max_in_flight=1, timeout=1.5), *range(20))

    assert run(main()) == list(range(20))


def test_an_answer_in_time_is_not_cut() -> None:
    """A call that ends before its timeout is left alone, and so is the next one of the same caller."""

    async def main() -> list[Any]:
        return await answers_of(Service("s", echo, max_in_flight=2, timeout=1.001), *range(9))

    assert run(main()) == list(range(9))


def test_what_calls_before_it_took_is_not_time_of_a_call() -> None:
    """Calls that do not wait are made in a row, and may keep the loop busy; one that waits has its own time."""

    async def call(value: float) -> float:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        if value < 5:
            loop.spend(0.3)
        else:
            await asyncio.sleep(value - 5)
        return value

    async def main() -> list[Any]:
        return await answers_of(Service("s", call, max_in_flight=1, timeout=1), 1, 2, 3, 4, 5.9, 6.1)

    *answers, late = run(main())
    assert (answers, type(late.error)) == ([1, 2, 3, 4, 5.9], CallTimeout)


@pytest.mark.parametrize("how", ["returns", "raises"])
def test_a_call_that_swallows_its_cancelling_costs_no_caller(how: str) -> None:
    """A call may answer its timeout in its own way; the caller is as good as new after it."""

    async def stubborn(value: int) -> int:
        try:
            await asyncio.sleep(FOREVER)
        except asyncio.CancelledError:
            if how == "raises":
                raise OSError("cut") from None
        return value

    async def main() -> None:
        service = Service("s", stubborn, max_in_flight=1, timeout=1)
        answers = await answers_of(service, 1, 2)
        assert others() == set()
        if how == "returns":
            assert answers == [1, 2]
        else:
            assert [type(answer.error) for answer in answers] == [CallTimeout, CallTimeout]

    run(main())


def test_a_run_does_not_wait_for_a_call_that_swallowed_its_leave() -> None:
    """A call that answers its cancelling in its own way is over when it has; leaving takes no longer than that."""

    async def stubborn(value: int) -> int:
        try:
            await asyncio.sleep(FOREVER)
        except asyncio.CancelledError:
            await asyncio.sleep(1)
        return value

    async def main() -> float:
        service = Service("s", stubborn)
        keeper, asking = service.open_queue(lambda jobs, answers: None), Asking(service)
        asking.ask(1, 2, 3)
        await asyncio.sleep(1)
        start = asyncio.get_running_loop().time()
        await asking.queue.aclose()
        seconds = asyncio.get_running_loop().time() - start
        await keeper.aclose()
        assert (others(), asking.order) == (set(), [])
        return seconds

    assert run(main()) == pytest.approx(1)


def test_a_call_that_ignores_its_timeout_still_ends_with_its_run() -> None:
    """After a swallowed timeout, leaving cancels again: every wait has an end, and nothing is left."""
    calls: list[str] = []

    async def deaf_once(value: int) -> None:
        try:
            await asyncio.sleep(FOREVER)
        except asyncio.CancelledError:
            calls.append("swallowed")
        await asyncio.sleep(FOREVER)

    async def main() -> float:
        asking = Asking(Service("s", deaf_once, timeout=1))
        asking.ask(1)
        await asyncio.sleep(10)
        start = asyncio.get_running_loop().time()
        await asking.queue.aclose()
        assert others() == set()
        return asyncio.get_running_loop().time() - start

    assert run(main()) < 1
    assert calls == ["swallowed"]


def test_a_pause_for_the_rate_makes_no_other_timeout_late() -> None:
    """A caller that waits for its moment begins later; the others are looked after all the same."""
    failed: list[int] = []
    cut: list[float] = []

    async def call(value: int) -> int:
        if value == 0 and not failed:
            failed.append(value)
            await asyncio.sleep(3)
            raise ValueError
        if value == 1:
            began = asyncio.get_running_loop().time()
            try:
                await asyncio.sleep(FOREVER)
            finally:
                cut.append(asyncio.get_running_loop().time() - began)
        return value

    run(answers_of(Service("s", call, rate=0.2, attempts=2, backoff=NONE, timeout=4), 0, 1))

    assert cut == pytest.approx([4, 4])


def test_a_response_that_arrived_during_a_pause_of_the_process_counts() -> None:
    """After a pause timers run before sockets are read: a late timeout waits until they were."""

    async def main() -> list[Any]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)

        async def call(value: Any) -> Any:
            response = loop.create_future()
            # The socket is read one iteration of the loop after the pause.
            loop.call_later(1, lambda: (loop.spend(60), loop.call_later(0.001, response.set_result, value)))
            return await response

        return await answers_of(Service("s", call, timeout=5), "answer")

    assert run(main()) == ["answer"]


def test_a_call_without_a_response_ends_after_a_pause_too() -> None:
    """It is not given another timeout."""

    async def main() -> float:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        loop.call_later(1, loop.spend, 60)

        async def never(value: Any) -> None:
            await asyncio.Event().wait()

        asking = Asking(Service("s", never, timeout=5))
        asking.ask(1)
        await asking.all()
        await asking.queue.aclose()
        return asking.times[1]

    assert run(main()) == pytest.approx(61 + SETTLE_SECONDS, abs=0.01)
