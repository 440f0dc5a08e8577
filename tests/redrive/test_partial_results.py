"""Redrives call only what failed: through real runs, stores, jobs and edits."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from penstock import Flow, from_iterable
from penstock.deadletters import DeadLetterQuery, create_store
from penstock.deadletters.dead_letter_queue import JobOptions, Requester
from penstock.redrive import Redriver
from penstock.redrive.edits import parse_assignments
from penstock.redrive.plan import plan
from penstock.runtime import Supervisor
from redrive.letters import Flows

ME = Requester("me")
ALL = DeadLetterQuery()


@pytest.mark.parametrize("from_start", [False, True], ids=["default", "from start"])
@pytest.mark.parametrize("url", ["memory", "sqlite"])
def test_only_what_failed_is_called_again(tmp_path: Path, url: str, from_start: bool) -> None:
    """Also after a fix by an expression, and after a redrive that failed again."""
    calls: Counter[str] = Counter()
    merged: list[Any] = []

    def pricing(order: dict[str, Any]) -> dict[str, Any]:
        calls["pricing"] += 1
        return {"price": 100 + order["id"]}

    def inventory(order: dict[str, Any]) -> dict[str, Any]:
        calls["inventory"] += 1
        if order["currency"] != "EUR":
            raise ValueError(f"unknown currency {order['currency']}")
        return {"inStock": True}

    async def main() -> None:
        store: Any = create_store("memory" if url == "memory" else f"sqlite:///{tmp_path}/letters.db")
        flow = Flow[Any]("orders", key="id").enrich(pricing=pricing, inventory=inventory).tap(merged.append)
        flow = flow.dead_letters(store)
        supervisor = Supervisor()
        redriver = Redriver(supervisor, Flows(flow))
        await supervisor.stores.get(store)
        summary = await flow.run(from_iterable([{"id": id, "currency": "Eur"} for id in range(20)]))
        assert summary.failed == 20

        for currency in ("euro", "EUR"):
            job = await store.create_job(ALL, JobOptions(from_start=from_start), ME)
            if currency == "EUR":
                edit = parse_assignments(['currency="EUR"'])
                letters = (await store.page(ALL)).letters
                assert len(await store.edit({letter.id: edit.apply(letter) for letter in letters}, ME)) == 20
            ended = await redriver.run(store, job.id)
            assert (ended.counts.failed, ended.counts.resolved) == ((0, 20) if currency == "EUR" else (20, 0))
        assert await store.count(DeadLetterQuery(state="resolved")) == {(): 20}
        await supervisor.shut_down(10)

    with capture_logs():
        asyncio.run(main())
    assert calls == {"pricing": 60 if from_start else 20, "inventory": 60}
    assert [json.dumps(order) for order in sorted(merged, key=lambda order: order["id"])] == [
        json.dumps({"id": id, "currency": "EUR", "pricing": {"price": 100 + id}, "inventory": {"inStock": True}})
        for id in range(20)
    ]


@pytest.mark.parametrize("from_start", [False, True], ids=["default", "from start"])
@pytest.mark.parametrize("url", ["memory", "sqlite"])
def test_a_fix_of_what_a_later_step_rejected_calls_no_service(tmp_path: Path, url: str, from_start: bool) -> None:
    """The responses to the input before the edit are used with the edited input; they stay with the letter."""
    calls: Counter[str] = Counter()
    totals: list[Any] = []

    def pricing(order: dict[str, Any]) -> dict[str, Any]:
        calls["pricing"] += 1
        return {"price": 100 + order["id"], "currency": order["currency"]}

    def inventory(_: dict[str, Any]) -> dict[str, Any]:
        calls["inventory"] += 1
        return {"inStock": True}

    def total(order: dict[str, Any]) -> dict[str, Any]:
        if order["currency"] != "EUR":
            raise ValueError(f"unknown currency {order['currency']}")
        return {"id": order["id"], "total": order["pricing"]["price"], "priced in": order["pricing"]["currency"]}

    async def main() -> None:
        store: Any = create_store("memory" if url == "memory" else f"sqlite:///{tmp_path}/letters.db")
        flow = Flow[Any]("orders", key="id").enrich(pricing=pricing).enrich(inventory=inventory, name="stock")
        flow = flow.map(total).tap(totals.append).dead_letters(store)
        supervisor = Supervisor()
        redriver = Redriver(supervisor, Flows(flow))
        await supervisor.stores.get(store)
        await flow.run(from_iterable([{"id": id, "currency": "Eur"} for id in range(20)]))

        for currency in ("Eur", "EUR"):
            letters = (await store.page(ALL)).letters
            assert [(letter.step, letter.partial_results) for letter in letters] == [
                ("total", {"pricing": {"price": 100 + id, "currency": "Eur"}, "stock: inventory": {"inStock": True}})
                for id in range(20)
            ]
            options = JobOptions(from_start=from_start)
            planned = await plan(store, ALL, options, Flows(flow))
            counted = {"pricing": 20, "inventory": 20}
            assert (planned.services, planned.kept) == ((counted, {}) if from_start else ({}, counted))
            job = await store.create_job(ALL, options, ME)
            if currency == "EUR":
                edit = parse_assignments(['currency="EUR"'])
                assert len(await store.edit({letter.id: edit.apply(letter) for letter in letters}, ME)) == 20
            ended = await redriver.run(store, job.id)
            assert (ended.counts.failed, ended.counts.resolved) == ((0, 20) if currency == "EUR" else (20, 0))
        await supervisor.shut_down(10)

    with capture_logs():
        asyncio.run(main())
    assert calls == ({"pricing": 60, "inventory": 60} if from_start else {"pricing": 20, "inventory": 20})
    priced_in = "EUR" if from_start else "Eur"
    assert sorted(totals, key=lambda order: order["id"]) == [
        {"id": id, "total": 100 + id, "priced in": priced_in} for id in range(20)
    ]
