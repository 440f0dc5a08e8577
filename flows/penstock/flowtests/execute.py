"""Plays a test: the real engine in virtual time, from the source to the dead letters and the client's lines."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from structlog.testing import capture_logs

from penstock.deadletters import DeadLetter, DeadLetterQuery, DeadLetterStore
from penstock.deadletters.memory import CAPACITY
from penstock.errors import describe
from penstock.flow.flow import Flow
from penstock.flowtests.fakes import FakeService
from penstock.flowtests.harness import FlowTestHarness
from penstock.flowtests.models import FlowTest, RunEvent, ScheduledEvent
from penstock.flowtests.rules import RuleCounter
from penstock.flowtests.tracing import ElementRecorder, format_seconds
from penstock.runtime.run import Run
from penstock.runtime.summary import Summary
from penstock.testing import VirtualTimeLoop

LONGEST = 86_400.0
"""Seconds of virtual time that a test may take: a day. One that takes longer hangs."""


@dataclass(frozen=True, slots=True, eq=False)
class FlowTestRun:
    """What came of a test."""

    case: FlowTest
    flow: Flow[Any]
    seed: int
    summary: Summary
    results: tuple[Mapping[str, Any], ...]
    """The records that the client was told, in their order."""
    register: ElementRecorder
    letters: tuple[DeadLetter, ...]
    delivered: Mapping[str, Sequence[Any]]
    calls: Mapping[str, int]
    peak_calls: Mapping[str, int]
    in_flight: int
    unused: tuple[tuple[str, RuleCounter], ...]
    """Rules that applied to no call, each with the name of its service."""
    missed: tuple[str, ...]
    """Events that were to happen after the run was over."""
    troubles: tuple[str, ...]
    """What may never be, whatever is expected."""
    trace: tuple[tuple[float, str], ...]
    real_seconds: float


def run_test(flow: Flow[Any], case: FlowTest, *, seed: int | None = None) -> FlowTestRun:
    """Play a test of a flow; `seed` takes the place of the test's own.

    Raises `FlowDefinitionError` if it cannot be played.
    """
    seed = case.seed if seed is None else seed
    before = random.getstate()
    random.seed(seed)  # what the functions of the flow draw themselves has to be the same each time too
    try:
        with capture_logs(), asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            return runner.run(_play(flow, case, seed))
    finally:
        random.setstate(before)


async def _play(flow: Flow[Any], case: FlowTest, seed: int) -> FlowTestRun:
    began = perf_counter()
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    troubles: list[str] = []
    loop.set_exception_handler(lambda _, context: troubles.append(f"broke outside of the run: {_broken(context)}"))
    stage = FlowTestHarness(flow, case, seed)
    run = stage.start()
    missed = [event.event.shown for event in case.scheduled]
    alarms = [loop.call_later(event.at, _fire_event, event, stage, run, missed) for event in case.scheduled]
    summary = await _finished(run, troubles)
    for alarm in alarms:
        alarm.cancel()
    stage.trace.add(f"the end: {summary.reason}")
    actors = stage.actors
    troubles += [text for name, service in stage.services.items() for text in _unstubbed_calls(name, service)]
    troubles += _leaks(loop, run, stage)
    return FlowTestRun(
        case,
        flow,
        seed,
        summary,
        tuple(stage.client.records),
        stage.register,
        tuple(await _letters(stage.store)),
        {name: outlet.kept for name, outlet in stage.outlets.items()},
        {name: actor.calls for name, actor in actors.items()},
        {name: actor.most for name, actor in actors.items()},
        run.window.peak,
        tuple((name, part) for name, actor in actors.items() for part in actor.rules.parts if not part.applied),
        tuple(missed),
        tuple(troubles),
        tuple(stage.trace.lines),
        perf_counter() - began,
    )


async def _letters(store: DeadLetterStore) -> list[DeadLetter]:
    """All of them, however many pages they fill."""
    page = await store.page(DeadLetterQuery(), limit=CAPACITY)
    letters = page.letters
    while page.next is not None:
        page = await store.page(DeadLetterQuery(), after=page.next, limit=CAPACITY)
        letters += page.letters
    return letters


async def _finished(run: Run, troubles: list[str]) -> Summary:
    """The summary of a run; one that hangs is a finding, and no reason to wait for ever."""
    try:
        async with asyncio.timeout(LONGEST):
            return await run.finished
    except TimeoutError:
        troubles.append(f"the run did not end within {format_seconds(LONGEST)} of virtual time")
        run.abort()
        return await run.finished


def _fire_event(event: ScheduledEvent, stage: FlowTestHarness, run: Run, missed: list[str]) -> None:
    """An event comes about."""
    missed.remove(event.event.shown)
    stage.trace.add(event.event.shown)
    match event.event:
        case RunEvent.DRAIN:
            run.drain()
        case RunEvent.ABORT:
            run.abort()
        case RunEvent.CLIENT_DISCONNECTS:
            stage.client.gone = True
            run.abort("disconnected")


def _unstubbed_calls(name: str, service: FakeService) -> list[str]:
    asked = list(dict.fromkeys(service.unscripted))
    if not asked:
        return []
    return [
        f"{name} is asked over HTTP, which no test does, and no rule fits its call for {', '.join(asked)}; "
        f"script it: when: {{{name}: {{returns: …}}}}"
    ]


def _leaks(loop: VirtualTimeLoop, run: Run, stage: FlowTestHarness) -> list[str]:
    """What a run may not leave, however it ended."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    left = sorted(f"the task {task.get_name().replace(run.id, 'run')}" for task in tasks)
    left += [f"the timer {timer}" for timer in loop.timers()]
    left += [f"a call of {name}" for name, actor in stage.actors.items() if actor.under_way]
    left += [f"the outlet {name}, open" for name, outlet in stage.outlets.items() if outlet.opened]
    return [f"left behind: {', '.join(left)}"] if left else []


def _broken(context: Mapping[str, Any]) -> str:
    error = context.get("exception")
    return describe(error) if isinstance(error, BaseException) else str(context.get("message"))
