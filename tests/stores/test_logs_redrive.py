"""Redrives of letters in S3, Kafka and JetStream, each on its real server."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from penstock import Flow, from_iterable
from penstock.deadletters import DeadLetterQuery
from penstock.deadletters.dead_letter_queue import JobOptions
from penstock.redrive.logs import redrive_log
from penstock.runtime import Supervisor
from stores.logs import ids, new_log, open_log, read
from waiting import HANG_SECONDS


class Pricing:
    """A step that fails for some numbers."""

    def __init__(self, *failing: int) -> None:
        self.failing = failing
        self.values: list[int] = []

    def __call__(self, value: Any) -> Any:
        if not self.failing or int(value) in self.failing:
            raise ConnectionError(f"no price for {value}")
        self.values.append(int(value))
        return value


class OneFlow:
    """Finds the only flow."""

    def __init__(self, flow: Flow[Any]) -> None:
        self._flow = flow

    def flow(self, name: str) -> Flow[Any] | None:
        """Return it, whatever its name is."""
        return self._flow if name == "orders" else None

    def names(self) -> list[str]:
        """Return its name."""
        return ["orders"]


@pytest.mark.parametrize("kind", ["s3", pytest.param("kafka", marks=pytest.mark.long), "nats"])
async def test_letters_are_redriven_from_a_log(request: pytest.FixtureRequest, kind: str) -> None:
    """Those that fail again are appended again, and redriven the next time; the others are resolved once."""
    url = new_log(request.getfixturevalue(f"{kind}_server"))
    summary = await Flow[Any]("orders").map(Pricing()).dead_letters(url).run(from_iterable(range(100)))
    assert summary.failed == 100

    store = await open_log(url)
    for failing, resolved, failed in (((7, 8), 98, 2), ((-1,), 2, 0), ((-1,), 0, 0)):
        supervisor = Supervisor()
        flow = Flow[Any]("orders").map(Pricing(*failing)).dead_letters(url)
        redrive = redrive_log(store, DeadLetterQuery(), JobOptions(), OneFlow(flow), supervisor)  # type: ignore[arg-type]
        report = await asyncio.wait_for(redrive, HANG_SECONDS)
        await supervisor.shut_down(1)
        assert (report.resolved, report.failed) == (resolved, failed)
    assert len(set(ids(await read(store, limit=1000)))) == 100
    assert sorted(each.redrives for each in await read(store, limit=1000))[-3:] == [0, 1, 1]
    await store.aclose()
