"""A sink whose server cannot be reached: values wait and hold their credits; none of them is at fault."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from structlog.testing import capture_logs

from laws.virtual import quiet, timers
from penstock import Flow, from_iterable
from penstock.errors import SinkUnreachable
from penstock.results import DiscardResults, Result
from penstock.sinks.shared import outage_seconds
from penstock.testing import run


class Server:
    """A sink whose server is down from one time to another. It accepts no odd values before it notices that."""

    name = "server"

    def __init__(self, down: float = 0.0, up: float = 0.0, *, hangs: bool = False) -> None:
        self.kept: list[Any] = []
        self.attempts: list[float] = []
        self.repeatable = True
        self._down = down
        self._up = up
        self._hangs = hangs

    async def open(self) -> None:
        await self._check("open")

    async def write(self, values: Sequence[Any]) -> Sequence[Exception | None] | None:
        await asyncio.sleep(0.1)
        try:
            await self._check("write")
        except SinkUnreachable as error:
            self.kept += [value for value in values if value % 2 == 0]
            return [None if value % 2 == 0 else error for value in values]
        self.kept += values
        return None

    async def aclose(self) -> None:
        pass

    async def _check(self, call: str) -> None:
        now = asyncio.get_running_loop().time()
        self.attempts.append(now)
        if self._down <= now < self._up:
            if self._hangs:
                await asyncio.sleep(1e9)
            raise SinkUnreachable("server", f"no {call}")


@pytest.mark.parametrize(("down", "hangs"), [(0, False), (0, True), (1, False), (1, True)])
def test_values_wait_for_the_server_and_the_source_pauses(down: float, hangs: bool) -> None:
    """None fails, each is written once, and nothing is read beyond the window. It is tried every 5 s at least."""
    server = Server(down, 100, hangs=hangs)
    emitted: list[tuple[int, float]] = []
    seen: list[tuple[str | None, dict[str, float]]] = []

    def values() -> Any:
        for number in range(200):
            emitted.append((number, asyncio.get_running_loop().time()))
            yield number

    async def main() -> Any:
        flow = Flow[int]("f").window(16).to(server, timeout=2.0)
        started = flow.start(from_iterable(values()), DiscardResults())
        await asyncio.sleep(60)
        if not hangs:
            await asyncio.sleep(0.001)
        seen.append((started.awaited_service, dict(outage_seconds())))
        return await started.finished

    with capture_logs() as logs:
        summary = run(main())

    assert (summary.ok, summary.failed) == (200, 0)
    assert sorted(server.kept) == list(range(200))
    before = [number for number, time in emitted if time < 100]
    assert len(before) <= 16 + len([1 for kept in server.kept if kept in before])
    assert len(before) < 200
    assert max(after - early for early, after in zip(server.attempts, server.attempts[1:], strict=False)) <= 5 + 2 + 0.2
    events = [entry["event"] for entry in logs]
    assert events.count("sink.unreachable") == 3  # at once, after 10 s and after a minute
    assert events.count("sink.reachable") == 1
    if not hangs:
        assert seen[0][0] == "server"
        assert seen[0][1]["server"] == pytest.approx(60 - down, abs=0.5)


def test_a_value_that_has_waited_for_too_long_fails() -> None:
    """It becomes a dead letter of the step, with attempts 0. The values of all runs wait for the same attempts."""
    server = Server(0, 1e9)

    async def main() -> tuple[list[Result[int]], float, int]:
        flow = Flow[int]("f").to(server, max_outage_wait=60)

        async def results() -> list[Result[int]]:
            return [result async for result in flow.stream(from_iterable([1, 3]))]

        found = await asyncio.gather(*(results() for _ in range(20)))
        return [result for one in found for result in one], asyncio.get_running_loop().time(), len(timers())

    results, seconds, left = quiet(main())

    assert {(each.failure.step, each.failure.type, each.failure.attempts) for each in results if not each.ok} == {
        ("server", "SinkUnavailable", 0)
    }
    assert {each.failure.message for each in results if not each.ok} == {
        "server is down; the value has waited for 60 s: server cannot be written to: no open"
    }
    assert len(results) == 40
    assert (seconds, left) == (60, 1)  # the timer of this test
    assert len(server.attempts) < 60


def test_a_deadline_ends_the_wait() -> None:
    """The element fails as `DeadlineExceeded`, as with a service."""

    async def main() -> tuple[list[Result[int]], float]:
        flow = Flow[int]("f").deadline(7).to(Server(0, 1e9))
        found = [result async for result in flow.stream(from_iterable([1]))]
        return found, asyncio.get_running_loop().time()

    results, seconds = quiet(main())

    assert not results[0].ok
    assert results[0].failure.type == "DeadlineExceeded"
    assert results[0].failure.message == "server: the deadline of 7 s passed while its server could not be reached"
    assert seconds == 7


@pytest.mark.parametrize("hangs", [False, True])
def test_an_abort_reaches_values_that_wait(hangs: bool) -> None:
    """They are cancelled, not failed, and nothing is left."""

    async def main() -> tuple[Any, float, tuple[int, int], list[tuple[str, float]]]:
        started = Flow[int]("f").to(Server(0, 1e9, hangs=hangs)).start(from_iterable([1, 2]), DiscardResults())
        await asyncio.sleep(30.5)
        started.abort()
        summary = await started.finished
        await asyncio.sleep(0)
        left = len(asyncio.all_tasks()), len(timers())
        return summary, asyncio.get_running_loop().time(), left, list(outage_seconds())

    summary, seconds, left, sinks = quiet(main())

    assert (summary.cancelled, summary.failed) == (2, 0)
    assert seconds < 33
    assert sinks == []
    assert left == (1, 1)  # those of this test


def test_a_timeout_of_a_sink_that_cannot_repeat_fails_the_values() -> None:
    """They may have been written."""
    server = Server(1, 1e9, hangs=True)
    server.repeatable = False

    async def main() -> list[Result[int]]:
        flow = Flow[int]("f").throttle(0.5).to(server, timeout=2)
        return [result async for result in flow.stream(from_iterable([1, 2]))]

    results = quiet(main())

    assert [None if each.ok else each.failure.type for each in results] == [None, "CallTimeout"]
