"""What is special for `through`: operators of reactivex, with the credits kept right."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from reactivex import Subject
from reactivex import operators as ops

from laws.plans import quiet, results, summary_of
from penstock import Flow, from_iterable
from penstock.runtime import Summary
from penstock.sinks import Discard


def told(operator: Any, values: Any) -> list[tuple[int, int | None, Any]]:
    """What a flow with this one operator gives out, by seq."""
    found = results(Flow("f").through(operator), values)
    return sorted(
        ((result.seq, result.part, result.value if result.ok else result.failure) for result in found),
        key=lambda result: (result[0], result[1] or 0),
    )


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


def test_the_value_at_the_end_belongs_to_the_last_element() -> None:
    """`reduce` speaks when the input ends: its value is the last element's, the others are filtered."""
    total = ops.reduce(lambda total, value: total + value, 0)

    assert told(total, [1, 2, 3]) == [(2, None, 6)]
    assert summary_of(Flow("f").through(total), [1, 2, 3]).filtered == 2


def test_groups_belong_to_their_last_element() -> None:
    """`buffer_with_count` gives each full group to the element that filled it, the rest to the last one."""
    assert told(ops.buffer_with_count(2), [1, 2, 3, 4, 5]) == [(1, None, [1, 2]), (3, None, [3, 4]), (4, None, [5])]


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


def test_an_operator_that_raises_fails_its_element_and_starts_anew() -> None:
    """The failure names the step; what the operator remembered is gone."""
    seen = told(ops.scan(lambda total, value: total + 1 // value, 0), [1, 0, 1])

    assert (seen[0], seen[2]) == ((0, None, 1), (2, None, 1))
    assert (seen[1][2].step, seen[1][2].type) == ("through", "ZeroDivisionError")


def test_an_operator_that_raises_at_the_end_fails_the_last_element() -> None:
    """What breaks when the input has ended is the last element's failure."""
    seen = told(lambda source: source.pipe(ops.count(), ops.map(lambda _: 1 // 0)), [1, 2])

    assert [(seq, failure.type) for seq, _, failure in seen] == [(1, "ZeroDivisionError")]


def test_an_operator_with_a_clock_is_refused() -> None:
    """A timed operator cannot work between elements: each of them fails, and no thread is started."""
    before = threading.active_count()
    seen = told(ops.delay(1.0), [1])

    assert [(seq, failure.type) for seq, _, failure in seen] == [(0, "WouldBlockException")]
    assert threading.active_count() == before


def test_a_value_that_no_element_caused_breaks_the_run_loudly() -> None:
    """An operator that speaks between elements ends the run, and the sentence says why."""
    late: Subject[int] = Subject()

    async def main() -> Summary:
        flow = Flow("f").throttle(0.1).through(ops.merge(late))
        running = flow.start(from_iterable([1, 2]), Discard())
        await asyncio.sleep(1)
        late.on_next(7)
        return await running.finished

    summary = quiet(main())
    assert summary.reason == "failed"
    assert "takes synchronous operators only" in str(summary.error)


@pytest.mark.xfail(reason="the element that is held back keeps the only credit", strict=True)
def test_a_window_of_one_does_not_stand_still() -> None:
    """The element that `through` holds back does not keep the next one out for ever."""
    summary = summary_of(Flow("f").window(1).through(ops.distinct_until_changed()), [1, 1, 2])

    assert summary.ok == 2


@pytest.mark.xfail(reason="what came after the element held back waits for it, until the window is full", strict=True)
def test_an_ordered_run_does_not_stand_still() -> None:
    """The element that `through` holds back does not keep those after it from the reader for ever."""
    flow = Flow("f").window(4).through(ops.distinct_until_changed())

    assert [result.seq for result in results(flow, [1, 1, *range(2, 9)], ordered=True)] == [0, *range(2, 9)]
