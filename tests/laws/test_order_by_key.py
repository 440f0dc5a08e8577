"""`order: key`: elements with the same key are processed one after the other, in input order; others overtake them."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from laws.building import flow_of as flow_of_plan
from laws.doubles import Spy, store_of
from laws.fake_broker import Broker, BrokerSource
from laws.plans import Plan, plans
from laws.virtual import quiet, timers
from penstock import Backoff, Flow, FlowDefinitionError, Service, from_iterable
from penstock.core.element import Element
from penstock.core.leases import Answer
from penstock.deadletters import DeadLetterQuery, MemoryStore
from penstock.results import DiscardResults, Result
from penstock.runtime import Summary
from penstock.sources import Emitter

law = settings(max_examples=60, deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])


class Refused(Exception):
    """The service does not like the value."""


def results(flow: Flow[Any], values: Sequence[Any]) -> list[Result[Any]]:
    """Return all results in the order in which they came: that of the flow."""

    async def main() -> list[Result[Any]]:
        return [result async for result in flow.stream(from_iterable(values))]

    return quiet(main())


class KeyedSource(BrokerSource):
    """Sends the messages of a broker as values with a key."""

    async def produce(self, emitter: Any) -> None:
        await super().produce(cast("Emitter[int]", KeyedEmitter(emitter)))


class KeyedEmitter:
    """An emitter that makes a value with a key of each number."""

    def __init__(self, emitter: Emitter[Any]) -> None:
        self._emitter = emitter

    def __getattr__(self, name: str) -> Any:
        return getattr(self._emitter, name)

    async def send(self, values: Sequence[int], leases: Sequence[Any]) -> None:
        await self._emitter.send([{"n": value, "key": value % 3} for value in values], leases=leases)


class Calls:
    """A service that takes any time and fails at times, and what it saw."""

    def __init__(self, rng: random.Random, fails: float = 0.2) -> None:
        self.begun: dict[Any, list[int]] = defaultdict(list)
        """The numbers of the values with a key, as their first call began."""
        self.running: dict[Any, int] = defaultdict(int)
        self.overlaps = 0
        """Calls that began while one for an earlier value with the same key was running."""
        self.peak = 0
        self._rng = rng
        self._fails = fails

    async def __call__(self, value: dict[str, Any]) -> dict[str, Any]:
        key, number = value.get("key"), value["n"]
        if number not in self.begun[key]:
            self.begun[key].append(number)
        self.overlaps += self.running[key] > 0
        self.running[key] += 1
        self.peak = max(self.peak, sum(self.running.values()))
        try:
            await asyncio.sleep(self._rng.choice((0.0, 0.0, self._rng.uniform(0, 2))))
        finally:
            self.running[key] -= 1
        if self._rng.random() < self._fails:
            raise Refused
        return value


def flow_of(rng: random.Random, calls: Calls, *, window: int, parts: bool, store: Any = None) -> Flow[Any]:
    """A flow with asynchronous steps, a filter and perhaps parts."""
    backoff = Backoff(0.05)
    flow: Flow[Any] = Flow("keyed", dict[str, Any], "key").window(window).order("key")
    flow = flow.map_async(Service("first", calls, max_in_flight=4, attempts=2, backoff=backoff, rng=rng))
    flow = flow.filter(lambda value: value["n"] % 7 != 6)
    if parts:
        flow = flow.flat_map(lambda value: [value] * (value["n"] % 3), max_parts=3)
        later = Calls(rng)
        flow = flow.map_async(Service("second", later, max_in_flight=3, rng=rng))
    return flow if store is None else flow.dead_letters(store)


keys = st.lists(st.one_of(st.integers(0, 3), st.sampled_from(("a", "b", None, [1], {"x": 1}))), max_size=40)


@law
@given(st.integers(0, 2**32), keys, st.integers(1, 12), st.booleans(), st.booleans())
def test_results_of_the_same_key_come_in_input_order(
    seed: int, keys: list[Any], window: int, parts: bool, stored: bool
) -> None:
    """Whatever each element takes, and whether it fails, is filtered or has parts; nothing is lost."""
    rng = random.Random(seed)
    calls, store = Calls(rng), MemoryStore() if stored else None
    flow = flow_of(rng, calls, window=window, parts=parts, store=store)
    came: list[Result[Any]] = results(flow, [{"key": key, "n": n} for n, key in enumerate(keys)])

    by_key: dict[str, list[int]] = defaultdict(list)
    for result in came:
        if keys[result.seq] is not None:
            by_key[repr(keys[result.seq])].append(result.seq)
    assert all(seqs == sorted(seqs) for seqs in by_key.values())
    if not parts:
        assert len(came) == len({result.seq for result in came})
        assert {result.seq for result in came} >= {n for n in range(len(keys)) if n % 7 != 6}


@law
@given(
    st.integers(0, 2**32),
    st.lists(st.integers(0, 3), max_size=40),
    st.integers(1, 12),
    st.booleans(),
    st.sampled_from((None, "drain", "abort")),
    st.floats(0, 10),
)
def test_one_element_of_a_key_is_in_progress_and_nothing_is_left(
    seed: int, keys: list[int], window: int, parts: bool, event: str | None, at: float
) -> None:
    """The next one starts when the one before is settled. However the run ends, its accounts are right."""
    rng = random.Random(seed)
    calls, store = Calls(rng), MemoryStore()

    async def main() -> tuple[Summary, int, int, int]:
        flow = flow_of(rng, calls, window=window, parts=parts, store=store)
        values = [{"key": key, "n": n} for n, key in enumerate(keys)]
        run = flow.start(from_iterable(values), DiscardResults())
        timer = asyncio.get_running_loop().call_later(at, getattr(run, event) if event else lambda: None)
        summary = await run.finished
        timer.cancel()
        left = len(asyncio.all_tasks()) - 1 + len(timers()) - 1  # without this task, and the time limit of the test
        letters = (await store.page(DeadLetterQuery(), limit=1000)).letters
        return summary, left, len(letters), run.window.in_flight

    summary, left, letters, in_flight = quiet(main())

    assert calls.overlaps == 0
    assert all(numbers == sorted(numbers) for numbers in calls.begun.values())
    assert summary.received == summary.ok + summary.failed + summary.filtered + summary.cancelled
    assert (left, in_flight) == (0, 0)
    assert letters == summary.failed
    if event is None:
        assert (summary.received, summary.cancelled, summary.reason) == (len(keys), 0, "completed")
    if event == "drain":
        assert summary.cancelled == 0


def test_other_keys_overtake_one_that_is_slow() -> None:
    """An element waits for those with its own key only."""

    async def call(value: dict[str, Any]) -> dict[str, Any]:
        await asyncio.sleep(10 if value["key"] == "hot" else 1)
        return value

    flow = Flow("keyed", dict[str, Any], "key").order("key").map_async(call)
    values = [{"key": key} for key in ("hot", "hot", "a", "b", "a")]

    assert [result.seq for result in results(flow, values)] == [2, 3, 4, 0, 1]


def test_elements_without_a_key_do_not_wait() -> None:
    """Neither those whose field is missing or null, nor lines that are not JSON."""

    async def call(value: dict[str, Any]) -> dict[str, Any]:
        await asyncio.sleep(value["seconds"])
        return value

    flow = Flow("keyed", dict[str, Any], "key").order("key").map_async(call)
    values = [{"seconds": 2}, {"seconds": 1, "key": None}, {"seconds": 0.5}, b"no JSON"]

    assert [result.seq for result in results(flow, values)] == [3, 2, 1, 0]


def test_an_invalid_element_waits_for_those_before_it() -> None:
    """The result of an item that is not valid is not reported before those of earlier items with its key."""

    async def call(value: Any) -> Any:
        await asyncio.sleep(1)
        return value

    flow = Flow("keyed", dict[str, int], "key").order("key").map_async(call)
    came = results(flow, [{"key": 1}, {"key": 1, "n": "x"}, {"key": 1}])

    assert [(result.seq, result.ok) for result in came] == [(0, True), (1, False), (2, True)]


def test_a_hot_key_fills_the_window() -> None:
    """Waiting elements keep their credits: then other keys wait at the source. The window is never exceeded."""
    held: list[int] = []

    async def main() -> Summary:
        async def call(value: dict[str, Any]) -> dict[str, Any]:
            held.append(run.window.in_flight)
            await asyncio.sleep(1)
            return value

        flow = Flow("keyed", dict[str, Any], "key").window(4).order("key").map_async(call)
        run = flow.start(from_iterable([{"key": "hot"}] * 6 + [{"key": "a"}] * 6), DiscardResults())
        return await run.finished

    assert quiet(main()).ok == 12
    assert max(held) == 4


def test_many_elements_of_one_key_do_not_recurse() -> None:
    """A step that does not wait settles each at once; the next starts in the next iteration of the event loop."""
    flow = Flow("keyed", dict[str, Any], "key").window(2000).order("key").map(lambda value: value)

    assert [result.seq for result in results(flow, [{"key": 1}] * 2000)] == list(range(2000))


@law
@given(st.integers(0, 2**32), st.sampled_from((None, "drain", "abort")), st.floats(0, 10))
def test_leased_messages_are_answered_in_the_order_of_their_key(seed: int, event: str | None, at: float) -> None:
    """Held elements keep their leases, which are extended, and answered once."""
    rng = random.Random(seed)

    async def main() -> tuple[Broker, BrokerSource]:
        async def call(value: Any) -> Any:
            await asyncio.sleep(rng.choice((0.0, rng.uniform(0, 1))))
            return value

        broker = Broker(40, lease_seconds=2.0)
        source = KeyedSource(broker)
        flow = Flow("leased", dict[str, Any], "key").window(8).order("key").map_async(call)
        run = flow.start(cast("Any", source), DiscardResults())
        timer = asyncio.get_running_loop().call_later(at, getattr(run, event) if event else lambda: None)
        await run.finished
        timer.cancel()
        return broker, source

    broker, source = quiet(main())
    done = [message.number for message, answer in source.settled if answer is Answer.DONE]

    if event is None:
        assert [[n for n in done if n % 3 == key] for key in range(3)] == [[*range(key, 40, 3)] for key in range(3)]
    assert None not in broker.leased.values()
    assert (broker.answered_twice, broker.expired) == (0, 0)
    assert source.closed == source.registered


@pytest.mark.parametrize("where", ["flow", "run"])
def test_a_flow_without_a_key_is_rejected(where: str) -> None:
    """There is nothing that elements could be ordered by."""
    flow = Flow("f", dict[str, Any])

    async def main() -> None:
        await flow.run(from_iterable([]), ordered="key")

    with pytest.raises(FlowDefinitionError, match='flow f: order: "key" needs the field that identifies an item'):
        flow.order("key") if where == "flow" else quiet(main())


def test_an_unknown_order_is_rejected() -> None:
    """It is not taken for the default."""
    with pytest.raises(ValueError, match="order: expected completion, input, key, got 'keys'"):
        Flow("f", key="id").order("keys")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


@law
@given(plans(stores=(None, "memory", "down", "slow"), events=(None, None, "drain", "abort")))
def test_no_plan_hangs_or_loses_elements(plan: Plan) -> None:
    """Whatever the steps are: all elements have an end, none is left, and results of a key come in input order."""
    store = store_of(plan)
    settled: list[Element[Any]] = []

    async def main() -> tuple[Summary, list[str]]:
        flow = replace(flow_of_plan(plan, Spy(), store), key="group").order("key")
        values = [{"id": number, "group": number % 3} for number in range(plan.count)]
        run = flow.start(from_iterable(values), DiscardResults())
        run.ledger.watch(lambda element, _: settled.append(element))
        timer = asyncio.get_running_loop().call_later(plan.at, getattr(run, plan.event) if plan.event else lambda: None)
        summary = await run.finished
        timer.cancel()
        ready = {worker.task for service in flow.all_services for worker in service.bulkhead.idle}
        left = [task.get_name() for task in asyncio.all_tasks() - {asyncio.current_task(), *ready}]
        for service in flow.all_services:
            service.release()
        return summary, left

    summary, left = quiet(main())
    whole = [element for element in settled if element.parent is None and element.key is not None]

    assert summary.received == summary.ok + summary.failed + summary.filtered + summary.cancelled
    assert left == []
    if plan.event is None:
        assert (summary.reason, summary.cancelled) == ("completed", 0)
    for key in range(3):
        seqs = [element.seq for element in whole if element.key == key]
        assert seqs == sorted(seqs)


def test_waiting_elements_keep_their_deadline() -> None:
    """Those that wait for a slow one with their key fail when it is over, without a call."""
    begun: list[int] = []

    async def call(value: dict[str, Any]) -> dict[str, Any]:
        begun.append(value["n"])
        await asyncio.sleep(0.6)
        return value

    async def main() -> tuple[list[bool], float]:
        flow = Flow("keyed", dict[str, Any], "key").deadline(1.0).order("key").map_async(call)
        values = [{"key": "hot", "n": n} for n in range(4)]
        came = [result.ok async for result in flow.stream(from_iterable(values))]
        return came, asyncio.get_running_loop().time()

    came, seconds = quiet(main())

    assert (came, begun) == ([True, False, False, False], [0, 1])
    assert seconds == pytest.approx(1.0, abs=0.01)


def test_an_element_with_parts_is_waited_for_until_its_last_part() -> None:
    """One part that is done does not release the next element."""

    async def call(value: tuple[int, float]) -> tuple[int, float]:
        await asyncio.sleep(value[1])
        return value

    flow = Flow("keyed", dict[str, Any], "key").order("key")
    parts = flow.flat_map(lambda value: [(value["n"], 1.0), (value["n"], 10.0)]).map_async(call)

    came = results(parts, [{"key": 1, "n": n} for n in range(2)])

    assert [(result.seq, result.part) for result in came] == [(0, 0), (0, 1), (1, 0), (1, 1)]
