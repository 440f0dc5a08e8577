"""What is special for `batch`: when it calls, and whose answer is whose."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from laws.virtual import quiet, results, summary_of
from penstock import Flow, Service, from_iterable
from penstock.results import DiscardResults
from penstock.sources import ticks
from penstock.steps import Batch


def test_a_full_group_is_asked_for_at_once() -> None:
    """`size` values make a call without waiting; the rest is asked for when the input ends."""
    asked: list[list[int]] = []

    def double(values: list[int]) -> list[int]:
        asked.append(values)
        return [value * 2 for value in values]

    told = results(Flow("f").batch(double, size=3, max_wait=100), range(7))

    assert sorted(map(len, asked)) == [1, 3, 3]
    assert sorted((result.seq, result.value) for result in told) == [(number, number * 2) for number in range(7)]


def test_the_first_of_a_group_waits_no_longer_than_its_seconds() -> None:
    """Ticks of 1 s, groups of 2.5 s: a call at 2.5 s with what is there, and so on."""
    calls: list[tuple[float, list[int]]] = []

    def note(values: list[int]) -> list[int]:
        calls.append((asyncio.get_running_loop().time(), values))
        return values

    summary_of(Flow("f").batch(note, size=100, max_wait=2.5), ticks(1.0, 7))

    assert calls == [(2.5, [0, 1, 2]), (5.5, [3, 4, 5]), (6.0, [6])]


@pytest.mark.parametrize("answer", [[], [1], [1, 2, 3], None, "ab", (1, 2)], ids=repr)
def test_an_answer_of_the_wrong_shape_fails_its_group(answer: Any) -> None:
    """Anything but a list of the same length is a `InvalidCallResult` for every element that was asked for."""
    told = results(Flow("f").batch(lambda _: answer, size=2, max_wait=1, name="both"), [1, 2])

    assert [None if result.ok else result.failure.type for result in told] == ["InvalidCallResult"] * 2
    assert told[0].failure.message == "both: expected a list of 2 responses, one for each value"


def test_an_answer_that_is_an_exception_fails_its_element_alone() -> None:
    """One bad item of a group does not hurt the others."""
    told = results(Flow("f").batch(lambda values: [ValueError("bad"), *values[1:]], size=3, max_wait=1), [1, 2, 3])

    assert sorted((result.seq, result.ok) for result in told) == [(0, False), (1, True), (2, True)]


def test_a_call_that_fails_for_good_fails_its_group() -> None:
    """Every element of the group has the error, and the attempts that were made."""

    async def refuse(_: Any) -> Any:
        raise ConnectionError("down")

    told = results(Flow("f").batch(Service("s", refuse, attempts=3), size=2, max_wait=1), [1, 2])

    assert [(r.failure.type, r.failure.attempts) for r in told if not r.ok] == [("ConnectionError", 3)] * 2


def test_a_group_larger_than_the_window_does_not_wait_for_ever() -> None:
    """With a window of 2 a group of 10 is never full: its seconds end the wait."""

    async def main() -> float:
        flow = Flow("f").window(2).batch(lambda values: values, size=10, max_wait=1)
        return (await flow.start(from_iterable(range(6)), DiscardResults()).finished).seconds

    assert quiet(main()) == pytest.approx(3.0)


@pytest.mark.parametrize(("size", "seconds"), [(0, 1), (1, 0), (1, -1)])
def test_a_group_needs_size_and_time(size: int, seconds: float) -> None:
    """The message has the value."""
    with pytest.raises(
        ValueError,
        match=r"size: expected an integer >= 1, got 0|max_wait: expected a number of seconds > 0, got (0|-1)",
    ):
        Batch(lambda values: values, size=size, max_wait=seconds)
