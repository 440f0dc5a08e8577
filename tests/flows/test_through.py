"""What is special for `through`: operators of reactivex, with the credits kept right."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from reactivex import Subject
from reactivex import operators as ops

from laws.virtual import quiet, results, summary_of
from penstock import Flow, from_async_iterable, from_iterable, ndjson
from penstock.deadletters import DeadLetter, DeadLetterQuery, MemoryStore
from penstock.results import DiscardResults
from penstock.runtime import Summary
from penstock.sources import ticks


def told(operator: Any, values: Any) -> list[tuple[int, int | None, Any]]:
    """What a flow with this one operator gives out, by seq."""
    found = results(Flow("f").through(operator), values)
    return sorted(
        ((result.seq, result.part, result.value if result.ok else result.failure) for result in found),
        key=lambda result: (result[0], result[1] or 0),
    )


async def slowly(value: Any) -> Any:
    await asyncio.sleep(1)
    return value


def later(values: list[int]) -> Any:
    async def each() -> AsyncIterator[int]:
        for value in values:
            yield value

    return from_async_iterable(each())


def lines(values: list[int]) -> Any:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"".join(b"%d\n" % value for value in values)

    return ndjson(chunks())


def test_one_value_replaces_its_own() -> None:
    """`scan` gives out one for one."""
    total = ops.scan(lambda total, value: total + value, 0)

    assert told(total, [1, 2, 3]) == [(0, None, 1), (1, None, 3), (2, None, 6)]


def test_none_is_filtered() -> None:
    """What `distinct` keeps back is settled as filtered."""
    assert told(ops.distinct(), [1, 1, 2, 1]) == [(0, None, 1), (2, None, 2)]
    assert summary_of(Flow("f").through(ops.distinct()), [1, 1, 2, 1]).filtered == 2


def test_several_are_parts() -> None:
    """Values that one element caused are its parts."""
    twice = ops.flat_map(lambda value: [value, value])

    assert told(twice, [1, 2]) == [(0, 0, 1), (0, 1, 1), (1, 0, 2), (1, 1, 2)]
    assert summary_of(Flow("f").through(twice), [1, 2]).ok == 2


def test_a_value_at_the_end_is_an_element_of_its_own() -> None:
    """`reduce` speaks when the input ends: its value comes last and is received too; all that went in is filtered."""
    total = ops.reduce(lambda total, value: total + value, 0)
    summary = summary_of(Flow("f").through(total), [1, 2, 3])

    assert told(total, [1, 2, 3]) == [(3, None, 6)]
    assert (summary.received, summary.ok, summary.filtered) == (4, 1, 3)


def test_groups_belong_to_their_last_element() -> None:
    """`buffer_with_count` gives each full group to the element that filled it; the rest is one of its own."""
    assert told(ops.buffer_with_count(2), [1, 2, 3, 4, 5]) == [(1, None, [1, 2]), (3, None, [3, 4]), (5, None, [5])]


def test_values_at_the_end_wait_for_credits() -> None:
    """Many values at the end go through a window of one, in order, one number after the other."""
    flow = Flow("f").window(1).through(ops.take_last(3)).map_async(slowly)

    assert [(result.seq, result.value) for result in results(flow, [1, 2, 3, 4])] == [(4, 2), (5, 3), (6, 4)]


@pytest.mark.parametrize("ordered", [False, True])
def test_values_at_the_end_go_through_what_follows(ordered: bool) -> None:
    """A second operator that keeps its values sees those that the first one gave out at its end."""
    flow = Flow("f").window(2).through(ops.take_last(2)).through(ops.to_list()).flat_map(list)
    found = results(flow, [1, 2, 3], ordered=ordered)

    assert [(result.seq, result.part, result.value) for result in found] == [(5, 0, 2), (5, 1, 3)]


def test_a_value_at_the_end_has_a_letter_when_it_fails() -> None:
    """What fails on its further way is stored with the value itself as its input."""

    async def main() -> tuple[Summary, list[DeadLetter]]:
        store = MemoryStore()
        flow = Flow("f").through(ops.last()).map(lambda value: 1 // value, name="share").dead_letters(store)
        summary = await flow.start(from_iterable([1, 0]), DiscardResults()).finished
        return summary, (await store.page(DeadLetterQuery())).letters

    summary, letters = quiet(main())
    assert (summary.received, summary.failed, summary.filtered) == (3, 1, 2)
    assert [(letter.seq, letter.step, letter.input) for letter in letters] == [(2, "share", b"0")]


def test_values_at_the_end_are_given_out_when_a_run_is_drained() -> None:
    """A drain ends the input like its own end: what the operator kept until then is not lost."""

    async def main() -> Summary:
        draining = Flow("f").through(ops.count()).start(ticks(1), DiscardResults())
        await asyncio.sleep(3.5)
        draining.drain()
        return await draining.finished

    summary = quiet(main())
    assert (summary.reason, summary.ok, summary.received) == ("draining", 1, summary.filtered + 1)


def test_an_abort_reaches_values_that_wait_at_the_end() -> None:
    """A value that waits for a credit when the run is aborted was never received."""

    async def main() -> Summary:
        flow = Flow("f").window(1).through(ops.take_last(3)).map_async(lambda _: asyncio.sleep(25))
        waiting = flow.start(from_iterable([1, 2, 3]), DiscardResults())
        await asyncio.sleep(30)
        waiting.abort()
        return await waiting.finished

    summary = quiet(main())
    assert (summary.received, summary.filtered, summary.ok, summary.cancelled) == (5, 3, 1, 1)


def test_an_operator_that_completes_ends_the_input() -> None:
    """`take` settles what it did not want as filtered, and the source reads no further."""
    made: list[int] = []

    def values() -> Any:
        for number in range(100_000):
            made.append(number)
            yield number

    summary = summary_of(Flow("f").window(4).through(ops.take(2)), values())

    assert (summary.ok, summary.reason, summary.cancelled) == (2, "completed", 0)
    assert len(made) <= 8


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("make", [from_iterable, later, lines], ids=["iterable", "async iterable", "ndjson"])
def test_an_operator_may_complete_at_the_very_last_element(make: Callable[[list[int]], Any], count: int) -> None:
    """The input is closed in the middle of the source's last emission, when it has nothing to wait for any more."""
    summary = summary_of(Flow("f").through(ops.take(2)), make([1, 2, 3][:count]))

    assert (summary.reason, summary.error, summary.ok) == ("completed", None, 2)


def test_an_operator_that_raises_fails_its_element_and_starts_anew() -> None:
    """The failure names the step; what the operator remembered is gone."""
    seen = told(ops.scan(lambda total, value: total + 1 // value, 0), [1, 0, 1])

    assert (seen[0], seen[2]) == ((0, None, 1), (2, None, 1))
    assert (seen[1][2].step, seen[1][2].type) == ("through", "ZeroDivisionError")


def test_an_operator_that_raises_at_the_end_fails_an_element_of_its_own() -> None:
    """What breaks when the input has ended is the failure of one more element, after the values given out before."""
    seen = told(lambda source: source.pipe(ops.take_last(2), ops.map(lambda value: 1 // value)), [1, 1, 0])

    assert seen[0] == (3, None, 1)
    assert [(seq, failure.step, failure.type) for seq, _, failure in seen[1:]] == [(4, "through", "ZeroDivisionError")]


@pytest.mark.parametrize("operator", [ops.delay(1.0), ops.timeout(1.0), ops.debounce(1.0)], ids=lambda _: "")
def test_an_operator_with_a_clock_is_refused(operator: Any) -> None:
    """A timed operator cannot work between elements: each of them fails, the end too, and no thread is started."""
    before = threading.active_count()
    seen = told(operator, [1])

    assert {failure.type for _, _, failure in seen} == {"TimedOperatorNotSupported"}
    assert threading.active_count() == before


def test_a_value_that_no_element_caused_breaks_the_run_loudly() -> None:
    """An operator that speaks between elements ends the run, and the sentence says why."""
    late: Subject[int] = Subject()

    async def main() -> Summary:
        flow = Flow("f").throttle(0.1).through(ops.merge(late))
        running = flow.start(from_iterable([1, 2]), DiscardResults())
        await asyncio.sleep(1)
        late.on_next(7)
        return await running.finished

    summary = quiet(main())
    assert summary.reason == "failed"
    assert "emitted a value while no element was passing through it" in str(summary.error)


def test_a_window_of_one_does_not_stand_still() -> None:
    """`through` holds no element back, so one credit is enough."""
    summary = summary_of(Flow("f").window(1).through(ops.distinct_until_changed()), [1, 1, 2])

    assert summary.ok == 2


def test_an_ordered_run_does_not_stand_still() -> None:
    """`through` holds no element back, so none keeps those after it from the reader."""
    flow = Flow("f").window(4).through(ops.distinct_until_changed())

    assert [result.seq for result in results(flow, [1, 1, *range(2, 9)], ordered=True)] == [0, *range(2, 9)]


def test_an_operator_that_takes_nothing_closes_the_input() -> None:
    """It completes before the first value: there is nothing to wait for."""
    assert summary_of(Flow("f").through(ops.take(0)), ticks(1)).reason == "completed"


def test_an_operator_that_was_not_called_is_said_to_be_so() -> None:
    """Its name without the parentheses is a function too."""
    flow = Flow[Any]("f").through(ops.distinct_until_changed)  # type: ignore[arg-type]  # the mistake
    assert "call its factory" in str(summary_of(flow, [1]).error)
