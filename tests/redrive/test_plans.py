"""Plans and trials of redrives, on the store in memory."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from penstock import Flow, Service
from penstock.deadletters import DeadLetter, DeadLetterQuery, MemoryStore
from penstock.deadletters.dead_letter_queue import JobOptions
from penstock.errors import RedriveError
from penstock.redrive.plan import plan
from penstock.redrive.records import Plan, TryResult
from penstock.redrive.trial import try_letters
from penstock.testing import run
from redrive.letters import Flows, Pricing, letter, orders

ALL = DeadLetterQuery()


class Kept:
    """A sink that keeps what it gets."""

    name = "kept"

    def __init__(self) -> None:
        self.values: list[Any] = []

    async def open(self) -> None: ...

    async def write(self, values: Any) -> None:
        self.values += values

    async def aclose(self) -> None: ...


def with_store(letters: list[DeadLetter], work: Callable[[MemoryStore], Coroutine[Any, Any, Any]]) -> Any:
    async def main() -> Any:
        store = MemoryStore()
        await store.add(letters)
        before = (await store.page(ALL)).letters
        result = await work(store)
        assert (await store.page(ALL)).letters == before
        return result

    return run(main())


def test_a_plan_counts_letters_groups_and_calls() -> None:
    """A plan names the groups, the services that would be called, and those whose results are kept."""
    flow: Flow[Any] = Flow[Any]("orders").enrich(
        {"pricing": Service("prices", Pricing()), "inventory": Service("stock", Pricing())}
    )
    letters = [letter(n, step="inventory", partial_results={"pricing": {"price": 1}}) for n in range(3)]
    letters += [letter(3, message="other"), letter(4, flow="gone"), letter(5, input_size=99)]
    letters += [letter(6, state="parked")]
    made: Plan = with_store(letters, lambda store: plan(store, ALL, JobOptions(rate=2.0), Flows(flow)))
    assert (made.letters, made.seconds) == (6, 3.0)
    assert [(group.flow, group.step, group.letters) for group in made.groups[:1]] == [("orders", "inventory", 3)]
    assert len(made.groups) == 4
    assert made.services == {"stock": 4, "prices": 1}
    assert made.kept == {"prices": 3}
    assert made.warnings == [
        "1 letter of the flow gone, which is not loaded: load it, or use --through NAME",
        "1 letter with an incomplete input, which fail again: edit them first",
    ]
    again: Plan = with_store(letters, lambda store: plan(store, ALL, JobOptions(from_start=True), Flows(flow)))
    assert again.services == {"stock": 4, "prices": 4}
    assert (again.kept, again.seconds) == ({}, None)


def test_a_trial_calls_services_and_writes_nothing() -> None:
    """Real services, no sinks; the letters stay as they are. The outcomes are in the order of the letters."""
    pricing, sink = Pricing(fails=(1,)), Kept()
    flow = orders(pricing).filter(lambda order: order["id"] != 2).to(sink).dead_letters(MemoryStore())
    letters = [letter(n) for n in range(5)]
    results: list[TryResult] = with_store(letters, lambda store: try_letters(store, ALL, JobOptions(), Flows(flow), 3))
    assert [(each.id, each.outcome) for each in results] == [
        (letters[0].id, "ok"),
        (letters[1].id, "failed"),
        (letters[2].id, "filtered"),
    ]
    assert results[0].value == {"id": 0, "pricing": {"price": 0}}
    assert results[1].error == "pricing: Down: the service is down again"
    assert sum(pricing.calls.values()) == 3
    assert sink.values == []


def test_a_trial_of_parts_returns_their_values() -> None:
    """An element that a step replaced by parts has a list of values."""
    flow: Flow[Any] = Flow[Any]("orders").flat_map(lambda order: [order["id"], 2], max_parts=3)
    results = with_store([letter(7)], lambda store: try_letters(store, ALL, JobOptions(), Flows(flow), 1))
    assert [each.value for each in results] == [[7, 2]]


def test_a_trial_of_an_unknown_flow_is_rejected() -> None:
    """The message says what to do."""
    with pytest.raises(
        RedriveError, match="the flow orders is not loaded; load it, or try another one: --through NAME"
    ):
        with_store([letter(7)], lambda store: try_letters(store, ALL, JobOptions(), Flows(), 1))
