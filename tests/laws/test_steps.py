"""One suite for all steps: what each of them promises, whatever it does with a value."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reactivex import Observable, Observer
from reactivex import operators as ops
from structlog.testing import capture_logs

from laws.virtual import timers, within
from penstock import steps
from penstock.core.context import RunContext
from penstock.core.element import Element, Operator, Outcome
from penstock.core.window import Window
from penstock.deadletters import DeadLetter, MemoryStore
from penstock.errors import NotInsideRun
from penstock.results.line_writer import encode
from penstock.runtime.failure_branch import dead_letter as keep
from penstock.services import Service
from penstock.steps.slices import sliced
from penstock.support.ids import new_id, now
from penstock.testing import run


class Refused(Exception):
    """What the functions under test raise."""


class Bug(Exception):
    """What breaks behind a step."""


def refuse(value: Any) -> Any:
    """A user's function: fails for negative numbers."""
    if value < 0:
        raise Refused(value)
    return value


async def refuse_later(value: Any) -> Any:
    await asyncio.sleep(1)
    return refuse(value)


async def refuse_each(values: list[Any]) -> list[Any]:
    await asyncio.sleep(1)
    return [value if value >= 0 else Refused(value) for value in values]


def refuse_parts(value: Any) -> Any:
    refuse(value)
    return [value, value]


async def hang(_: Any) -> None:
    await asyncio.sleep(1e6)


class Box:
    """An outlet that refuses negative numbers."""

    name = ""

    async def open(self) -> None:
        await asyncio.sleep(0.1)

    async def write(self, values: Sequence[Any]) -> list[Exception | None]:
        await asyncio.sleep(1)
        return [Refused(value) if value < 0 else None for value in values]

    async def aclose(self) -> None:
        await asyncio.sleep(0.1)


def letters_for(elements: Sequence[Element[Any]]) -> list[DeadLetter]:
    return [
        DeadLetter(
            id=new_id(),
            flow="f",
            run="r",
            seq=element.seq,
            step="s",
            type="t",
            message="m",
            input=b"",
            input_size=0,
            started_at=now(),
            failed_at=now(),
        )
        for element in elements
    ]


STEPS: dict[str, Callable[[], Operator[Any, Any]]] = {
    "batch": partial(steps.Batch, refuse_each, size=3, max_wait=0.5, name="step"),
    "route": partial(
        steps.Route,
        [
            steps.Branch("even", lambda value: refuse(value) % 2 == 0, (steps.MapAsync(refuse_later),)),
            steps.Branch("three", lambda value: value == 3, (steps.FlatMap(refuse_parts),), final=True),
            steps.Branch("five", lambda value: value == 5, final=True),
        ],
        name="step",
    ),
    "dead_letter": partial(keep, MemoryStore(), letters_for),
    "decode": partial(steps.decode, int, name="step"),
    "encode": partial(encode, lambda element: b"%d" % refuse(element.value), name="step"),
    "enrich": partial(steps.Enrich, {"step": refuse_later}, name="enrich", merge=lambda value, _: value),
    "fail": partial(steps.Fail, lambda value: refuse(value) is None, reason="rejected", name="step"),
    "filter": partial(steps.Filter, lambda value: refuse(value) + 1, name="step"),
    "flat_map": partial(steps.FlatMap, refuse_parts, max_parts=3, name="step"),
    "map": partial(steps.Map, refuse, name="step"),
    "map_async": partial(steps.MapAsync, refuse_later, name="step"),
    "map_async ordered": partial(steps.MapAsync, refuse_later, ordered=True, name="step"),
    "sliced": partial(sliced, "step"),
    "tap": partial(steps.Tap, refuse, name="step"),
    "throttle": partial(steps.Throttle, 10.0, name="step"),
    "through": partial(steps.Through, ops.map(refuse), name="step"),
    "to": lambda: steps.To((Box(), Box()), name="step"),
}
"""Every step by its name, around a function that refuses negative numbers where it takes one."""

WITH_FUNCTION = sorted(set(STEPS) - {"dead_letter", "decode", "encode", "sliced", "throttle"})
FAILED = "before"
"""The step at which the elements failed that a step is to leave alone."""


@dataclass
class Through:
    """What came out of a step."""

    values: list[Any]
    elements: list[Element[Any]]
    completions: int
    faults: list[BaseException]
    tasks: list[str]
    timers: int
    scope: RunContext


async def send(
    step: Operator[Any, Any], values: list[Any], *, size: int = 2, cut: float | None = None, bug: str = ""
) -> Through:
    """Send values through a step, `size` a notification; None stands for an element that has failed already.

    Who takes what comes out has a bug: in `elements`, or at the `end`.
    """
    before = timers()
    faults: list[BaseException] = []
    scope = RunContext(Window(1000), on_fault=faults.append)
    out = Through([], [], 0, faults, [], 0, scope)
    completed = asyncio.Event()

    def feed(observer: Any, _: Any = None) -> Any:
        async def produce() -> None:
            elements = [Element(value, seq, scope.ledger, value) for seq, value in enumerate(values)]
            scope.window.acquire(len(elements))
            scope.ledger.received += len(elements)
            for element in elements:
                if element.value is None:
                    element.fail(FAILED, Refused("earlier"))
            for start in range(0, len(elements), size):
                observer.on_next(elements[start : start + size])
                await asyncio.sleep(0.1)
            observer.on_completed()

        scope.spawn(produce(), "source")

    def take(elements: list[Element[Any]]) -> None:
        assert elements, "told about nothing"
        assert not completed.is_set(), "an element after the completion"
        if bug == "elements":
            raise Bug
        out.elements += elements
        out.values += [element.value for element in elements]
        scope.ledger.settle_accepted(elements)

    def complete() -> None:
        if bug == "end":
            raise Bug
        out.completions += 1
        completed.set()

    wires = step(Observable(feed)).subscribe(Observer(take, faults.append, complete), scheduler=scope)
    if cut is None:
        await completed.wait()
        await asyncio.sleep(10)
    else:
        await asyncio.sleep(cut)
    wires.dispose()
    await scope.aclose()
    await asyncio.sleep(0)  # in which idle callers of services end
    out.tasks = [task.get_name() for task in asyncio.all_tasks() - {asyncio.current_task()}]
    out.timers = len([timer for timer in timers() if timer not in before])
    return out


def sent(step: Operator[Any, Any], values: list[Any], **how: Any) -> Through:
    with capture_logs():
        return run(within(10_000, send(step, values, **how)))


every_step = pytest.mark.parametrize("name", sorted(STEPS))
step_for_what_is_good = pytest.mark.parametrize("name", sorted(set(STEPS) - {"dead_letter"}))


def test_every_operator_is_under_test() -> None:
    """A step that is added to `penstock.steps` is held to this suite too."""
    records = [each for each in vars(steps).values() if isinstance(each, type) and issubclass(each, steps.Step)]
    assert {record.kind for record in records if record is not steps.Step} - {"operator"} <= set(STEPS)


@every_step
def test_an_empty_input_completes_at_once(name: str) -> None:
    """No element in, none out, one completion."""
    out = sent(STEPS[name](), [])

    assert (out.elements, out.completions, out.faults) == ([], 1, [])


@every_step
@settings(max_examples=15, deadline=None)
@given(values=st.lists(st.none() | st.integers(0, 9), max_size=12), size=st.integers(1, 5))
def test_a_step_completes_once_after_its_last_element(name: str, values: list[Any], size: int) -> None:
    """However elements come: each comes out (or is settled), then there is one completion, and nothing after it."""
    out = sent(STEPS[name](), values, size=size)

    assert (out.completions, out.faults, out.scope.ledger.in_flight) == (1, [], 0)
    assert {element.seq for element in out.elements} == set(range(len(values)))


@step_for_what_is_good
def test_failed_elements_pass_untouched(name: str) -> None:
    """What failed before stays as it failed: no step looks at it, and no part is made of it."""
    out = sent(STEPS[name](), [None, 1, None])
    failed = [element for element in out.elements if element.value is None]

    assert [element.seq for element in failed] == [0, 2]
    assert all(element.failure is not None and element.failure.step == FAILED for element in failed)


@pytest.mark.parametrize("name", WITH_FUNCTION)
def test_a_function_that_raises_fails_that_element_alone(name: str) -> None:
    """The element fails at this step with its error's type and message; its neighbours are ok."""
    out = sent(STEPS[name](), [1, -2, 3, 4], size=4)
    failed = {element.seq: element.failure for element in out.elements if element.outcome is Outcome.FAILED}

    assert list(failed) == [1]
    assert failed[1] is not None
    assert (failed[1].step, failed[1].type, failed[1].message) == ("step", "Refused", "-2")
    assert out.scope.ledger.settled == {"ok": 3, "failed": 1, "filtered": 0, "cancelled": 0}


@every_step
@pytest.mark.parametrize("cut", [0.0, 0.05, 0.15, 0.35, 1.05])
def test_cancelling_midway_leaves_nothing(name: str, cut: float) -> None:
    """Disposed in the middle: no task, no timer, and nothing comes out any more."""
    out = sent(STEPS[name](), list(range(40)), cut=cut)

    assert (out.tasks, out.timers, out.completions, out.faults) == ([], 0, 0, [])


@every_step
@pytest.mark.parametrize("bug", ["elements", "end"])
def test_what_breaks_behind_a_step_is_a_fault_of_the_run(name: str, bug: str) -> None:
    """Whoever hands elements on (a task, a timer, an answer): the run is told of the bug, and does not hang."""
    out = sent(STEPS[name](), [1, 2, 3], size=3, cut=20, bug=bug)

    assert {type(fault) for fault in out.faults} == {Bug}
    assert (out.tasks, out.timers) == ([], 0)


@pytest.mark.parametrize("name", ["map_async", "enrich", "batch"])
def test_cancelling_reaches_the_calls_under_way(name: str) -> None:
    """A call that would take days is cancelled with its run, and the service has no worker left."""
    service = Service("s", hang, timeout=1e6)
    calling = {
        "map_async": lambda: steps.MapAsync(service),
        "enrich": lambda: steps.Enrich({"a": service}),
        "batch": lambda: steps.Batch(service, size=1, max_wait=1),
    }
    out = sent(calling[name](), [1, 2, 3], cut=5)

    statistics = service.statistics()
    assert (statistics.in_flight, statistics.waiting, service.bulkhead.tasks) == (0, 0, [])
    assert statistics.results["cancelled"] == 3
    assert out.tasks == []


@step_for_what_is_good
def test_a_step_works_inside_a_run_only(name: str) -> None:
    """Subscribed without a scope, a step says how to start it; nothing was begun."""
    with pytest.raises(NotInsideRun, match=r"use flow.run\(source\) or flow.stream\(source\)"):
        STEPS[name]()(Observable(lambda *_: None)).subscribe(lambda _: None)
