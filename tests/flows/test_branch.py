"""What is special for `branch`: which way values take, and what is finished at the end of a way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reactivex import Observable, Subject, throw
from reactivex import operators as ops

from laws.test_steps import send
from laws.virtual import quiet, summary_of
from penstock import Flow, Service, from_iterable, steps
from penstock.core.element import Element, Outcome
from penstock.core.ledger import Ledger
from penstock.core.window import Window
from penstock.errors import FlowDefinitionError
from penstock.flow.flow import When
from penstock.results import DiscardResults, LineWriter, Result, ResultStream, ServerSentEvents
from penstock.runtime import Run, Summary
from penstock.runtime.wiring import RunPlan, partition
from penstock.steps import Branch


def flow_of(*steps: Any, window: int = 256) -> Flow[Any]:
    """A flow of steps."""
    flow: Flow[Any] = Flow("f", elements=window)
    for number, step in enumerate(steps):
        flow = flow.operator(step, max_parts=1000, name=f"step-{number}")
    return flow


def results(*steps: Any, values: Any, ordered: bool = False, window: int = 256) -> list[Result[Any]]:
    """What becomes of values, in the order in which they come."""

    async def main() -> list[Result[Any]]:
        source = from_iterable(values)
        return [result async for result in flow_of(*steps, window=window).stream(source, ordered=ordered)]

    return quiet(main())


def even(value: int) -> bool:
    return value % 2 == 0


def add(number: int) -> Any:
    return steps.Map(lambda value: value + number, name=f"add {number}")


async def later(value: int) -> int:
    await asyncio.sleep(1)
    return value


async def late_if_first(value: int) -> int:
    await asyncio.sleep(20 if value == 0 else 1)
    return value


def told(results: list[Result[Any]]) -> dict[int, Any]:
    return {result.seq: result.value for result in results}


def test_each_value_takes_the_first_branch_that_wants_it() -> None:
    """Conditions are tried in order; what no branch takes goes on as it is."""
    step = steps.Route(
        [Branch("small", lambda value: value < 3, (add(10),)), Branch("even", even, (add(100),))],
    )

    assert told(results(step, values=range(6))) == {0: 10, 1: 11, 2: 12, 3: 3, 4: 104, 5: 5}


def test_a_branch_without_condition_takes_the_rest() -> None:
    """Everything that no branch before took, and nothing else."""
    step = steps.Route([Branch("even", even), Branch("others", steps=(add(10),))])

    assert told(results(step, values=range(4))) == {0: 0, 1: 11, 2: 2, 3: 13}


def test_each_condition_is_asked_once_and_only_as_far_as_needed() -> None:
    """One look per element: no condition after the one that was true, and none twice."""
    asked: list[tuple[str, int]] = []

    def ask(name: str, wanted: int) -> Callable[[int], bool]:
        return lambda value: asked.append((name, value)) or value == wanted  # type: ignore[func-returns-value]

    summary_of(flow_of(steps.Route([Branch("a", ask("a", 0)), Branch("b", ask("b", 1))])), range(3))

    assert asked == [("a", 0), ("a", 1), ("b", 1), ("a", 2), ("b", 2)]


def test_a_condition_that_raises_fails_that_element_alone() -> None:
    """The element fails at the step of the branches; the others go their ways."""
    step = steps.Route([Branch("first", lambda value: 6 % value, (add(10),))], name="choose")
    came = {result.seq: result for result in results(step, values=[4, 0, 3])}

    assert (came[0].value, came[2].value) == (14, 3)
    assert (came[1].failure.step, came[1].failure.type) == ("choose", "ZeroDivisionError")


def test_a_slow_branch_does_not_hold_up_the_others() -> None:
    """What takes the quick way overtakes what takes the slow one."""
    step = steps.Route([Branch("slow", even, (steps.MapAsync(later),))])

    assert [result.value for result in results(step, values=range(4))] == [1, 3, 0, 2]


def test_an_ordered_run_brings_the_branches_back_in_order() -> None:
    """Whichever branch is slow, and whether it ends: results come in the order of the input."""
    slow = Branch("slow", even, (steps.MapAsync(later),))
    ending = Branch("ending", lambda value: value % 3 == 0, (steps.MapAsync(late_if_first),), final=True)

    assert [result.seq for result in results(steps.Route([slow, ending]), values=range(9), ordered=True)] == [*range(9)]


def test_elements_that_travel_together_stay_together_in_their_branch() -> None:
    """One notification for each branch that some of them take."""
    seen: dict[str, list[list[int]]] = {"even": [], "odd": [], "after": []}

    def watch(name: str) -> Any:
        def step(source: Observable[Any]) -> Observable[Any]:
            return source.pipe(ops.do_action(lambda them: seen[name].append([one.value for one in them])))

        return steps.CustomOperator(step)

    branches = [
        Branch(name, when, (steps.CustomOperator(watch(name)),)) for name, when in (("even", even), ("odd", None))
    ]
    step = steps.Route(branches)

    async def main() -> Any:
        return await send(lambda source: watch("after")(step(source)), list(range(6)), size=3)

    quiet(main())
    assert seen == {"even": [[0, 2], [4]], "odd": [[1], [3, 5]], "after": [[0, 2], [1], [4], [3, 5]]}


def test_branches_of_branches() -> None:
    """A branch may branch; what an inner branch finishes, the outer one's steps leave alone."""
    inner = steps.Route([Branch("four", lambda value: value == 4, (add(1000),), final=True)])
    outer = steps.Route([Branch("even", even, (inner, add(10)))])

    assert told(results(outer, add(100), values=range(5))) == {0: 110, 1: 101, 2: 112, 3: 103, 4: 1004}


# What a branch that ends gives out is finished


def _never(value: Any) -> Any:
    raise AssertionError(f"{value} was finished")


async def _never_later(value: Any) -> Any:
    _never(value)


AFTER: dict[str, Any] = {
    "map": steps.Map(_never),
    "filter": steps.Filter(_never),
    "fail": steps.Fail(_never, reason="x"),
    "tap": steps.Tap(_never),
    "flat_map": steps.FlatMap(_never),
    "map_async": steps.MapAsync(_never_later),
    "map_async ordered": steps.MapAsync(_never_later, ordered=True),
    "enrich": steps.Enrich({"a": _never_later}),
    "batch": steps.Batch(_never_later, size=2, max_wait=1),
    "throttle": steps.Throttle(0.001),
    "through": steps.Through(ops.map(_never)),
    "branch": steps.Route([Branch("a", _never)]),
}


@pytest.mark.parametrize("name", AFTER)
@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("inside", [(), (steps.MapAsync(later),)], ids=["at once", "later"])
def test_no_later_step_touches_what_is_finished(name: str, ordered: bool, inside: tuple[Any, ...]) -> None:
    """Finished values come to the results as they are, as ok, past every kind of step."""
    step = steps.Route([Branch("all", steps=inside, final=True)])
    came = results(step, AFTER[name], values=range(5), ordered=ordered)
    facts = [(result.ok, result.seq, result.value) for result in came]

    assert (facts if ordered else sorted(facts)) == [(True, number, number) for number in range(5)]


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("form", [None, ServerSentEvents()])
def test_what_is_finished_is_written_like_any_success(ordered: bool, form: Any) -> None:
    """A line for each, the same as without the branch; and the accounts count them as ok."""
    written: list[bytes] = []

    async def write(data: bytes) -> None:
        written.append(data)

    def play(*steps: Any) -> tuple[Summary, bytes]:
        written.clear()
        summary = summary_of(flow_of(*steps), range(7), LineWriter(write, form), ordered=ordered)
        return summary, b"".join(written)

    some = steps.Route([Branch("some", even, final=True)])
    summary, data = play(some)

    assert summary.ok == 7
    assert sorted(data.splitlines()) == sorted(play()[1].splitlines())


def test_a_finished_value_that_cannot_be_written_fails() -> None:
    """The end of a branch does not excuse it from being encoded: it fails at `encode`, alone."""
    written: list[bytes] = []

    async def write(data: bytes) -> None:
        written.extend(data.splitlines())

    ending = steps.Route([Branch("all", steps=(steps.Map(lambda value: value or object()),), final=True)])
    summary = summary_of(flow_of(ending), range(3), LineWriter(write))
    records = [msgspec.json.decode(line) for line in written]

    assert (summary.ok, summary.failed) == (2, 1)
    assert [record["error"]["type"] for record in records if not record["ok"]] == ["EncodingFailed"]


def test_what_failed_or_was_filtered_in_a_branch_that_ends_stays_so() -> None:
    """The end of a branch makes no success of anything."""
    inside = (steps.Filter(lambda value: value != 1), steps.Map(lambda value: 6 // value))
    summary = summary_of(flow_of(steps.Route([Branch("all", steps=inside, final=True)])), range(4))

    assert (summary.received, summary.ok, summary.failed, summary.filtered) == (4, 2, 1, 1)


# Parts


def test_parts_take_branches_and_settle_their_element_once() -> None:
    """Some parts are finished, some go on, some fail: their element is failed, once, and the others' ok."""
    parts = steps.FlatMap(lambda value: range(value))
    step = steps.Route([Branch("even", even, final=True), Branch("three", lambda value: value == 3, (add("x"),))])
    summary = summary_of(flow_of(parts, step, add(10)), [2, 4, 3])

    assert (summary.received, summary.ok, summary.failed) == (3, 2, 1)


def test_a_finished_part_counts_as_ok_for_its_element() -> None:
    """An element of which all parts are finished is ok."""
    made = steps.FlatMap(lambda value: [value, value])
    came = results(steps.Route([Branch("all", steps=(made,), final=True)]), add(10), values=[1, 2])

    assert [(result.seq, result.part, result.value) for result in came] == [(0, 0, 1), (0, 1, 1), (1, 0, 2), (1, 1, 2)]
    assert summary_of(flow_of(steps.Route([Branch("all", steps=(made,), final=True)])), [1, 2]).ok == 2


def test_an_ordered_run_does_not_stand_still_at_a_flat_map_inside_a_branch() -> None:
    """Two branches make parts with little room, and the first element comes last: all come out, in order."""
    parts = steps.FlatMap(lambda value: [value] * 3, max_parts=1)
    others = steps.FlatMap(lambda value: [value] * 2, max_parts=2)
    main_steps = (
        steps.MapAsync(late_if_first),
        steps.Route([Branch("even", even, (parts,)), Branch("odd", None, (others,))]),
    )

    assert [result.seq for result in results(*main_steps, values=range(6), ordered=True)] == [
        0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 4, 4, 4, 5, 5
    ]  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    delays=st.lists(st.sampled_from((0.0, 1.0, 5.0)), min_size=1, max_size=5),
    rooms=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3)),
    sizes=st.lists(st.integers(0, 4), min_size=1, max_size=4),
    window=st.integers(1, 7),
    count=st.integers(0, 14),
    ends=st.booleans(),
)
def test_no_order_of_arrival_stops_an_ordered_run_with_parts_in_branches(
    delays: list[float], rooms: tuple[int, int, int], sizes: list[int], window: int, count: int, ends: bool
) -> None:
    """Parts of parts, before, inside and after branches, whatever overtakes what: every part comes, in order."""

    async def delayed(value: tuple[int, ...]) -> tuple[int, ...]:
        await asyncio.sleep(delays[sum(value) % len(delays)])
        return value

    def parts(room: int) -> Any:
        return steps.FlatMap(
            lambda value: [(*value, part) for part in range(sizes[sum(value) % len(sizes)])], max_parts=room
        )

    def chosen(value: tuple[int, ...]) -> bool:
        return sum(value) % 2 == 0

    inside = (steps.MapAsync(delayed), parts(rooms[1]), steps.MapAsync(delayed))
    main_steps = (
        parts(rooms[0]),
        steps.MapAsync(delayed),
        steps.Route([Branch("some", chosen, inside, final=ends)]),
        parts(rooms[2]),
    )
    came = results(*main_steps, values=[(number,) for number in range(count)], ordered=True, window=window)
    free = results(*main_steps, values=[(number,) for number in range(count)], window=1000)

    assert [result.value for result in came] == sorted(result.value for result in free)


def test_an_early_element_gets_one_part_beyond_the_room_and_no_more() -> None:
    """With room for two, taken by parts that wait for the first element, that one's parts go one at a time."""
    open_now: list[int] = []
    at_once = 0

    def note(value: Any) -> None:
        nonlocal at_once
        open_now.append(value)
        at_once = max(at_once, open_now.count(0))

    async def main() -> None:
        flow = flow_of(
            steps.MapAsync(late_if_first),
            steps.Route([Branch("all", steps=(steps.FlatMap(lambda value: [value] * 5, max_parts=2),))]),
            steps.Tap(note),
        )
        sink = ResultStream()
        run = flow.start(from_iterable(range(3)), sink, ordered=True)
        while (result := await sink.next()) is not None:
            if result.value == 0:
                open_now.remove(0)
            await asyncio.sleep(1)
        await run.finished

    quiet(main())
    assert at_once == 1


# Credits, ends and faults


def test_take_inside_a_branch_leaves_the_input_open() -> None:
    """The operator is done with its branch, not with the run: the branch's rest is filtered, the others go on."""
    step = steps.Route([Branch("even", even, (steps.Through(ops.take(2)),))])
    summary = summary_of(flow_of(step, window=2), range(20))

    assert (summary.reason, summary.received, summary.ok, summary.filtered) == ("completed", 20, 12, 8)


def test_several_branches_give_out_at_their_end() -> None:
    """Values that operators kept until the end all get an element of their own, in a window for one."""
    rest = steps.Through(ops.take_last(2))
    step = steps.Route([Branch("even", even, (rest,)), Branch("odd", None, (rest,))])
    came = results(step, values=range(10), window=1)

    assert sorted(result.value for result in came) == [6, 7, 8, 9]
    assert [result.seq for result in came] == [10, 11, 12, 13]


def test_an_abort_reaches_into_the_branches() -> None:
    """Calls under way inside a branch are cancelled, and their elements."""

    async def forever(_: Any) -> None:
        await asyncio.sleep(1e6)

    async def main() -> Summary:
        step = steps.Route([Branch("even", even, (steps.MapAsync(Service("forever", forever, timeout=1e7)),))])
        run = flow_of(step).start(from_iterable(range(4)), DiscardResults())
        await asyncio.sleep(1)
        run.abort()
        return await run.finished

    summary = quiet(main())
    assert (summary.ok, summary.cancelled, summary.seconds) == (2, 2, 1)


def test_a_step_inside_a_branch_that_breaks_breaks_the_run() -> None:
    """An error of the stream itself is loud, and says what it was."""

    def broken(source: Observable[Any]) -> Observable[Any]:
        return source.pipe(ops.flat_map(lambda _: throw(KeyError("a bug"))))

    step = steps.Route([Branch("even", even, (steps.CustomOperator(broken),))])

    async def main() -> Summary:
        return await Run(RunPlan("f", (step,)), from_iterable(range(4)), DiscardResults()).finished

    summary = quiet(main())
    assert (summary.reason, summary.error) == ("failed", "'a bug'")
    assert summary.received == summary.ok + summary.cancelled


def test_an_entrance_takes_one_subscriber() -> None:
    """A step that subscribes twice to what comes in would see everything twice: refused, and loud."""
    twice = steps.CustomOperator(lambda source: source.pipe(ops.merge(source)))
    doubled = steps.Route([Branch("all", steps=(twice,))])

    assert "one subscriber" in (summary_of(flow_of(doubled), [1]).error or "")


@given(
    st.lists(st.sampled_from([None, Outcome.OK, Outcome.FAILED, Outcome.FILTERED]), max_size=9),
)
def test_route_and_accept_count_what_is_finished_as_ok(outcomes: list[Outcome | None]) -> None:
    """At the end OK and nothing decided are the same: the success branch, and settled as ok."""

    ledger = Ledger(Window(10))
    ledger.window.acquire(len(outcomes))
    ledger.received = len(outcomes)
    elements = [Element(seq, seq, ledger, outcome=outcome) for seq, outcome in enumerate(outcomes)]
    good: list[int] = []
    source: Subject[list[Element[Any]]] = Subject()
    branches = partition(source)
    branches.success.subscribe(lambda them: good.extend(one.seq for one in them))
    branches.failure.subscribe()
    branches.filtered.subscribe()
    source.on_next(elements)
    ledger.settle_accepted(elements)
    wanted = [seq for seq, outcome in enumerate(outcomes) if outcome in (None, Outcome.OK)]

    assert good == wanted == [element.seq for element in elements if element.ok]
    assert ledger.settled[Outcome.OK] == len(wanted)


@pytest.mark.parametrize(
    ("branches", "message"),
    [
        ([], "pick: expected at least one branch"),
        ([Branch("a", even), Branch("a")], "pick: two branches are called 'a'"),
        ([Branch("a"), Branch("b", even)], "pick: branch 'a' takes all values; make it the last branch"),
    ],
)
def test_branches_that_make_no_sense_are_refused(branches: list[Branch], message: str) -> None:
    """Said when the step is made, with what to do."""
    with pytest.raises(FlowDefinitionError, match=message):
        steps.Route(branches, name="pick")


@pytest.mark.parametrize(
    "more",
    [
        lambda branch: branch.dead_letters("memory"),
        lambda branch: branch.window(3),
        lambda branch: branch.order(),
        lambda branch: branch.worker("a", from_iterable([1])),
        lambda branch: branch.serve(http=False),
    ],
)
def test_a_branch_says_steps_and_nothing_else(more: Callable[[Flow[Any]], Flow[Any]]) -> None:
    """What else is said on it would be passed over: the flow has one window, one store."""
    with pytest.raises(FlowDefinitionError, match="branch big of route: a branch has steps only; set "):
        Flow[int]("f").route(big=When(lambda value: value > 2, lambda branch: more(branch.map(str))))
