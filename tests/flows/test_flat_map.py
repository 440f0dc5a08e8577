"""What is special for `flat_map`: parts, and the whole that they belong to."""

from __future__ import annotations

import asyncio
import gc
import itertools
import weakref
from typing import Any

import pytest

from laws.virtual import quiet, results, summary_of
from penstock import Flow, from_iterable
from penstock.deadletters import DeadLetterQuery, MemoryStore
from penstock.results import DiscardResults, ResultConsumer
from penstock.runtime import Summary
from penstock.steps import FlatMap


def test_parts_carry_the_seq_of_their_element_and_a_number() -> None:
    """Every part is told with `seq` and `part`; an element without parts is filtered."""
    flow = Flow("f").flat_map(range, name="parts")

    assert [(result.seq, result.part, result.value) for result in results(flow, [2, 0, 1])] == [
        (0, 0, 0),
        (0, 1, 1),
        (2, 0, 0),
    ]
    assert summary_of(flow, [2, 0, 1]).filtered == 1


def test_an_endless_iterable_is_no_danger() -> None:
    """Parts are made only as far as there is room: `max_parts`, and one that is looked at ahead."""
    made = 0

    def endless(_: Any) -> Any:
        nonlocal made
        while True:
            made += 1
            yield made

    class Never(ResultConsumer):
        def on_next(self, value: Any) -> None:
            pass

    async def main() -> Summary:
        endlessly = Flow("f").flat_map(endless, max_parts=7).start(from_iterable([1]), Never())
        await asyncio.sleep(100)
        endlessly.abort()
        return await endlessly.finished

    assert (quiet(main()).cancelled, made) == (1, 8)


def test_parts_share_one_letter_with_the_original_input() -> None:
    """An element whose parts fail is one failed element with one letter, which every failed part names."""

    async def main() -> tuple[Summary, Any, list[Any]]:
        store = MemoryStore()
        flow = Flow("f").flat_map(lambda value: [value, -1, -2]).map(check).dead_letters(store)
        told = [result async for result in flow.stream(from_iterable([5]))]
        summary = await flow.start(from_iterable([6]), DiscardResults()).finished
        return summary, (await store.page(DeadLetterQuery())).letters, told

    def check(value: int) -> int:
        if value < 0:
            raise ValueError(value)
        return value

    summary, letters, told = quiet(main())
    assert (summary.received, summary.failed, summary.ok) == (1, 1, 0)
    assert [letter.input for letter in letters] == [b"5", b"6"]
    assert {result.dead_letter for result in told if not result.ok} == {letters[0].id}
    assert [result.ok for result in sorted(told, key=lambda result: result.part)] == [True, False, False]


def test_an_iterable_that_breaks_fails_its_element_after_the_parts_it_gave() -> None:
    """The parts before the break are told; the part at which it broke is the failure."""

    def breaks(_: Any) -> Any:
        yield "a"
        raise KeyError("gone")

    told = results(Flow("f").flat_map(breaks, name="parts"), [1])

    assert [(result.part, result.ok) for result in told] == [(0, True), (1, False)]
    assert (told[1].failure.step, told[1].failure.type) == ("parts", "KeyError")


def test_what_is_no_iterable_fails_its_element() -> None:
    """A number has no parts: the element fails at this step, the others go on."""
    told = results(Flow("f").flat_map(lambda value: value), [[1], 2, [3]])

    assert [(result.seq, result.ok) for result in told] == [(0, True), (1, False), (2, True)]


def test_parts_of_parts_settle_their_element_once() -> None:
    """Two in a row: the element of the input is ok when all parts of all parts are."""
    flow = Flow("f").flat_map(lambda value: [value] * 3).flat_map(lambda value: [value] * 4, max_parts=2)

    assert len(results(flow, [1, 2])) == 24
    assert (summary_of(flow, [1, 2]).received, summary_of(flow, [1, 2]).ok) == (2, 2)


def test_an_ordered_run_keeps_parts_behind_those_of_earlier_elements() -> None:
    """Elements come in order whichever part was ready first."""

    async def slow(value: int) -> int:
        await asyncio.sleep(10 - value)
        return value

    flow = Flow("f").flat_map(lambda value: [value] * 2).map_async(slow)

    assert [result.seq for result in results(flow, range(5), ordered=True)] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


def test_an_ordered_run_does_not_stand_still_when_elements_overtake_before_flat_map() -> None:
    """An element that comes to `flat_map` late still gets room for its parts."""

    async def slow(value: int) -> int:
        await asyncio.sleep(5 if value == 0 else 1)
        return value

    flow = Flow("f").map_async(slow).flat_map(lambda value: [value] * 3, max_parts=2)

    assert [result.seq for result in results(flow, range(3), ordered=True)] == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_an_ordered_run_keeps_parts_of_parts_in_order() -> None:
    """All parts of the first part come before those of the second."""
    flow = Flow("f").flat_map(lambda _: [0, 10]).flat_map(lambda value: [value, value + 1]).map_async(str)

    assert [result.value for result in results(flow, [0], ordered=True)] == ["0", "1", "10", "11"]


def test_room_for_no_part_is_refused() -> None:
    """The message has the value."""
    with pytest.raises(ValueError, match="got 0"):
        FlatMap(range, max_parts=0)


def test_an_aborted_run_with_open_parts_is_freed() -> None:
    """The collector does not see through elements, so those that wait to be parted must not be held by their parts."""

    async def main() -> Any:
        flow = Flow("f").flat_map(lambda _: itertools.count(), name="endless").map_async(asyncio.sleep)
        started = flow.start(from_iterable(range(1, 10)), DiscardResults())
        scope = weakref.ref(started.context)
        await asyncio.sleep(0.5)
        started.abort()
        await started.finished
        return scope

    scope = quiet(main())
    gc.collect()
    assert scope() is None
