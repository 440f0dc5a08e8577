"""Redrives while the circuit breaker of a service is open, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from penstock import Breaker, Flow, Service, from_iterable
from penstock.deadletters import DeadLetter, DeadLetterQuery, MemoryStore
from penstock.deadletters.dead_letter_queue import Job, JobOptions, Requester
from penstock.redrive import Redriver
from penstock.redrive.automatic import AutomaticRedriver
from penstock.results import DiscardResults
from penstock.runtime import Run, Supervisor
from penstock.testing import run
from redrive.letters import Flows, letter

ME = Requester("me", "a test")
ALL = DeadLetterQuery()
LONG = 3600.0
"""Seconds; much longer than a call waits for an open breaker here."""


class Prices:
    """A service that is down until somebody repairs it, and records when it was called."""

    def __init__(self) -> None:
        self.down = False
        self.times: list[float] = []

    async def __call__(self, order: dict[str, Any]) -> dict[str, Any]:
        self.times.append(asyncio.get_running_loop().time())
        await asyncio.sleep(0.1)
        if self.down:
            raise ConnectionError("the service is down")
        return {"price": order["id"]}


class Shop:
    """A flow with a service, its letters, and what redrives them."""

    def __init__(self) -> None:
        self.prices = Prices()
        breaker = Breaker(failures=3, open=10, max_open=10, max_open_wait=60)
        self.service = Service("prices", self.prices, breaker=breaker)
        self.queue = MemoryStore()
        flow: Flow[Any] = Flow[Any]("orders", key="id").enrich({"pricing": self.service}).dead_letters(self.queue)
        self.flow = flow.redrive(when="recovered")
        self.flows = Flows(self.flow)
        self.supervisor = Supervisor()
        self.redriver = Redriver(self.supervisor, self.flows, runner="one")

    async def break_down(self, count: int = 10) -> Run:
        """Let the service fail until its breaker opens, for a run whose elements wait for it."""
        self.prices.down = True
        other: Flow[Any] = Flow[Any]("other").map_async(self.service)
        started = self.supervisor.start(other, from_iterable([{"id": n} for n in range(count)]), DiscardResults())
        await self.until(lambda: self.service.is_open)
        return started

    async def job(self, count: int, **options: Any) -> Job:
        """A job for new letters."""
        await self.queue.add([letter(number) for number in range(count)])
        return await self.queue.create_job(ALL, JobOptions(**options), ME)

    async def until(self, condition: Callable[[], Any]) -> None:
        """Wait for a condition."""
        async with asyncio.timeout(LONG):
            while not condition():
                await asyncio.sleep(0.05)


def play(main: Callable[[Shop], Awaitable[Any]]) -> list[Any]:
    """Run a test in virtual time; afterwards nothing of it may be left. Returns the log."""

    async def whole() -> None:
        shop = Shop()
        async with asyncio.timeout(10 * LONG):
            await main(shop)
            await shop.redriver.abort()
            await shop.supervisor.shut_down(1)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        assert not others, others

    with capture_logs() as logs:
        run(whole())
    return logs


def test_a_job_waits_for_the_service() -> None:
    """It claims letters and keeps its lease, says what it waits for, and starts no run before a probe is due."""

    async def main(shop: Shop) -> None:
        await (await shop.break_down()).finished
        job = await shop.job(100)
        working = asyncio.create_task(shop.redriver.run(shop.queue, job.id))
        await asyncio.sleep(5)
        waiting = await shop.queue.job(job.id)
        assert waiting is not None
        assert (waiting.state, waiting.runner, waiting.counts.open) == ("running", "one", 100)
        assert waiting.message == "waiting for the service prices, which is down"
        assert not shop.supervisor.runs
        shop.prices.down = False
        ended = await working
        assert (ended.state, ended.counts.resolved, ended.message) == ("completed", 100, None)

    play(main)


@pytest.mark.parametrize("deadline", [None, 2.0])
def test_waiting_burns_no_attempts(deadline: float | None) -> None:
    """Only letters that were called count as failed again. The others wait, also if that takes too long for a call."""

    async def main(shop: Shop) -> None:
        if deadline is not None:
            shop.flows.by_name["orders"] = shop.flow.deadline(deadline)
        await (await shop.break_down(3)).finished
        job = await shop.job(100)
        called = len(shop.prices.times)
        working = asyncio.create_task(shop.redriver.run(shop.queue, job.id))
        await asyncio.sleep(200)
        counts = (await shop.queue.job(job.id) or job).counts
        assert 0 < counts.failed <= len(shop.prices.times) - called
        assert counts.open == 100 - counts.failed > 0
        shop.prices.down = False
        ended = await working
        assert (ended.counts.failed, ended.counts.open) == (counts.failed, 0)

    play(main)


@pytest.mark.parametrize("state", ["paused", "cancelled"])
@pytest.mark.parametrize("wait", [5, 15])
def test_a_waiting_job_can_be_ended(state: Any, wait: float) -> None:
    """At once, before its letters have reached the run, and after that. They wait again, and no lease is left."""

    async def main(shop: Shop) -> None:
        await shop.break_down(3)
        job = await shop.job(100)
        working = asyncio.create_task(shop.redriver.run(shop.queue, job.id))
        await asyncio.sleep(wait)
        await shop.queue.change_job(job.id, ME, state=state)
        async with asyncio.timeout(4):
            ended = await working
        after = await shop.queue.job(job.id)
        assert after is not None
        assert (ended.state, after.state, after.runner) == (state, state, None)
        states = {key[0]: count for key, count in (await shop.queue.count(ALL, by=("state",))).items()}
        assert states.get("redriving", 0) == 0

    play(main)


def test_the_threshold_still_stops_a_job() -> None:
    """The letters that fail before the breaker opens count."""

    async def main(shop: Shop) -> None:
        shop.prices.down = True
        job = await shop.job(100, canary=(2,), stop_at=0.5)
        ended = await shop.redriver.run(shop.queue, job.id)
        assert (ended.state, ended.counts.failed) == ("stopped", 2)

    play(main)


def test_a_shutdown_gives_the_letters_back() -> None:
    """A job that waits does not hold up the end of the process."""

    async def main(shop: Shop) -> None:
        await shop.break_down(3)
        job = await shop.job(100)
        working = asyncio.create_task(shop.redriver.run(shop.queue, job.id))
        await asyncio.sleep(15)
        async with asyncio.timeout(4):
            await shop.redriver.drain()
        job = await working
        assert (job.state, job.runner) == ("running", None)

    play(main)


def test_no_letter_probes_while_the_breaker_is_open() -> None:
    """Elements that wait probe the service. The letters of the outage follow when it is back."""

    async def main(shop: Shop) -> None:
        await shop.break_down(100)
        long_ago: list[DeadLetter] = [
            letter(number, failed_at=letter().failed_at - timedelta(hours=1)) for number in range(20)
        ]
        await shop.queue.add(long_ago)
        watch = asyncio.create_task(AutomaticRedriver(shop.redriver, lambda: [shop.queue], lambda: [shop.flow]).run())
        await asyncio.sleep(9)
        assert await shop.queue.jobs() == []
        shop.prices.down = False
        await asyncio.sleep(600)
        assert {key[0] for key in await shop.queue.count(ALL, by=("state",))} == {"resolved"}
        watch.cancel()
        await asyncio.wait((watch,))

    play(main)
