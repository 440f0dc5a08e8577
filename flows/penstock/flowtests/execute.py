"""Run a test: the real engine in virtual time, from the source to the dead letters and the records for the client."""

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

MAX_VIRTUAL_SECONDS = 86_400.0
"""The maximum duration of a test, in seconds of virtual time: a day. A test that takes longer hangs."""


@dataclass(frozen=True, slots=True, eq=False)
class FlowTestRun:
    """What happened when a test ran."""

    case: FlowTest
    flow: Flow[Any]
    seed: int
    summary: Summary
    results: tuple[Mapping[str, Any], ...]
    """The records that the client received, in their order."""
    recorder: ElementRecorder
    letters: tuple[DeadLetter, ...]
    delivered: Mapping[str, Sequence[Any]]
    """The values that each sink accepted."""
    calls: Mapping[str, int]
    peak_calls: Mapping[str, int]
    in_flight: int
    """The maximum of elements in flight."""
    unused: tuple[tuple[str, RuleCounter], ...]
    """The rules that applied to no call, each with the name of its service."""
    missed: tuple[str, ...]
    """The events that were scheduled for a time after the end of the run."""
    problems: tuple[str, ...]
    """Problems that make every test fail, whatever it expects."""
    trace: tuple[tuple[float, str], ...]
    real_seconds: float


def run_test(flow: Flow[Any], case: FlowTest, *, seed: int | None = None) -> FlowTestRun:
    """Run a test of a flow. `seed` replaces the seed of the test.

    Raises `FlowDefinitionError` if the flow cannot be tested.
    """
    seed = case.seed if seed is None else seed
    before = random.getstate()
    random.seed(seed)  # functions of the flow that use `random` have to draw the same numbers each time
    try:
        with capture_logs(), asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            return runner.run(_run(flow, case, seed))
    finally:
        random.setstate(before)


async def _run(flow: Flow[Any], case: FlowTest, seed: int) -> FlowTestRun:
    began = perf_counter()
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    problems: list[str] = []
    loop.set_exception_handler(lambda _, context: problems.append(f"error outside of the run: {_describe(context)}"))
    harness = FlowTestHarness(flow, case, seed)
    run = harness.start()
    missed = [event.event.shown for event in case.scheduled]
    timers = [loop.call_later(event.at, _fire_event, event, harness, run, missed) for event in case.scheduled]
    summary = await _finished(run, problems)
    for timer in timers:
        timer.cancel()
    harness.trace.add(f"run ended: {summary.reason}")
    fakes = harness.fakes
    problems += [text for name, service in harness.services.items() for text in _unstubbed_calls(name, service)]
    problems += _leaks(loop, run, harness)
    return FlowTestRun(
        case,
        flow,
        seed,
        summary,
        tuple(harness.client.records),
        harness.recorder,
        tuple(await _letters(harness.store)),
        {name: sink.delivered for name, sink in harness.sinks.items()},
        {name: fake.calls for name, fake in fakes.items()},
        {name: fake.peak_calls for name, fake in fakes.items()},
        run.window.peak,
        tuple((name, rule) for name, fake in fakes.items() for rule in fake.rules.counters if not rule.applied),
        tuple(missed),
        tuple(problems),
        tuple(harness.trace.lines),
        perf_counter() - began,
    )


async def _letters(store: DeadLetterStore) -> list[DeadLetter]:
    """Return the dead letters of all pages."""
    page = await store.page(DeadLetterQuery(), limit=CAPACITY)
    letters = page.letters
    while page.next is not None:
        page = await store.page(DeadLetterQuery(), after=page.next, limit=CAPACITY)
        letters += page.letters
    return letters


async def _finished(run: Run, problems: list[str]) -> Summary:
    """Wait for the end of a run. A run that hangs is aborted and becomes a problem."""
    try:
        async with asyncio.timeout(MAX_VIRTUAL_SECONDS):
            return await run.finished
    except TimeoutError:
        problems.append(f"the run did not end within {format_seconds(MAX_VIRTUAL_SECONDS)} of virtual time")
        run.abort()
        return await run.finished


def _fire_event(event: ScheduledEvent, harness: FlowTestHarness, run: Run, missed: list[str]) -> None:
    missed.remove(event.event.shown)
    harness.trace.add(event.event.shown)
    match event.event:
        case RunEvent.DRAIN:
            run.drain()
        case RunEvent.ABORT:
            run.abort()
        case RunEvent.CLIENT_DISCONNECTS:
            harness.client.disconnected = True
            run.abort("disconnected")


def _unstubbed_calls(name: str, service: FakeService) -> list[str]:
    unstubbed = list(dict.fromkeys(service.unstubbed))
    if not unstubbed:
        return []
    return [
        f"{name} is an HTTP service and no rule matches its call for {', '.join(unstubbed)}; "
        f"add a rule: when: {{{name}: {{returns: …}}}}"
    ]


def _leaks(loop: VirtualTimeLoop, run: Run, harness: FlowTestHarness) -> list[str]:
    """Return a problem if tasks, timers, calls or sinks remain after the end of the run."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    remaining = sorted(f"the task {task.get_name().replace(run.id, 'run')}" for task in tasks)
    remaining += [f"the timer {timer}" for timer in loop.timers()]
    remaining += [f"a call of {name}" for name, fake in harness.fakes.items() if fake.open_calls]
    remaining += [f"the open sink {name}" for name, sink in harness.sinks.items() if sink.opened]
    return [f"not released: {', '.join(remaining)}"] if remaining else []


def _describe(context: Mapping[str, Any]) -> str:
    error = context.get("exception")
    return describe(error) if isinstance(error, BaseException) else str(context.get("message"))
