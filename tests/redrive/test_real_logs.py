"""Redrives of logs on their real servers: S3, Kafka and JetStream."""

from __future__ import annotations

import asyncio

import pytest

from penstock.deadletters import DeadLetterQuery
from penstock.deadletters.dead_letter_queue import JobOptions
from penstock.redrive.logs import redrive_log
from penstock.redrive.records import LogReport
from penstock.runtime import Supervisor
from redrive.letters import Flows, Pricing, letter, orders
from stores.logs import new_log, open_log

ALL = DeadLetterQuery()


@pytest.mark.parametrize("kind", ["s3", pytest.param("kafka", marks=pytest.mark.long), "nats"])
async def test_a_log_is_redriven(kind: str, request: pytest.FixtureRequest) -> None:
    """Each letter is redriven once; one that fails again is appended again, and received by the next redrive."""
    store = await open_log(new_log(request.getfixturevalue(f"{kind}_server")))
    pricing, supervisor = Pricing(fails=(3, 50)), Supervisor()
    flows = Flows(orders(pricing))
    letters = [letter(n) for n in range(200)]
    async with asyncio.timeout(120):
        for start in range(0, 200, 50):
            await store.add(letters[start : start + 50])
        report = await redrive_log(store, ALL, JobOptions(), flows, supervisor)
        assert report == LogReport(total=200, resolved=198, failed=2)
        assert set(pricing.calls) == set(range(200))

        pricing.fails = False
        pricing.calls.clear()
        assert await redrive_log(store, ALL, JobOptions(), flows, supervisor) == LogReport(total=2, resolved=2)
        assert set(pricing.calls) == {3, 50}
        assert await redrive_log(store, ALL, JobOptions(), flows, supervisor) == LogReport()
        await supervisor.shut_down(1)
        await store.aclose()


@pytest.mark.parametrize("kind", ["s3", pytest.param("kafka", marks=pytest.mark.long), "nats"])
async def test_a_parked_letter_stays(kind: str, request: pytest.FixtureRequest) -> None:
    """It is still listed after further redrives, which neither run it nor append it once more."""
    store = await open_log(new_log(request.getfixturevalue(f"{kind}_server")))
    supervisor = Supervisor()
    flows = Flows(orders(Pricing(fails=(1,))))
    async with asyncio.timeout(120):
        await store.add([letter(1), letter(2)])
        report = await redrive_log(store, ALL, JobOptions(limit=1), flows, supervisor)
        assert report == LogReport(total=2, resolved=1, failed=1, parked=1)
        for _ in range(2):
            assert await redrive_log(store, ALL, JobOptions(), flows, supervisor) == LogReport()
        assert store.statistics().stored == 3
        assert [each.state for each in (await store.page(ALL)).letters] == ["waiting", "waiting", "parked"]
        await supervisor.shut_down(1)
        await store.aclose()
