"""Leases: each is answered once, when its element is settled and its dead letter durable, or when the run ends."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from laws.fake_broker import Broker, BrokerSource, Message
from laws.virtual import quiet, timers
from penstock import Backoff, Flow, Service
from penstock.core.leases import Answer
from penstock.deadletters import DeadLetter, MemoryStore
from penstock.results import DiscardResults
from penstock.runtime import Summary

law = settings(max_examples=40, deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])


class Refused(Exception):
    """The service does not like the value."""


class KeptLetters(MemoryStore):
    """Letters in memory, each added after a while."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[DeadLetter] = []

    async def add(self, letters: Sequence[DeadLetter]) -> None:
        await asyncio.sleep(0.3)
        await super().add(letters)
        self.kept += letters


def flow_of(rng: random.Random, *, fails: float, parts: bool, store: Any, seconds: float = 1.0) -> Flow[Any]:
    async def call(value: int) -> int:
        await asyncio.sleep(rng.choice((0.0, rng.uniform(0, seconds))))
        if rng.random() < fails:
            raise Refused
        return value

    flow = Flow("leased").window(8).map_async(Service("s", call, max_in_flight=4, attempts=2, backoff=Backoff(0.01)))
    if parts:
        flow = flow.flat_map(lambda value: range(value % 4))
        flow = flow.map_async(Service("p", call, max_in_flight=4))
    flow = flow.filter(lambda value: value % 5 != 3)
    return flow if store is None else flow.dead_letters(store)


def run_of(
    seed: int,
    event: str | None,
    at: float,
    *,
    fails: float = 0.2,
    parts: bool = False,
    stored: bool = True,
    redeliver: bool = False,
    total: int = 60,
) -> tuple[Broker, BrokerSource, Summary, list[Any], int]:
    """Run the messages of a broker through a flow, and drain or abort the run at a time."""
    rng = random.Random(seed)

    async def main() -> tuple[Broker, BrokerSource, Summary, list[Any], int]:
        broker, store = Broker(total, lease_seconds=2.0), KeptLetters() if stored else None
        source = BrokerSource(broker, redeliver=redeliver)
        run = flow_of(rng, fails=fails, parts=parts, store=store).start(source, DiscardResults())
        timer = asyncio.get_running_loop().call_later(at, getattr(run, event) if event else lambda: None)
        summary = await run.finished
        timer.cancel()
        left = len(asyncio.all_tasks()) - 1 + len(timers()) - 1  # without this task, and the time limit of the test
        letters = [] if store is None else store.kept
        return broker, source, summary, letters, left

    return quiet(main())


runs = st.tuples(
    st.integers(0, 2**32),
    st.sampled_from((None, None, "drain", "abort")),
    st.floats(0, 8),
)


@law
@given(runs, st.booleans(), st.booleans())
def test_every_lease_is_answered_exactly_once(plan: tuple[int, str | None, float], parts: bool, stored: bool) -> None:
    """However the run ends, no lease is left, and none is answered twice; the lessor is closed once, after that."""
    broker, source, _, _, left = run_of(*plan, parts=parts, stored=stored, total=40)

    assert None not in broker.leased.values()
    assert broker.answered_twice == 0
    assert (source.closed, left) == (source.registered, 0)


@law
@given(runs, st.booleans())
def test_done_means_settled_with_its_letter_durable(plan: tuple[int, str | None, float], parts: bool) -> None:
    """A message is answered as done if its element was ok or filtered, or if its letter is stored."""
    _, source, summary, letters, _ = run_of(*plan, parts=parts)
    answers = [answer for _, answer in source.settled]
    stored = {int(letter.input) for letter in letters}

    assert answers.count(Answer.DONE) == summary.ok + summary.filtered + summary.failed
    assert answers.count(Answer.RELEASED) >= summary.cancelled
    assert Answer.FAILED not in answers
    assert len(stored) == summary.failed


@law
@given(runs)
def test_failed_without_a_store_is_delivered_again(plan: tuple[int, str | None, float]) -> None:
    """Without dead letters a failed element is not done: its message comes again until it succeeds or is refused."""
    broker, source, summary, _, _ = run_of(*plan, stored=False, fails=0.4)
    answers = [answer for _, answer in source.settled]
    refused = sum(message.delivery > source.deliveries for message, answer in source.settled if answer is Answer.DONE)

    assert answers.count(Answer.FAILED) == summary.failed - refused
    assert answers.count(Answer.DONE) == summary.ok + summary.filtered + refused
    if summary.reason == "completed":
        assert set(broker.done.values()) == {1}


@law
@given(runs, st.booleans())
def test_redelivered_elements_get_no_letter_until_they_are_refused(
    plan: tuple[int, str | None, float], parts: bool
) -> None:
    """With `redeliver`, only a message that was delivered too often becomes a dead letter, at the step `source`."""
    broker, source, summary, letters, _ = run_of(*plan, redeliver=True, parts=parts, fails=0.7, total=20)

    assert {letter.step for letter in letters} <= {"source"}
    assert all(broker.deliveries[int(letter.input)] == source.deliveries + 1 for letter in letters)
    if summary.reason == "completed":
        assert set(broker.done.values()) == {1}
        assert len(broker.done) == 20


@law
@given(runs)
def test_leases_are_extended_before_they_expire(plan: tuple[int, str | None, float]) -> None:
    """An element may take longer than a lease: the source sees which leases are open, and extends them."""
    rng = random.Random(plan[0])

    async def main() -> Broker:
        broker = Broker(20, lease_seconds=2.0)
        flow = flow_of(rng, fails=0.1, parts=False, store=MemoryStore(), seconds=9.0)
        await flow.start(BrokerSource(broker), DiscardResults()).finished
        return broker

    assert quiet(main()).expired == 0


def test_answers_of_one_iteration_come_together() -> None:
    """The broker is called once for the elements that were settled in one iteration of the event loop."""
    calls: list[int] = []

    class Counting(BrokerSource):
        def settle(self, answers: Any) -> None:
            calls.append(len(answers))
            super().settle(answers)

    async def main() -> None:
        flow = Flow("leased").window(16).map(lambda value: value)
        await flow.start(Counting(Broker(64)), DiscardResults()).finished

    quiet(main())

    assert calls == [16, 16, 16, 16]


@pytest.mark.parametrize("method", ["settle", "close"])
def test_broken_lessor_does_not_stop_the_end(method: str) -> None:
    """What the lessor raises is reported; the run ends, with its accounts."""

    class Broken(BrokerSource):
        def settle(self, answers: Any) -> None:
            super().settle(answers)
            if method == "settle":
                raise ConnectionError("the broker is gone")

        async def close(self) -> None:
            raise ConnectionError("the broker is gone")

    async def main() -> Summary:
        flow = Flow("leased").window(16).map(lambda value: value)
        return await flow.start(Broken(Broker(64)), DiscardResults()).finished

    summary = quiet(main())

    assert summary.received == summary.ok + summary.failed + summary.filtered + summary.cancelled
    assert summary.reason == ("failed" if method == "settle" else "completed")


def test_values_that_were_not_emitted_are_released() -> None:
    """A source that is stopped while it waits for credits gives back what it holds."""

    async def main() -> Broker:
        broker = Broker(10)

        class Greedy(BrokerSource):
            async def produce(self, emitter: Any) -> None:
                emitter.lease_from(self)
                messages: list[Message] = broker.lease(10)
                await emitter.send([message.number for message in messages], leases=messages)

        async def slow(value: int) -> int:
            await asyncio.sleep(5)
            return value

        run = Flow("leased").window(4).map_async(slow).start(Greedy(broker), DiscardResults())
        await asyncio.sleep(1)
        run.drain()
        await run.finished
        return broker

    broker = quiet(main())

    assert list(broker.leased.values()) == [Answer.DONE] * 4 + [Answer.RELEASED] * 6
