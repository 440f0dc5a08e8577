"""Letters that are older, or more, than their flow keeps are deleted in the background."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from penstock import Flow
from penstock.deadletters import DeadLetterQuery, MemoryStore, Stores
from penstock.deadletters.target import Keep
from penstock.errors import StoreError
from penstock.redrive.retention import KeptLetters, Retention, RetentionStatistics, kept_letters
from penstock.support.ids import now
from penstock.testing import run
from redrive.letters import letter

DAY = 86_400.0


def aged(days: float, **facts: Any) -> Any:
    """A letter that failed some days ago."""
    time = now() - timedelta(days=days)
    return letter(**{"failed_at": time, "started_at": time, **facts})


class Failing(MemoryStore):
    """A store that fails a number of times before it deletes."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times
        self.calls: list[float] = []

    async def expire(self, keep: Mapping[str, float], *, max: int | None = None, flow: str | None = None) -> int:
        self.calls.append(asyncio.get_running_loop().time())
        if len(self.calls) <= self.times:
            raise StoreError("the database is locked")
        return await super().expire(keep, max=max, flow=flow)


async def running(retention: Retention, seconds: float) -> None:
    """Let it run for a time, then cancel it. Nothing of it is left."""
    task = asyncio.create_task(retention.run())
    await asyncio.sleep(seconds)
    assert not task.done()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert asyncio.all_tasks() == {asyncio.current_task()}


def test_letters_expire_at_once_and_then_every_minute() -> None:
    """By the age in their state, and by number; other flows keep theirs. Each deletion is counted and logged."""

    async def main() -> None:
        queue = MemoryStore()
        stores = Stores()
        await stores.get(queue)
        await queue.add([aged(days) for days in (100, 10, 1)] + [aged(100, flow="kept")])
        flows = [
            Flow[Any]("orders").dead_letters(queue, keep={"waiting": 90 * DAY, "max": 3}),
            Flow[Any]("kept").dead_letters(queue),
        ]
        retention = Retention(lambda: kept_letters(flows, stores))
        task = asyncio.create_task(retention.run())
        await asyncio.sleep(1)
        assert await queue.count(DeadLetterQuery(), by=("flow",)) == {("orders",): 2, ("kept",): 1}

        await queue.add([letter(number) for number in range(3)])
        await asyncio.sleep(58)
        assert await queue.count(DeadLetterQuery(flow="orders")) == {(): 5}
        await asyncio.sleep(2)
        assert await queue.count(DeadLetterQuery(flow="orders")) == {(): 3}
        assert retention.statistics() == RetentionStatistics({"orders": 3})
        task.cancel()
        await asyncio.wait([task])

    with capture_logs() as logs:
        run(main())
    assert [(entry["event"], entry["flow"], entry["letters"]) for entry in logs] == [
        ("dead_letters.expired", "orders", 1),
        ("dead_letters.expired", "orders", 2),
    ]


def test_a_store_that_fails_is_tried_again_and_stops_no_other() -> None:
    """The failure is counted and logged."""

    async def main() -> None:
        failing, other = Failing(2), MemoryStore()
        for queue in (failing, other):
            await queue.add([aged(2)])
        keep = Keep.of({"waiting": DAY})
        retention = Retention(lambda: [KeptLetters("orders", keep, failing), KeptLetters("orders", keep, other)])
        await running(retention, 150)
        assert failing.calls == [pytest.approx(60 * n, abs=1) for n in range(3)]
        assert retention.statistics() == RetentionStatistics({"orders": 2}, 2)

    with capture_logs() as logs:
        run(main())
    assert [entry["event"] for entry in logs] == [
        "dead_letters.expire_failed",
        "dead_letters.expired",
        "dead_letters.expire_failed",
        "dead_letters.expired",
    ]
    assert logs[0]["error"] == "the database is locked"


def test_a_cancel_ends_a_search_that_takes_long() -> None:
    """The store may be slow; a shutdown does not wait for it."""

    class Slow(MemoryStore):
        async def expire(self, *_: Any, **__: Any) -> int:
            await asyncio.sleep(1e6)
            return 0

    async def main() -> None:
        began = asyncio.get_running_loop().time()
        await running(Retention(lambda: [KeptLetters("orders", Keep.of({"max": 1}), Slow())]), 5)
        assert asyncio.get_running_loop().time() - began == pytest.approx(5)

    run(main())


def test_only_flows_with_limits_and_an_open_queue_are_searched(tmp_path: Path) -> None:
    """By default nothing is deleted; a log is rejected when the flow is built."""

    async def main() -> None:
        stores = Stores()
        url = f"sqlite:///{tmp_path}/a.db"
        flows = [
            Flow[Any]("none"),
            Flow[Any]("for-ever").dead_letters("memory"),
            Flow[Any]("closed").dead_letters(url, keep={"max": 1}),
            Flow[Any]("open").dead_letters("memory", keep={"max": 1}),
        ]
        opened: Any = await stores.get("memory")
        assert kept_letters(flows, stores) == [KeptLetters("open", Keep(max=1), opened)]
        await stores.aclose()

    run(main())
