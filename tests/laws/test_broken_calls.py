"""What services do when their calls break in ways that no element can fail in, and when nobody calls any more."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs

from laws.test_services import FOREVER, answers_of
from penstock import Flow, from_iterable
from penstock.errors import CallCancelled, CallTimeout
from penstock.results import DiscardResults
from penstock.runtime import Summary, Supervisor
from penstock.services import Service
from penstock.testing import run

# Calls that break


class Panic(BaseException):
    """What is no `Exception`, as extensions and test frameworks raise it."""


def panic(_: Any) -> Any:
    raise Panic("no further")


async def panic_later(_: Any) -> Any:
    await asyncio.sleep(0.01)
    raise Panic("no further")


async def soon(value: Any) -> Any:
    await asyncio.sleep(0.01)
    return value


@pytest.mark.parametrize(
    "build",
    [
        lambda flow: flow.map_async(panic),
        lambda flow: flow.map_async(panic_later),
        lambda flow: flow.map_async(Service("s", panic, blocking=True)),
        lambda flow: flow.map_async(panic_later, ordered=True),
        lambda flow: flow.enrich(a=panic_later, b=soon),
        lambda flow: flow.batch(panic_later, size=2, max_wait=0.01),
        lambda flow: flow.map_async(soon).map(panic),
        lambda flow: flow.throttle(100).map(panic),
        lambda flow: flow.filter(panic),
        lambda flow: flow.flat_map(panic),
    ],
    ids=["map_async", "later", "blocking", "in order", "enrich", "batch", "behind", "throttle", "filter", "flat_map"],
)
def test_what_nobody_is_to_catch_ends_the_run(build: Any) -> None:
    """It fails with what was raised, instead of waiting for an answer that never comes; the service goes on."""

    async def main() -> tuple[Summary, Summary]:
        flow = build(Flow("f"))
        first = await flow.start(from_iterable([{}, {}, {}]), DiscardResults()).finished
        return first, await flow.start(from_iterable([{}]), DiscardResults()).finished

    with capture_logs() as logs:
        first, second = asyncio.run(main())  # in real time, for the one with a thread
    assert (first.reason, first.error, second.reason) == ("failed", "no further", "failed")
    assert [entry["event"] for entry in logs] == 2 * ["run.failed", "run.ended"]


@pytest.mark.parametrize("swallowed", [True, False])
def test_a_call_that_cancels_its_own_task_fails_alone(swallowed: bool) -> None:
    """As helpers with timeouts did before Python 3.11: the next call of the same caller is none the worse."""

    async def call(value: int) -> int:
        if value == 0:
            task = asyncio.current_task()
            assert task is not None
            asyncio.get_running_loop().call_later(0.1, task.cancel)
            try:
                await asyncio.sleep(1)
            except asyncio.CancelledError:
                if swallowed:
                    raise TimeoutError from None
                raise
        await asyncio.sleep(FOREVER if value == 1 else 0)
        return value

    async def main() -> list[Any]:
        return await answers_of(Service("s", call, max_in_flight=1, timeout=0.5), 0, 1, 2)

    first, second, third = run(main())
    assert isinstance(first.error, TimeoutError if swallowed else CallCancelled)
    assert (type(second.error), third) == (CallTimeout, 2)


# Rest


class Resting:
    """A call that counts how often it came to rest, and may take its time for it or fail."""

    def __init__(self, seconds: float = 0.0, error: Exception | None = None) -> None:
        self.rests = 0
        self._seconds = seconds
        self._error = error

    async def __call__(self, value: Any) -> Any:
        return value

    async def on_idle(self) -> None:
        await asyncio.sleep(self._seconds)
        if self._error is not None:
            raise self._error
        self.rests += 1


def test_a_call_comes_to_rest_with_the_last_who_has_use_for_it() -> None:
    """After each run when nobody keeps the service; else when it is let go of, which is waited for."""

    async def main() -> list[int]:
        call = Resting(seconds=1)
        service = Service("s", call)
        rests: list[int] = []
        for _ in range(2):
            await answers_of(service, 1)
            rests.append(call.rests)
        service.retain()
        for _ in range(2):
            await answers_of(service, 1)
            rests.append(call.rests)
        await asyncio.wait(service.release())
        return [*rests, call.rests]

    assert run(main()) == [1, 2, 2, 2, 3]


@pytest.mark.parametrize(
    ("call", "said"), [(Resting(seconds=FOREVER), "not within 5 s"), (Resting(error=ConnectionError("gone")), "gone")]
)
def test_a_call_that_finds_no_rest_holds_nobody_up(call: Resting, said: str) -> None:
    """It is logged, and the run ends."""
    with capture_logs() as logs:
        assert run(answers_of(Service("s", call), 1)) == [1]
    assert [(entry["event"], entry["error"]) for entry in logs] == [("service.idle_hook_failed", said)]


def test_connections_are_kept_between_runs_as_the_callers_are() -> None:
    """A supervisor keeps both until it is shut down."""

    async def main() -> list[int]:
        call = Resting()
        flow = Flow("f").map_async(Service("s", call))
        supervisor = Supervisor()
        await supervisor.add(flow)
        rests: list[int] = []
        for _ in range(2):
            await supervisor.start(flow, from_iterable([1]), DiscardResults()).finished
            rests.append(call.rests)
        await supervisor.shut_down(1)
        return [*rests, call.rests]

    assert run(main()) == [0, 0, 1]
