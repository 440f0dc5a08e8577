"""The nine laws, as properties over random runs with random faults, delays and stops."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from laws.building import ATTEMPTS, BACKOFF, LATE, TIMEOUT
from laws.plans import FATES, PLAIN, READING_ALL, Plan, StepPlan, plans
from laws.playing import play
from laws.virtual import within
from penstock import Flow, Service, from_async_iterable, from_iterable
from penstock.core.context import CANCEL_SECONDS
from penstock.core.element import Element, Outcome
from penstock.core.fairness import BATCH_WHILE_YIELDING, LARGE_RUN, YIELD_ITERATIONS, YIELD_SECONDS, FairScheduler
from penstock.core.ledger import Ledger
from penstock.core.operators import sync_operator
from penstock.core.window import Window
from penstock.deadletters import MemoryStore
from penstock.errors import SettledTwice
from penstock.results import DiscardResults, LineWriter
from penstock.runtime import Supervisor
from penstock.sources import PushSource, ndjson
from penstock.testing import run

law = settings(max_examples=100, deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])

STEADY = ("map", "tap", "filter", "throttle", "map_async", "map_in_order", "enrich", "branch")
"""Steps at which what befalls one element changes nothing for another but the time."""


# 1. Conservation


@law
@given(plans())
def test_received_is_ok_and_failed_and_filtered_and_cancelled(plan: Plan) -> None:
    """Every element that was received has exactly one end, however the run ended."""
    summary = play(plan).summary

    assert summary.received == summary.ok + summary.failed + summary.filtered + summary.cancelled


@law
@given(plans(stores=("memory", "down", "slow")))
def test_summary_totals_log_and_letters_agree(plan: Plan) -> None:
    """What the run says, what the metrics count, what the log holds and what is stored are the same numbers."""
    played = play(plan)
    totals, summary = played.supervisor.flow_statistics["plan"], played.summary
    logged = next(entry for entry in played.logs if entry["event"] == "run.ended")
    outcomes = {outcome: getattr(summary, outcome) for outcome in Outcome}

    assert {outcome: totals.settled(outcome) for outcome in Outcome} == outcomes
    assert {outcome: logged[outcome] for outcome in Outcome} == outcomes
    assert (totals.received, totals.in_flight) == (summary.received, 0)
    assert len(played.letters) == len({letter.seq for letter in played.letters}) == summary.failed
    assert totals.letters == Counter(letter.step for letter in played.letters)


@law
@given(plans(sinks=("lines", "stream"), stores=("memory",), events=(None,)))
def test_reader_is_told_of_every_ok_and_every_failed_element(plan: Plan) -> None:
    """In a run that was not cut, the reader hears of each element that is ok or failed, and of no other."""
    played = play(plan)
    failed = {record["seq"] for record in played.records if not record["ok"]}
    told = {record["seq"] for record in played.records}

    if played.summary.reason == "completed":
        assert len(failed) == played.summary.failed
        assert len(told) == played.summary.failed + played.summary.ok
        assert {letter.id for letter in played.letters} == {
            record["deadLetter"] for record in played.records if not record["ok"]
        }


# 2. Bounded


@law
@given(plans())
def test_never_more_in_flight_than_the_window_holds(plan: Plan) -> None:
    """Seen from inside at every element: free + in flight = capacity, in elements and in bytes."""
    played = play(plan)

    assert played.run.window.peak <= plan.elements
    for sample in played.samples:
        assert sample.free + sample.unsettled == plan.elements
        assert 0 <= sample.free <= plan.elements
        assert 0 <= sample.free_bytes <= plan.bytes


@law
@given(plans(kinds=("map_async", "map_in_order", "flat_map", "batch"), sources=("iterable",), events=(None,)))
def test_bytes_in_flight_never_exceed_the_window(plan: Plan) -> None:
    """A window of few bytes holds few elements: no more than fit, whatever the window of elements allows."""
    played = play(plan)

    assert all(sample.unsettled * 50 <= plan.bytes for sample in played.samples)


# 3. Settled once


@law
@given(plans(sinks=("lines",)))
def test_an_element_is_settled_after_its_line_is_written(plan: Plan) -> None:
    """At every write, no more elements are settled as ok or failed than the reader has been told of."""
    played = play(plan)

    assert all(sample.settled <= sample.told for sample in played.samples)


@law
@given(plans(sinks=("lines",), stores=("memory", "down", "slow"), fates=("ok", "fail", "flaky")))
def test_a_failed_line_is_written_after_its_letter_is_stored(plan: Plan) -> None:
    """The reader never hears of a dead letter that is not in the store."""
    played = play(plan)

    assert all(stored for event, stored in played.spy.events if event == "told")


@law
@given(plans(sources=("iterable", "async", "ndjson", "backpressure", "drop_oldest", "drop_newest")))
def test_no_plan_breaks_a_run(plan: Plan) -> None:
    """Nothing is settled twice, nothing is forgotten: a run whose source holds never ends as failed."""
    played = play(plan)

    assert (played.summary.error, played.summary.reason == "failed") == (None, False)


@law
@given(outcomes=st.lists(st.sampled_from(list(Outcome)), min_size=1, max_size=8), again=st.sampled_from(list(Outcome)))
def test_settling_twice_is_refused(outcomes: list[Outcome], again: Outcome) -> None:
    """The credit of an element comes back once: a second settling raises and changes nothing."""
    window = Window(8)
    ledger = Ledger(window)
    elements = [Element(number, number, ledger) for number in range(window.acquire(len(outcomes)))]
    ledger.received = len(elements)
    for element, outcome in zip(elements, outcomes, strict=True):
        ledger.settle([element], outcome)
    counted = dict(ledger.settled)

    for element in elements:
        with pytest.raises(SettledTwice):
            ledger.settle([element], again)
    assert (ledger.settled, window.free) == (counted, 8)


# 4. Isolation


@settings(law, max_examples=250)
@given(
    plan=plans(
        kinds=STEADY,
        fates=("ok", "ok", "slow"),
        sources=("iterable", "async"),
        sinks=("lines", "stream"),
        stores=("memory",),
        events=(None,),
    ),
    fate=st.sampled_from(("fail", "refuse", "flaky", "hang")),
    data=st.data(),
)
def test_one_bad_element_changes_nothing_for_the_others(plan: Plan, fate: str, data: st.DataObject) -> None:
    """With one element that fails or hangs, all others come to exactly the same results, in order if ordered."""
    bad = data.draw(st.integers(0, max(plan.count - 1, 0)), label="bad")
    place = data.draw(st.integers(0, max(len(plan.steps) - 1, 0)), label="place")
    worse = tuple(
        replace(step, fates=_with(step, plan.count, bad, fate)) if number == place else step
        for number, step in enumerate(plan.steps)
    )
    good = play(plan)
    hurt = play(Plan(**{**vars(plan), "steps": worse}))

    assert _results(good, bad) == _results(hurt, bad)
    if plan.ordered:
        seqs = [record["seq"] for record in hurt.records]
        assert seqs == sorted(seqs)


def _with(step: StepPlan, count: int, bad: int, fate: str) -> tuple[str, ...]:
    return tuple(
        fate if number == bad else step.fates[number % len(step.fates)] for number in range(max(count, bad + 1))
    )


def _results(played: Any, but: int) -> list[Any]:
    return sorted(
        ((record["seq"], record["ok"], record.get("value")) for record in played.records if record["seq"] != but),
        key=lambda result: result[0],
    )


@law
@given(plans(ordered=True, sinks=("lines", "stream")))
def test_an_ordered_run_gives_out_in_the_order_of_its_input(plan: Plan) -> None:
    """Whatever fails, hangs or is filtered: results come in the order of `seq`."""
    seqs = [record["seq"] for record in play(plan).records]

    assert seqs == sorted(seqs)


# 5. Cancelled is not failed


@law
@given(
    plans(
        kinds=("map", "map_async", "enrich", "batch", "throttle", "flat_map"),
        fates=("ok", "slow", "hang"),
        sources=("iterable", "async", "backpressure"),
        sinks=("stream", "discard"),
        events=("abort", "leave"),
        stores=(None, "memory"),
    )
)
def test_what_is_cancelled_is_neither_failed_nor_stored(plan: Plan) -> None:
    """An abort before any timeout could pass: nothing failed, no letter, and services count no errors."""
    played = play(Plan(**{**vars(plan), "at": min(plan.at, TIMEOUT - 1)}))

    if played.summary.reason in ("aborted", "disconnected"):
        assert (played.summary.failed, played.letters) == (0, [])
        results = [service.statistics().results for service in played.services]
        assert all(result["error"] + result["timeout"] == 0 for result in results)


# 6. Nothing left behind


@law
@given(plans())
def test_nothing_of_a_run_is_left_behind(plan: Plan) -> None:
    """After a run, however it ended: no task, timer, credit or call of it, and no worker that nobody keeps."""
    played = play(plan)

    assert (played.tasks, played.timers) == ([], [])
    assert (played.run.window.free, played.run.window.free_bytes) == (plan.elements, plan.bytes)
    assert played.spy.under_way == 0
    assert [(shelf.open_now, shelf.misused) for shelf in played.spy.shelves] == [
        (False, []) for _ in played.spy.shelves
    ]
    for service in played.services:
        statistics = service.statistics()
        assert (statistics.in_flight, statistics.waiting, service.bulkhead.tasks) == (0, 0, [])


# 7. Every wait has an end


@law
@given(
    plans(
        kinds=("map_async", "map_in_order", "enrich", "batch"),
        fates=("hang",),
        sources=("iterable", "ndjson"),
        stores=(None, "memory"),
        events=(None,),
    )
)
def test_a_hanging_service_is_waited_for_no_longer_than_its_timeouts(plan: Plan) -> None:
    """Every call hangs: the run ends within timeouts, attempts + backoffs for each element after the other."""
    played = play(plan)
    one = ATTEMPTS * TIMEOUT + (ATTEMPTS - 1) * BACKOFF.cap + 2

    assert played.summary.reason == "completed"
    assert played.seconds <= plan.count * (one * len(plan.steps) + max(plan.pauses) + 40 * max(plan.pauses) + 1) + 5


@law
@given(
    plan=plans(
        kinds=("map_async", "flat_map", "through", "branch"),
        fates=("ok", "slow"),
        sources=("iterable", "async"),
        events=(None,),
        ordered=True,
    ),
    room=st.integers(1, 3),
)
def test_an_ordered_run_does_not_stand_still_where_elements_overtake_each_other(plan: Plan, room: int) -> None:
    """Late elements get room for their parts, however little there is: the run comes to its end."""
    overtaking = (StepPlan("map_async", ("slow", "ok"), 3), StepPlan("flat_map", ("ok",), room))
    played = play(replace(plan, steps=(*overtaking, *plan.steps[:2])))

    assert (played.summary.reason, played.summary.cancelled) == ("completed", 0)


@law
@given(plans(events=("abort",)))
def test_an_abort_ends_a_run_at_once(plan: Plan) -> None:
    """No wait outlasts an abort, save a commit that is under way, which decides whether its elements failed."""
    played = play(plan)

    end = plan.at + (1.5 if plan.store == "slow" else 0) + 1e-9  # a difference of times is not exact
    assert played.seconds <= end or played.summary.reason != "aborted"


def test_a_task_that_refuses_to_end_is_reported_and_given_up() -> None:
    """A call and a writer that swallow their cancelling hold the run up for 5 s, and the log names them."""

    async def deaf(_: Any) -> None:
        until = asyncio.get_running_loop().time() + 100
        while (now := asyncio.get_running_loop().time()) < until:
            try:
                await asyncio.sleep(until - now)
            except asyncio.CancelledError:
                continue

    async def main() -> tuple[float, Any, Any]:
        calling = (
            Flow("calls").map_async(Service("deaf", deaf, timeout=1000)).start(from_iterable([1]), DiscardResults())
        )
        writing = Flow("writes").start(from_iterable([1]), LineWriter(deaf))
        await asyncio.sleep(1)
        calling.abort()
        writing.abort()
        ended = await asyncio.gather(calling.finished, writing.finished)
        seconds = asyncio.get_running_loop().time()
        await asyncio.sleep(200)  # what was given up comes to its end, and changes nothing any more
        return (seconds, *ended)

    with capture_logs() as logs:
        seconds, calling, writing = run(within(1000, main()))

    assert seconds == 1 + CANCEL_SECONDS
    assert (calling.cancelled, writing.cancelled) == (1, 1)
    said = {entry["event"]: entry for entry in logs}
    assert said["service.calls_not_cancelled"]["service"] == "deaf"
    assert [name.rpartition(":")[2] for name in said["run.tasks_not_cancelled"]["tasks"]] == ["writer"]


def test_several_deaf_services_are_given_up_side_by_side() -> None:
    """Three services that refuse to be cancelled hold a run up as long as one."""

    async def deaf(_: Any) -> None:
        until = asyncio.get_running_loop().time() + 100
        while (now := asyncio.get_running_loop().time()) < until:
            try:
                await asyncio.sleep(until - now)
            except asyncio.CancelledError:
                continue

    async def main() -> float:
        asked = {name: Service(name, deaf, timeout=1000) for name in "abc"}
        aborted = Flow("f").enrich(**asked).start(from_iterable([{}]), DiscardResults())
        await asyncio.sleep(1)
        aborted.abort()
        await aborted.finished
        seconds = asyncio.get_running_loop().time()
        await asyncio.sleep(200)
        return seconds

    with capture_logs():
        assert run(within(1000, main())) <= 1 + CANCEL_SECONDS + 1


# 8. Fair


@settings(max_examples=15, deadline=None, print_blob=True)
@given(width=st.integers(1, 16), window=st.integers(1, 64), small=st.integers(1, 10))
def test_a_small_run_is_not_stuck_behind_a_huge_one(width: int, window: int, small: int) -> None:
    """Next to a run of a thousand, each of a few elements waits for two calls of the other at most."""

    async def call(value: Any) -> Any:
        await asyncio.sleep(1)
        return value

    async def timed(flow: Flow[Any]) -> float:
        began = asyncio.get_running_loop().time()
        await flow.start(from_iterable(range(small)), DiscardResults()).finished
        return asyncio.get_running_loop().time() - began

    async def main() -> tuple[float, float]:
        flow = Flow("f").window(window).map_async(Service("s", call, max_in_flight=width))
        alone = await timed(flow)
        huge = flow.window(256).start(from_iterable(range(1_000)), DiscardResults())
        await asyncio.sleep(3.5)
        beside = await timed(flow)
        huge.abort()
        await huge.finished
        return alone, beside

    with capture_logs():
        alone, beside = run(within(100_000, main()))

    assert beside <= 3 * alone + 2


def test_a_huge_run_steps_aside_for_a_small_one() -> None:
    """While a small run lives, a huge one that waits for nothing takes few elements: it lets turns go by."""

    async def answer(value: int) -> int:
        return value

    async def chunks() -> AsyncIterator[bytes]:
        while True:
            yield b"1\n" * 5000
            await asyncio.sleep(0)

    async def main() -> tuple[int, int, int]:
        together: list[int] = []
        spy = sync_operator("spy", lambda elements: together.append(len(elements)))
        flow = Flow("f", elements=4 * LARGE_RUN).operator(spy)
        flow = flow.enrich(a=Service("a", str), b=answer, merge=lambda value, _: value)
        supervisor = Supervisor()
        huge = supervisor.start(flow, ndjson(chunks()), DiscardResults())
        while huge.ledger.received < LARGE_RUN:
            await asyncio.sleep(0)
        first = supervisor.start(flow, from_iterable(range(10)), DiscardResults())
        await first.finished  # the huge one was in the middle of giving out when it came
        before = huge.ledger.received
        together.clear()
        second = await supervisor.start(flow, from_iterable(range(10)), DiscardResults()).finished
        taken = huge.ledger.received - before
        while len(together) < 5:
            await asyncio.sleep(0)
        huge.abort()
        await huge.finished
        return second.ok, taken, max(together)

    with capture_logs():
        ok, taken, most = run(within(100, main()))

    assert ok == 10
    assert taken <= 2 * BATCH_WHILE_YIELDING
    assert most <= BATCH_WHILE_YIELDING


def test_a_feed_steps_aside_as_all_sources_do() -> None:
    """A full buffer is no reason to give all of it out while others begin."""

    async def main() -> int:
        together: list[int] = []
        spy = sync_operator("spy", lambda elements: together.append(len(elements)))
        supervisor = Supervisor()
        feed: PushSource[int] = PushSource(4 * LARGE_RUN, "drop_oldest")
        huge = supervisor.start(Flow("f", elements=4 * LARGE_RUN).operator(spy), feed, DiscardResults())
        for value in range(2 * LARGE_RUN):
            feed.push_nowait(value)
        while huge.ledger.received < LARGE_RUN:
            await asyncio.sleep(0)
        await supervisor.start(Flow("f"), from_iterable(range(10)), DiscardResults()).finished
        together.clear()
        for value in range(2 * LARGE_RUN):
            feed.push_nowait(value)
        while not together:
            await asyncio.sleep(0)
        huge.abort()
        await huge.finished
        return max(together)

    with capture_logs():
        assert run(within(100, main())) <= BATCH_WHILE_YIELDING


def test_stepping_aside_is_paid_for_once_a_share() -> None:
    """Also by a source that gives out one element at a time: it would wait a dozen turns for each."""

    async def values() -> AsyncIterator[int]:
        for number in range(2 * LARGE_RUN):
            yield number

    async def turns_taken() -> int:
        turns = 0
        while True:
            await asyncio.sleep(0)
            turns += 1
            if huge.done():
                return turns

    async def main() -> int:
        nonlocal huge
        supervisor = Supervisor()
        huge = supervisor.start(Flow("f"), from_async_iterable(values()), DiscardResults()).finished
        supervisor.start(Flow("f"), from_iterable([1]), DiscardResults())
        return await turns_taken()

    huge: asyncio.Future[Any]
    with capture_logs():
        turns = run(within(100, main()))

    assert YIELD_ITERATIONS <= turns <= LARGE_RUN


def test_only_a_run_that_began_beside_others_lately_is_stepped_aside_for() -> None:
    """One that began alone is no reason, and one that began beside others is none after a while."""
    turns = FairScheduler()
    turns.begin(100.0)
    alone = turns.should_yield(100.0)
    turns.begin(200.0)
    beside = turns.should_yield(200.0), turns.should_yield(200.0 + YIELD_SECONDS)
    turns.end()
    turns.end()
    turns.begin(300.0)

    assert not alone
    assert beside == (True, False)
    assert not turns.should_yield(300.0)


# 9. Never quiet


@law
@given(plans(sources=("drop_oldest", "drop_newest"), events=(None,), kinds=PLAIN))
def test_whatever_a_feed_drops_is_counted(plan: Plan) -> None:
    """Every value that was pushed is received, and the dropped ones are counted by themselves too.

    What a `through` gives out at its end was never pushed: it is received beside them.
    """
    played = play(plan)
    late = LATE * sum(step.kind == "through" and step.number == 2 for step in plan.steps)
    assert played.feed is not None

    assert played.sent <= played.summary.received <= played.sent + late
    assert played.supervisor.flow_statistics["plan"].dropped == played.feed.dropped <= played.summary.filtered


@law
@given(plans(kinds=("map_async", "enrich"), fates=FATES, events=(None,), sources=("iterable",)))
def test_every_attempt_is_counted(plan: Plan) -> None:
    """Calls made = results counted, by kind; attempts after the first = retries."""
    played = play(plan)
    counted = [service.statistics() for service in played.services]
    made = sum(sum(each.results.values()) for each in counted)
    first = sum(each.results["ok"] + each.results["error"] + each.results["timeout"] - each.retries for each in counted)

    assert made == played.spy.calls
    assert first <= played.summary.received * len(played.services)


@law
@given(plans(stores=("down",), fates=("fail",), kinds=("map", "map_async")))
def test_every_failure_of_the_store_is_counted_and_logged(plan: Plan) -> None:
    """As often as the store failed, so often it is counted, and said with the time until the next try."""
    played = play(plan)
    assert played.store is not None

    assert (
        played.supervisor.flow_statistics["plan"].store_failures
        == played.store.failed
        == played.said("store.write_failed")
    )


@law
@given(plans(kinds=READING_ALL, sources=("broken", "fail"), events=(None,)))
def test_a_source_that_breaks_is_loud(plan: Plan) -> None:
    """The run ends as failed with the reason in its summary and in the log; what came before is finished."""
    played = play(plan)

    if played.summary.reason == "failed":
        assert played.summary.error
        assert (played.said("source.failed"), played.summary.cancelled) == (1, 0)
    else:
        assert plan.source == "fail"


def test_restarts_of_a_worker_are_counted_and_logged() -> None:
    """A worker whose source breaks is started again, and each restart is one in the count and one in the log."""

    def broken() -> Any:
        yield 1
        raise ConnectionError("gone")

    async def main() -> Supervisor:
        supervisor = Supervisor()
        supervisor.start_worker("A", Flow("f").dead_letters(MemoryStore()), lambda: from_iterable(broken()))
        await asyncio.sleep(600)
        await supervisor.shut_down(1)
        return supervisor

    with capture_logs() as logs:
        supervisor = run(within(1000, main()))

    assert supervisor.restarts["f", "A"] == sum(entry["event"] == "worker.restart" for entry in logs) > 5
