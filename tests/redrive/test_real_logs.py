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


@pytest.mark.parametrize("kind", ["s3", "kafka", "nats"])
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
