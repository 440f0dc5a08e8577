"""Limits of a service with several processes: the total is never exceeded, and one busy process gets nearly all of it.

The processes are simulated in one event loop with virtual time. They share a real table, as processes do.
"""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from laws.asking import Asking
from laws.virtual import quiet
from penstock.services import Breaker, Service
from penstock.testing import run
from penstock_http.processes.service_shares import ServiceShares
from penstock_http.processes.shared_limits import SharedLimits, create_memory
from penstock_http.processes.shared_slots import SharedSlots
from penstock_http.processes.shares import divide


@given(st.integers(1, 300), st.lists(st.integers(0, 1000), min_size=1, max_size=9))
def test_a_limit_is_divided_by_need(total: int, demands: list[int]) -> None:
    """All of it, at least 1 for each. Nobody gets less than it needs while another has more than it, and more need."""
    shares = divide(total, demands)
    assert sum(shares) == max(total, len(demands))
    assert min(shares) >= 1
    lacking = [share for share, demand in zip(shares, demands, strict=True) if share < demand]
    if lacking:
        assert max(shares) <= min(lacking) + 1


class World:
    """A service outside, as all processes call it: counts the calls that it has at once."""

    def __init__(self, limit: int, rng: random.Random | None = None, seconds: float = 0.02) -> None:
        self.limit = limit
        self.peak = self.now = self.done = 0
        self.begun: list[float] = []
        self.is_down = False
        self._seconds = seconds
        self._rng = rng

    async def call(self, value: Any) -> Any:
        self.now += 1
        self.peak = max(self.peak, self.now)
        self.begun.append(asyncio.get_running_loop().time())
        try:
            await asyncio.sleep(self._seconds if self._rng is None else self._rng.expovariate(1 / self._seconds))
        finally:
            self.now -= 1
            self.done += 1
        if self.is_down:
            raise ConnectionError("down")
        return value


class Processes:
    """The table, and the processes that share it."""

    def __init__(self, world: World, count: int) -> None:
        self.world = world
        self.count = count
        self.descriptor = create_memory(count)
        self.parent = SharedLimits(os.dup(self.descriptor), count, 0)
        self.running: dict[int, Process] = {}

    def start(self, number: int, pause: Callable[[], float] = lambda: 0.05, **options: Any) -> Process:
        process = self.running[number] = Process(self, number, pause, **options)
        return process

    async def kill(self, number: int) -> None:
        """The calls are cut, and the parent frees what the process had afterwards."""
        await self.running.pop(number).end()
        self.parent.forget(number)

    async def end(self) -> None:
        for number in list(self.running):
            await self.kill(number)
        for descriptor in (self.descriptor, self.parent.descriptor):
            os.close(descriptor)


class Process:
    """One process that calls the service, with a bulkhead and a share of its own. `pause` is between two updates."""

    def __init__(self, processes: Processes, number: int, pause: Callable[[], float], **options: Any) -> None:
        options = {"max_in_flight": processes.world.limit} | options
        self.service: Service[Any, Any] = Service("outside", processes.world.call, **options)
        self.limits = SharedLimits(os.dup(processes.descriptor), processes.count, number)
        self.shares = ServiceShares(self.limits, lambda: [self.service])
        self.shares.use(self.service)
        self.asking = Asking(self.service)
        self._asked = 0
        self._updates = asyncio.get_running_loop().create_task(self._update(pause))

    def ask(self, calls: int) -> None:
        """Make calls as soon as the share allows them."""
        self.asking.ask(*range(self._asked, self._asked + calls))
        self._asked += calls

    async def end(self) -> None:
        self._updates.cancel()
        await self.asking.queue.aclose()
        os.close(self.limits.descriptor)

    async def _update(self, pause: Callable[[], float]) -> None:
        while True:
            self.shares.update()
            await asyncio.sleep(pause())


def run_processes(world: World, count: int, scenario: Callable[[Processes], Awaitable[Any]]) -> Any:
    """Run a scenario in virtual time, and return its result."""

    async def main() -> Any:
        processes = Processes(world, count)
        try:
            return await scenario(processes)
        finally:
            await processes.end()

    return quiet(main())


Action = tuple[str, int, float]


@given(
    limit=st.integers(1, 30),
    count=st.integers(1, 4),
    actions=st.lists(
        st.tuples(st.sampled_from(["ask", "ask", "wait", "wait", "kill"]), st.integers(1, 4), st.floats(0, 1)),
        max_size=25,
    ),
    seed=st.integers(0, 2**32),
)
def test_all_processes_together_never_exceed_the_limit(
    limit: int, count: int, actions: list[Action], seed: int
) -> None:
    """Whatever they need, however late their updates are, and whenever one is killed. All calls are made in the end."""
    rng = random.Random(seed)
    world = World(limit, rng)

    async def scenario(processes: Processes) -> None:
        for action, number, amount in actions:
            number = 1 + number % count
            if action == "wait":
                await asyncio.sleep(amount / 5)
                continue
            if number not in processes.running:
                processes.start(number, lambda: rng.uniform(0, 0.3))
            if action == "ask":
                processes.running[number].ask(int(200 * amount))
            else:
                await processes.kill(number)
        for process in processes.running.values():
            await process.asking.all()

    run_processes(world, count, scenario)
    assert world.peak <= max(limit, count)


def test_one_busy_process_has_nearly_the_whole_limit() -> None:
    """The idle one keeps one call, which it makes at once; with work for both, each has half."""
    world = World(64)

    async def scenario(processes: Processes) -> list[Any]:
        first, second = processes.start(1), processes.start(2)
        first.ask(64 * 50)
        await asyncio.sleep(0.3)
        began, done = asyncio.get_running_loop().time(), world.done
        await asyncio.sleep(0.4)
        rate = (world.done - done) / (asyncio.get_running_loop().time() - began)
        second.ask(1)
        await second.asking.all()
        waited = second.asking.times[0] - began - 0.4
        second.ask(1000)
        await asyncio.sleep(0.2)
        shares = [process.service.bulkhead.share for process in processes.running.values()]
        limits = [process.service.statistics().limit for process in processes.running.values()]
        await processes.kill(2)
        await asyncio.sleep(0.1)
        return [rate, waited, shares, limits, first.service.bulkhead.share]

    rate, waited, shares, limits, alone = run_processes(world, 2, scenario)
    assert rate >= 0.97 * 64 / 0.02
    assert waited == pytest.approx(0.02)
    assert shares == limits == [32, 32]
    assert alone == 63
    assert world.peak == 64


def test_the_first_call_of_a_process_does_not_wait_for_the_others() -> None:
    """They may have called before it, and be stopped since: they have left one call for each that may come."""
    memory = create_memory(3)
    first, second, third = (SharedLimits(memory, 3, number) for number in (1, 2, 3))
    for limits, demand, share in ((first, 500, 62), (second, 10, 1), (third, 10, 1)):
        with limits.locked():
            assert limits.update_share("service", 64, demand, 0) == share
    os.close(memory)


def test_with_more_processes_than_calls_each_makes_one() -> None:
    """A process without a call would stand still."""
    world = World(2)

    async def scenario(processes: Processes) -> None:
        for number in (1, 2, 3):
            processes.start(number).ask(20)
        await asyncio.sleep(0.2)
        assert [process.service.bulkhead.share for process in processes.running.values()] == [1, 1, 1]
        for process in processes.running.values():
            await process.asking.all()

    run_processes(world, 3, scenario)
    assert world.peak == 3


def test_calls_of_all_processes_follow_one_rate() -> None:
    """As in one process: evenly spaced, also while the demand of the processes changes."""
    world = World(8, seconds=0.001)

    async def scenario(processes: Processes) -> None:
        first, second = (processes.start(number, rate=20) for number in (1, 2))
        first.ask(20)
        await asyncio.sleep(0.26)
        second.ask(10)
        await second.asking.all()
        await first.asking.all()

    run_processes(world, 2, scenario)
    assert [later - sooner for sooner, later in pairwise(world.begun)] == pytest.approx([0.05] * 29)


def test_calls_that_an_open_breaker_holds_take_no_share() -> None:
    """The breakers of the processes are separate: one may hold its calls while another one makes some."""
    world = World(20)

    async def scenario(processes: Processes) -> list[int | None]:
        first, second = (processes.start(number, breaker=Breaker(failures=3, open=30)) for number in (1, 2))
        world.is_down = True
        first.ask(1000)
        await asyncio.sleep(0.3)
        world.is_down = False
        second.ask(1000)
        await asyncio.sleep(0.3)
        assert first.service.is_open
        return [process.service.bulkhead.share for process in (first, second)]

    assert run_processes(world, 2, scenario) == [1, 19]


def test_shares_are_updated_again_after_a_bug() -> None:
    """It is logged, with its traceback."""
    failures = iter([ZeroDivisionError("bug")])

    def services() -> list[Service[Any, Any]]:
        if (error := next(failures, None)) is not None:
            raise error
        updated.append(asyncio.get_running_loop().time())
        return []

    async def main() -> None:
        limits = SharedLimits(create_memory(2), 2, 1)
        task = asyncio.create_task(ServiceShares(limits, services).run())
        await asyncio.sleep(2)
        task.cancel()
        os.close(limits.descriptor)

    updated: list[float] = []
    with capture_logs() as logs:
        run(main())
    assert [entry["event"] for entry in logs] == ["limits.update_failed"]
    assert updated


def test_the_lock_of_a_stopped_process_stops_no_other() -> None:
    """Each goes on with its part: of a rate, of the runs, and with the shares that it has."""
    descriptor = create_memory(2)
    limits = SharedLimits(descriptor, 2, 1)
    code = "import fcntl, sys; fcntl.lockf(int(sys.argv[1]), fcntl.LOCK_EX); print('locked', flush=True); input()"
    command = [sys.executable, "-c", code, str(descriptor)]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[descriptor])
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == b"locked\n"

        async def main() -> None:
            slots = SharedSlots(limits)
            assert [slots.take("", 4) for _ in range(3)] == [True, True, False]
            assert slots.taken("") == 4
            service: Service[Any, Any] = Service("outside", abs, rate=10)
            shares = ServiceShares(limits, lambda: [service])
            shares.use(service)
            assert service.bulkhead.share == 1  # which the table leaves for a process that has not called yet
            limiter = service._rate_limiter
            assert limiter is not None
            assert [limiter.reserve(100.0) for _ in range(3)] == pytest.approx([0, 0.2, 0.4])
            holder.communicate(b"\n")
            while slots.taken("") == 4:
                await asyncio.sleep(0.01)
            shares.update()
            assert service.bulkhead.share == service.max_in_flight - 1  # one for a process that has not called yet
            slots.give_back("")
            slots.give_back("")
            assert slots.take("", 1)

        asyncio.run(main())
    finally:
        holder.kill()
        holder.communicate()
        os.close(descriptor)
