"""Automatic redrives, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from structlog.testing import capture_logs

from penstock.deadletters import DeadLetter, DeadLetterQuery, MemoryStore
from penstock.deadletters.dead_letter_queue import JobOptions, Requester
from penstock.redrive import Redriver
from penstock.redrive.automatic import AutomaticRedriver
from penstock.runtime import Supervisor
from penstock.support.ids import now
from penstock.testing import run
from redrive.letters import Flows, Pricing, letter, orders

LONG_AGO = now() - timedelta(hours=1)


def play(pricing: Pricing, letters: list[DeadLetter], main: Callable[[MemoryStore], Awaitable[Any]]) -> None:
    """Run a service's automatic redrives while `main` runs."""

    async def whole() -> None:
        store, supervisor = MemoryStore(), Supervisor()
        await store.add(letters)
        flows = Flows(orders(pricing, store).redrive(rate=10.0))
        redriver = Redriver(supervisor, flows)
        working = asyncio.create_task(AutomaticRedriver(redriver, lambda: [store], flows).run())
        await main(store)
        working.cancel()
        await asyncio.wait((working,))
        await redriver.abort()
        await supervisor.shut_down(1)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    with capture_logs():
        run(whole())


def outage(count: int, message: str = "the service is down again") -> list[DeadLetter]:
    return [letter(n, message=message, failed_at=LONG_AGO) for n in range(count)]


def test_a_recovered_service_gets_its_letters_back() -> None:
    """One letter probes; when it is resolved, the others follow at the rate."""
    pricing = Pricing()

    async def main(store: MemoryStore) -> None:
        await asyncio.sleep(5.5)
        assert 0 < sum(pricing.calls.values()) < 10
        await asyncio.sleep(60)
        assert await store.count(DeadLetterQuery(), by=("state",)) == {("resolved",): 300}
        assert {job.requester for job in await store.jobs()} == {"automatic"}
        assert [job.counts.total for job in reversed(await store.jobs())] == [1, 299]
        assert pricing.times[-1] - pricing.times[0] > 25

    play(pricing, outage(300), main)


def test_probes_pause_longer_and_are_spread_over_the_letters() -> None:
    """While the service is down it gets one call after growing pauses, and no letter is parked."""
    pricing = Pricing(fails=True)

    async def main(store: MemoryStore) -> None:
        await asyncio.sleep(86_400)
        gaps = [after - before for before, after in zip(pricing.times, pricing.times[1:], strict=False)]
        assert 30 <= gaps[0] < 40
        assert 60 <= gaps[1] < 70
        assert max(gaps) <= 610
        assert 140 < len(gaps) < 150
        assert await store.count(DeadLetterQuery(), by=("state",)) == {("waiting",): 40}
        redrives = [each.redrives for each in (await store.page(DeadLetterQuery())).letters]
        assert max(redrives) - min(redrives) <= 1
        pricing.fails = False
        await asyncio.sleep(700)
        assert await store.count(DeadLetterQuery(), by=("state",)) == {("resolved",): 40}

    play(pricing, outage(40), main)


def test_another_error_does_not_shorten_the_pause() -> None:
    """A letter that moves to a group of its own by a probe is not probed at once."""
    pricing = Pricing(fails=True)

    async def main(store: MemoryStore) -> None:
        await asyncio.sleep(3600)
        assert len(pricing.times) < 25
        assert len(await store.groups(DeadLetterQuery())) == 2

    play(pricing, outage(40, "another reason"), main)


def test_a_service_that_fails_again_stops_the_redrive() -> None:
    """If most letters fail again after a successful probe, the job is cancelled, and probing continues."""
    pricing = Pricing(fails=set(range(1, 500)))

    async def main(store: MemoryStore) -> None:
        await asyncio.sleep(25)
        assert {job.state for job in await store.jobs()} == {"completed", "cancelled"}
        assert sum(pricing.calls.values()) < 120
        assert (await store.count(DeadLetterQuery(state="waiting")))[()] == 499

    play(pricing, outage(500), main)


def test_failures_of_other_steps_and_fresh_ones_are_left_alone() -> None:
    """Only letters that failed at a service are redriven, and only when no new one came for a while."""
    pricing = Pricing()
    others = [letter(1, step="decode", failed_at=LONG_AGO), letter(2)]

    async def main(store: MemoryStore) -> None:
        await asyncio.sleep(20)  # of virtual time: the clock of the letters stands still
        assert await store.jobs() == []
        assert not pricing.calls

    play(pricing, others, main)


def test_groups_of_a_user_s_job_are_left_alone() -> None:
    """A job of a user that is paused keeps its groups."""
    pricing = Pricing()

    async def main(store: MemoryStore) -> None:
        job = await store.create_job(DeadLetterQuery(), JobOptions(), Requester("me"))
        await store.change_job(job.id, Requester("me"), state="paused")
        await asyncio.sleep(600)
        assert not pricing.calls

    play(pricing, outage(3), main)
