"""Redrives of a flow with `order: key`."""

from __future__ import annotations

from typing import Any

from structlog.testing import capture_logs

from penstock.deadletters import DeadLetterQuery, MemoryStore
from penstock.deadletters.dead_letter_queue import JobOptions, Requester
from penstock.redrive import Redriver
from penstock.runtime import Supervisor
from penstock.testing import run
from redrive.letters import Flows, Pricing, letter, orders


def test_letters_with_the_same_key_are_redriven_one_after_the_other() -> None:
    """Those with other keys meanwhile."""
    pricing = Pricing(seconds=1.0)

    async def main() -> Any:
        store = MemoryStore()
        await store.add([letter(number, key=number) for number in (1, 1, 1, 2)])
        supervisor = Supervisor()
        flow = orders(pricing, store).order("key")
        job = await store.create_job(DeadLetterQuery(), JobOptions(), Requester("me"))
        ended = await Redriver(supervisor, Flows(flow)).run(store, job.id)
        await supervisor.shut_down(10)
        return ended

    with capture_logs():
        ended = run(main())

    start = pricing.times[0]
    assert ended.counts.resolved == 4
    assert [round(time - start) for time in pricing.times] == [0, 0, 1, 2]
