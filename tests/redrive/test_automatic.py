"""Automatic redrives, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from structlog.testing import capture_logs

from penstock.deadletters import DeadLetter, DeadLetterQuery, MemoryStore
from penstock.deadletters.dead_letter_queue import Group, JobOptions, Requester
from penstock.redrive import Redriver
from penstock.redrive.automatic import AUTOMATIC, AutomaticRedriver
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
        working = asyncio.create_task(
            AutomaticRedriver(redriver, lambda: [store], lambda: list(flows.by_name.values())).run()
        )
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
        await asyncio.sleep(43_200)
        gaps = [after - before for before, after in zip(pricing.times, pricing.times[1:], strict=False)]
        assert 30 <= gaps[0] < 40
        assert 60 <= gaps[1] < 70
        assert max(gaps) <= 610
        assert 68 < len(gaps) < 78
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


def test_an_outage_behind_many_other_groups_is_found() -> None:
    """Groups without waiting letters, and groups of other steps, do not hide it, however many there are."""
    pricing = Pricing()
    words = [f"{one * 3}{two * 3}" for one in "abcdefghijk" for two in "lmnopqrstuvwxyz" for _ in range(7)]
    newer = now() - timedelta(minutes=30)
    others = [
        letter(n, step="decode", message=f"bad {word} {'xyzuvwq'[n % 7] * 4}", failed_at=newer)
        for n, word in enumerate(words)
    ]

    async def main(store: MemoryStore) -> None:
        assert len(await store.groups(DeadLetterQuery(flow="orders"), limit=2000)) > 1000
        await asyncio.sleep(60)
        assert sum(pricing.calls.values()) == 3

    play(pricing, [*outage(3), *others], main)


def test_flows_without_automatic_redrives_are_not_searched() -> None:
    """No query of their letters is made."""
    asked: list[DeadLetterQuery] = []

    class Asked(MemoryStore):
        async def groups(self, query: DeadLetterQuery, **options: Any) -> list[Group]:
            asked.append(query)
            return await super().groups(query, **options)

        async def oldest_waiting(self) -> Any:
            raise AssertionError

    async def main() -> None:
        store, supervisor, pricing = Asked(), Supervisor(), Pricing()
        await store.add(outage(3))
        plain = orders(pricing, store)
        working = asyncio.create_task(
            AutomaticRedriver(Redriver(supervisor, Flows(plain)), lambda: [store], lambda: [plain]).run()
        )
        await asyncio.sleep(30)
        working.cancel()
        await asyncio.wait((working,))
        assert working.cancelled()
        await supervisor.shut_down(1)
        assert not asked

    run(main())


def test_a_stopped_job_of_an_earlier_process_is_cancelled() -> None:
    """It would reserve its group for ever. The stopped job of a user stays."""
    pricing = Pricing()
    others = [letter(n, message="of a user", failed_at=LONG_AGO) for n in range(2)]

    async def main(store: MemoryStore) -> None:
        group = next(each for each in await store.groups(DeadLetterQuery()) if "again" in each.pattern)
        ours = await store.create_job(DeadLetterQuery(group=group.id), JobOptions(), AUTOMATIC)
        await store.change_job(ours.id, None, state="stopped", message="2 of 3 letters failed again")
        query = DeadLetterQuery(ids=tuple(each.id for each in others))
        users = await store.create_job(query, JobOptions(), Requester("me"))
        await store.change_job(users.id, None, state="stopped", message="2 of 2 letters failed again")
        await asyncio.sleep(60)
        assert [(await store.job(each.id)).state for each in (ours, users)] == ["cancelled", "stopped"]  # type: ignore[union-attr]
        assert sum(pricing.calls.values()) == 3

    play(pricing, [*outage(3), *others], main)
