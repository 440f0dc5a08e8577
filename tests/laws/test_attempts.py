"""Attempts, the waits between them, and the rate at which they are made."""

from __future__ import annotations

import asyncio
import itertools
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from laws.test_services import Asking, answers_of, echo
from penstock import Flow, from_iterable
from penstock.results import DiscardResults
from penstock.services import NONE, Backoff, CallFailed, Service
from penstock.testing import run


@given(attempts=st.integers(1, 6), failures=st.integers(0, 8))
def test_a_call_is_attempted_so_often_and_no_more(attempts: int, failures: int) -> None:
    """The answer of the first attempt that works, or the error of the last."""
    tried = 0

    async def call(value: int) -> int:
        nonlocal tried
        tried += 1
        if tried <= failures:
            raise ValueError(tried)
        return value

    async def main() -> Any:
        service = Service("s", call, attempts=attempts, backoff=NONE)
        (answer,) = await answers_of(service, 7)
        assert service.statistics().retries == tried - 1
        assert sum(service.statistics().results.values()) == tried
        return answer

    answer = run(main())
    if failures < attempts:
        assert answer == 7
    else:
        assert (type(answer), answer.attempts, answer.error.args) == (CallFailed, attempts, (attempts,))


def test_an_error_that_is_not_retryable_is_final() -> None:
    """What says of itself that another attempt is no use gets none."""

    class Final(Exception):
        retryable = False

    async def call(value: int) -> None:
        raise Final

    (failed,) = run(answers_of(Service("s", call, attempts=5), 1))
    assert failed.attempts == 1


def test_no_place_is_held_while_backing_off() -> None:
    """While one call waits for its next attempt, others are made in its place."""

    async def call(value: str) -> Any:
        if value == "bad":
            raise ValueError
        return await echo(value)

    async def main() -> None:
        backoff = Backoff(first=100, factor=1, cap=100)
        service = Service("s", call, max_in_flight=1, attempts=2, backoff=backoff, rng=Highest())
        asking = Asking(service)
        asking.ask("bad", "a", "b")
        await asyncio.sleep(50)
        assert (asking.order, service.statistics().in_flight, service.statistics().waiting) == (["a", "b"], 0, 1)
        await asking.all()
        assert asking.times["bad"] == pytest.approx(100)
        await asking.queue.aclose()

    run(main())


class Highest(random.Random):
    """Chance that always takes the most."""

    def uniform(self, a: float, b: float) -> float:
        return b


@pytest.mark.parametrize(("asked", "wait"), [(3.0, 3.0), (1_000.0, 10.0), (None, 0.0)])
def test_retry_after_is_kept_within_the_cap(asked: float | None, wait: float) -> None:
    """An error that says when to come back is believed, up to the backoff's cap."""

    class Busy(Exception):
        retry_after = asked

    times: list[float] = []

    async def call(value: int) -> int:
        times.append(asyncio.get_running_loop().time())
        if len(times) == 1:
            raise Busy
        return value

    assert run(answers_of(Service("s", call, attempts=2, backoff=Backoff(first=0, cap=10)), 1)) == [1]
    assert times[1] - times[0] == pytest.approx(wait)


@given(first=st.floats(0, 1e6), factor=st.floats(1, 1e300), cap=st.floats(0, 1e6), attempt=st.integers(1, 200))
def test_a_backoff_is_never_beyond_its_cap(first: float, factor: float, cap: float, attempt: int) -> None:
    """Whatever the numbers, a wait is between 0 and the cap."""
    for asked in (None, 0.0, 5.0, float("inf")):
        assert 0 <= Backoff(first, factor, cap).seconds(attempt, random.Random(0), asked) <= cap


def test_the_error_of_an_attempt_does_not_name_that_of_the_one_before() -> None:
    """Each attempt fails for a reason of its own; the one before is no cause of it."""

    async def refuse(value: int) -> None:
        raise ValueError(f"no {value}")

    async def main() -> list[Any]:
        asking = Asking(Service("refuse", refuse, attempts=3, backoff=NONE))
        asking.ask(1)
        answers = await asking.all()
        await asking.queue.aclose()
        return answers

    [failed] = run(main())
    assert (failed.attempts, failed.error.__cause__, failed.error.__context__) == (3, None, None)


@pytest.mark.parametrize("runs", [1, 3])
def test_a_rate_holds_over_all_runs_and_attempts(runs: int) -> None:
    """Calls come no nearer to each other than the rate allows, whoever asks, first attempts and further ones."""
    at: list[float] = []

    async def call(value: int) -> int:
        at.append(asyncio.get_running_loop().time())
        if value == 1 and len(at) < 6:
            raise ConnectionError
        return value

    async def main() -> None:
        service = Service("s", call, rate=10, attempts=9, backoff=NONE)
        flow = Flow[int]("f").map_async(service)
        sinks = [DiscardResults() for _ in range(runs)]
        started = [flow.start(from_iterable(range(4)), sink) for sink in sinks]
        summaries = [await one.finished for one in started]
        assert sum(summary.ok for summary in summaries) == 4 * runs

    run(main())

    assert min(later - earlier for earlier, later in itertools.pairwise(at)) >= 0.1 - 1e-9
    assert max(at) <= 0.1 * (len(at) + 2)


def test_a_rate_wastes_no_moment() -> None:
    """Calls follow each other as fast as the rate allows, and when the last one is made nothing waits any more."""
    at: list[float] = []

    async def call(value: int) -> int:
        at.append(asyncio.get_running_loop().time())
        await asyncio.sleep(value / 4)
        return value

    async def main() -> float:
        service = Service("s", call, rate=10)
        for _ in range(2):
            await Flow[int]("f").map_async(service).start(from_iterable([1, 0, 0, 0, 1]), DiscardResults()).finished
        return asyncio.get_running_loop().time()

    assert run(main()) == pytest.approx(1.3)
    assert at == pytest.approx([start + place / 10 for start in (0, 0.65) for place in range(5)])


def test_nobody_waits_for_a_rate_in_vain() -> None:
    """A run that is broken off does not wait for the moment of a call that nobody wants any more."""

    async def call(value: int) -> int:
        await asyncio.sleep(1)
        return value

    async def main() -> tuple[int, float]:
        run_ = (
            Flow[int]("f")
            .map_async(Service("s", call, rate=1 / 3600))
            .start(from_iterable([1, 2, 3]), DiscardResults())
        )
        await asyncio.sleep(5)
        run_.abort()
        return (await run_.finished).cancelled, asyncio.get_running_loop().time()

    assert run(main()) == (2, 5.0)
