"""Plays a test: the real engine in virtual time, from the source to the dead letters and the client's lines."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import msgspec
from structlog.testing import capture_logs

from penstock.deadletters import Filter, Letter
from penstock.errors import FlowError, describe
from penstock.files.trials.case import Case
from penstock.files.trials.client import Client
from penstock.files.trials.elements import Register
from penstock.files.trials.rules import Part
from penstock.files.trials.script import PlayedOutlet, PlayedService
from penstock.files.trials.shelf import Shelf
from penstock.files.trials.trace import Trace, at
from penstock.flow import Flow
from penstock.runtime.run import Run, Summary
from penstock.services.web import Call
from penstock.sinks import Lines
from penstock.sources import Source, from_async_iterable, from_iterable
from penstock.steps import walk
from penstock.testing import JumpingLoop

LONGEST = 86_400.0
"""Seconds of virtual time that a test may take: a day. One that takes longer hangs."""


@dataclass(frozen=True, slots=True, eq=False)
class Played:
    """What came of a test."""

    case: Case
    flow: Flow[Any]
    seed: int
    summary: Summary
    results: tuple[Mapping[str, Any], ...]
    """The records that the client was told, in their order."""
    register: Register
    letters: tuple[Letter, ...]
    delivered: Mapping[str, Sequence[Any]]
    calls: Mapping[str, int]
    at_once: Mapping[str, int]
    in_flight: int
    unused: tuple[tuple[str, Part], ...]
    """Rules that decided nothing, each with the name of its service."""
    missed: tuple[str, ...]
    """Events that were to happen after the run was over."""
    troubles: tuple[str, ...]
    """What may never be, whatever is expected."""
    trace: tuple[tuple[float, str], ...]
    real_seconds: float


def play(flow: Flow[Any], case: Case, *, seed: int | None = None) -> Played:
    """Play a test of a flow; `seed` takes the place of the test's own. Raises `FlowError` if it cannot be played."""
    seed = case.seed if seed is None else seed
    before = random.getstate()
    random.seed(seed)  # what the functions of the flow draw themselves has to be the same each time too
    try:
        with capture_logs(), asyncio.Runner(loop_factory=JumpingLoop) as runner:
            return runner.run(_play(flow, case, seed))
    finally:
        random.setstate(before)


async def _play(flow: Flow[Any], case: Case, seed: int) -> Played:
    began = perf_counter()
    loop = asyncio.get_running_loop()
    assert isinstance(loop, JumpingLoop)
    trace = Trace(flow.key)
    troubles: list[str] = []
    loop.set_exception_handler(lambda _, context: troubles.append(f"broke outside of the run: {_broken(context)}"))
    services = play_services(flow, case, trace)
    outlets = {
        name: PlayedOutlet(name, outlet.name, case.rules.get(name, ()), trace) for name, outlet in flow.outlets.items()
    }
    store = Shelf(case.downtimes, trace)
    register = Register(trace)
    client = Client(case.pace, register, trace)
    run = _start(_staged(flow, case, seed, services, outlets, store), case, seed, register, client)
    missed = [event.shown for event in case.events]
    alarms = [
        loop.call_later(event.at, _happen, event.what, event.shown, run, client, trace, missed) for event in case.events
    ]
    try:
        async with asyncio.timeout(LONGEST):
            summary = await run.finished
    except TimeoutError:
        troubles.append(f"the run did not end within {at(LONGEST)} of virtual time")
        run.abort()
        summary = await run.finished
    for alarm in alarms:
        alarm.cancel()
    trace.add(f"the end: {summary.reason}")
    actors = {**services, **outlets}
    troubles += [text for name, service in services.items() for text in _asked_in_vain(name, service)]
    troubles += _left_behind(loop, run, actors)
    return Played(
        case,
        flow,
        seed,
        summary,
        tuple(client.records),
        register,
        tuple((await store.page(Filter(), limit=1_000_000)).letters),
        {name: outlet.kept for name, outlet in outlets.items()},
        {name: actor.calls for name, actor in actors.items()},
        {name: actor.most for name, actor in actors.items()},
        run.window.highest,
        tuple((name, part) for name, actor in actors.items() for part in actor.rules.parts if not part.decided),
        tuple(missed),
        tuple(troubles),
        tuple(trace.lines),
        perf_counter() - began,
    )


def play_services(flow: Flow[Any], case: Case, trace: Trace) -> dict[str, PlayedService]:
    """What plays the services of a flow, by their names."""
    many = {service.name for step in walk(flow.steps) if step.kind == "batch" for service in step.services}
    known: dict[str, Any] = {}
    for service in flow.services:
        if known.setdefault(service.name, service) != service:
            raise FlowError(f"two different services of flow {flow.name} are called {service.name}; name them apart")
    return {
        name: PlayedService(
            name,
            case.rules.get(name, ()),
            trace,
            None if isinstance(service.function, Call) else service.function,
            many=name in many,
        )
        for name, service in known.items()
    }


def _staged(
    flow: Flow[Any],
    case: Case,
    seed: int,
    services: Mapping[str, PlayedService],
    outlets: Mapping[str, PlayedOutlet],
    store: Shelf,
) -> Flow[Any]:
    """The flow with all that is played in the place of what is real."""
    replaced = {
        service.name: service.calling(services[service.name], chance=random.Random(f"{seed} {service.name}"))  # noqa: S311
        for service in flow.services
    }
    staged = flow.with_services(replaced).with_outlets(outlets)
    return replace(staged, elements=case.elements or flow.elements, bytes=case.bytes or flow.bytes, store=store)


def _start(flow: Flow[Any], case: Case, seed: int, register: Register, client: Client) -> Run:
    plan = flow.plan()
    first, *others = plan.steps
    return Run(
        msgspec.structs.replace(plan, steps=(first, register.step(), *others, register.step())),
        source_of(flow, case),
        Lines(client.write),
        kind="test",
        ordered=flow.ordered if case.ordered is None else case.ordered,
        chance=random.Random(f"{seed} dead letters"),  # noqa: S311 - jitter, the same each time
    )


def source_of(flow: Flow[Any], case: Case) -> Source[bytes]:
    """What comes in, as the bytes that a client would send."""
    values = case.given
    if isinstance(values, int):
        assert flow.samples is not None
        values = tuple(flow.samples(number) for number in range(1, values + 1))
    lines = [
        value.encode() if isinstance(value, str) else msgspec.json.encode(value, enc_hook=repr) for value in values
    ]

    async def paced() -> AsyncIterator[bytes]:
        for number, line in enumerate(lines):
            if number:
                await asyncio.sleep(case.every)
            yield line

    return from_async_iterable(paced(), size=len) if case.every else from_iterable(lines, size=len)


def _happen(what: str, shown: str, run: Run, client: Client, trace: Trace, missed: list[str]) -> None:
    """An event comes about."""
    missed.remove(shown)
    trace.add(shown)
    if what == "drain":
        run.drain()
    elif what == "abort":
        run.abort()
    else:
        client.gone = True
        run.abort("left")


def _asked_in_vain(name: str, service: PlayedService) -> list[str]:
    asked = list(dict.fromkeys(service.unscripted))
    if not asked:
        return []
    return [
        f"{name} is asked over HTTP, which no test does, and no rule fits its call for {', '.join(asked)}; "
        f"script it: when: {{{name}: {{answers: …}}}}"
    ]


def _left_behind(loop: JumpingLoop, run: Run, actors: Mapping[str, PlayedService | PlayedOutlet]) -> list[str]:
    """What a run may not leave, however it ended."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    left = sorted(f"the task {task.get_name().replace(run.id, 'run')}" for task in tasks)
    left += [f"the timer {timer}" for timer in loop.timers()]
    left += [f"a call of {name}" for name, actor in actors.items() if actor.under_way]
    left += [f"the outlet {name}, open" for name, actor in actors.items() if getattr(actor, "opened", False)]
    return [f"left behind: {', '.join(left)}"] if left else []


def _broken(context: Mapping[str, Any]) -> str:
    error = context.get("exception")
    return describe(error) if isinstance(error, BaseException) else str(context.get("message"))
