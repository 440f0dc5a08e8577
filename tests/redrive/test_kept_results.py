"""Responses of services are kept when a later step fails, so that a redrive does not call them again."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.redriving import Redriven, letters_of
from laws.virtual import quiet, results
from penstock import Flow, Otherwise, When, from_iterable
from penstock.deadletters import DeadLetterQuery, MemoryStore
from penstock.results import DiscardResults
from penstock.steps import Enrich, walk
from penstock.steps.step import keep_results


class Services:
    """Services that count their calls."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()

    def service(self, name: str, response: Any = None, *, waits: bool = True) -> Any:
        async def call(value: Any) -> Any:
            self.calls[name] += 1
            if waits:
                await asyncio.sleep(value.get("seconds", 1))
            if value.get("refused_by") == name:
                raise ValueError(f"{name} refuses")
            return {"from": name} if response is None else response

        return call


class Broken:
    """Steps that fail until they are repaired."""

    def __init__(self) -> None:
        self.repaired = False
        self.name = "sink"

    def check(self, value: Any) -> Any:
        if not self.repaired:
            raise ValueError("broken")
        return value

    async def open(self) -> None:
        """Nothing to open."""

    async def aclose(self) -> None:
        """Nothing to close."""

    def refuses(self, _: Any) -> bool:
        return not self.repaired

    async def write(self, values: Sequence[Any]) -> list[Exception | None]:
        return [None if self.repaired else ValueError("broken") for _ in values]


LATER: dict[str, Callable[[Flow[Any], Broken], Flow[Any]]] = {
    "map": lambda flow, broken: flow.map(broken.check),
    "filter": lambda flow, broken: flow.filter(broken.check),
    "fail": lambda flow, broken: flow.fail(broken.refuses, reason="broken"),
    "to": lambda flow, broken: flow.to(broken),
    "the second": lambda flow, broken: flow.throttle(1000).map(dict, name="copy").tap(broken.check),
    "route": lambda flow, broken: flow.route(
        one=When(lambda _: True, lambda one: one.map(dict, name="copy").map(broken.check))
    ),
}


@pytest.mark.parametrize("waits", [True, False], ids=["waiting", "at once"])
@pytest.mark.parametrize("later", LATER.values(), ids=LATER)
def test_a_later_step_that_fails_repeats_no_calls(later: Callable[[Flow[Any], Broken], Flow[Any]], waits: bool) -> None:
    """Whatever step it is; from the start all are called again."""
    services, broken = Services(), Broken()
    enriched = Flow[Any]("f").enrich(
        pricing=services.service("pricing", waits=waits), inventory=services.service("inventory", waits=waits)
    )
    flow = later(enriched.enrich(tax=services.service("tax", 3, waits=waits), name="taxes"), broken)
    kept = {"pricing": {"from": "pricing"}, "inventory": {"from": "inventory"}, "taxes: tax": 3}
    letters = letters_of(flow, [{"id": id} for id in range(3)])
    assert [letter.partial_results for letter in letters] == [kept] * 3
    assert services.calls == {"pricing": 3, "inventory": 3, "tax": 3}

    letters = letters_of(flow, Redriven(letters))
    assert [letter.partial_results for letter in letters] == [kept] * 3

    broken.repaired = True
    ended = results(flow, Redriven(letters))
    assert sorted(result.value["id"] for result in ended if result.ok) == [0, 1, 2]
    assert all(result.value["inventory"] == {"from": "inventory"} for result in ended)
    assert services.calls == {"pricing": 3, "inventory": 3, "tax": 3}

    results(flow, Redriven(letters, from_start=True))
    assert services.calls == {"pricing": 6, "inventory": 6, "tax": 6}


def test_a_step_inside_a_branch_keeps_its_results_for_steps_after_the_branches() -> None:
    """Elements of other branches have their own."""
    services, broken = Services(), Broken()
    flow = (
        Flow[Any]("f")
        .route(
            first=When(lambda value: value["id"] == 0, lambda one: one.enrich(a=services.service("a", 1))),
            last=When(lambda value: value["id"] == 2, lambda one: one.enrich(c=services.service("c", 3)), final=True),
            otherwise=Otherwise(lambda one: one.enrich(b=services.service("b", 2), name="bs")),
        )
        .map(broken.check)
    )
    letters = letters_of(flow, [{"id": 0}, {"id": 1}, {"id": 2}])
    assert [letter.partial_results for letter in letters] == [{"a": 1}, {"bs: b": 2}]

    broken.repaired = True
    results(flow, Redriven(letters))
    assert services.calls == {"a": 1, "b": 1, "c": 1}


def price(_: Any) -> int:
    return 1


@pytest.mark.parametrize(
    ("flow", "keeping"),
    [
        (Flow[Any]("f").enrich(a=price), []),
        (Flow[Any]("f").enrich(a=price).throttle(5), []),
        (Flow[Any]("f").enrich(a=price).map(dict), ["enrich"]),
        (Flow[Any]("f").map(dict).enrich(a=price).enrich(b=price, name="second"), ["enrich"]),
        (Flow[Any]("f").enrich(a=price).flat_map(lambda value: [value]), ["enrich"]),
        (Flow[Any]("f").flat_map(lambda value: [value]).enrich(a=price).map(dict), []),
        (Flow[Any]("f").route(otherwise=Otherwise(lambda one: one.enrich(a=price))).map(dict), ["enrich"]),
        (Flow[Any]("f").route(otherwise=Otherwise(lambda one: one.enrich(a=price))).throttle(1), []),
        (Flow[Any]("f").route(b=When(bool, lambda one: one.enrich(a=price), final=True)).map(dict), []),
        (Flow[Any]("f").route(b=When(bool, lambda b: b.enrich(a=price).map(dict), final=True)), ["enrich"]),
    ],
)
def test_only_a_step_with_a_later_one_that_can_fail_keeps_its_results(flow: Flow[Any], keeping: list[str]) -> None:
    """The others have nothing to do. Flows stay equal: only their plan differs."""
    steps = keep_results(flow.steps)
    assert [step.name for step in walk(steps) if isinstance(step, Enrich) and step.keeps_results] == keeping
    assert steps == flow.steps


def test_the_letter_of_a_part_has_what_its_root_had_before_it_was_divided() -> None:
    """Responses to the part itself are shown, but not reused: a redrive divides again."""
    services, broken = Services(), Broken()
    flow = (
        Flow[Any]("f")
        .enrich(pricing=services.service("pricing", 7))
        .flat_map(lambda order: [order | {"line": line} for line in order["lines"]], name="lines")
        .map(lambda line: line if broken.repaired else line | {"refused_by": line["line"]})
        .enrich(a=services.service("a", 1), b=services.service("b", 2), name="later")
    )
    letters = letters_of(flow, [{"lines": ["c", "b"]}])
    assert (letters[0].part, letters[0].partial_results) == (1, {"pricing": 7, "later: a (not reused)": 1})
    assert services.calls == {"pricing": 1, "a": 2, "b": 2}

    letters = letters_of(flow, Redriven(letters))
    assert letters[0].partial_results == {"pricing": 7, "later: a (not reused)": 1}
    assert services.calls == {"pricing": 1, "a": 4, "b": 4}

    broken.repaired = True
    assert all(result.ok for result in results(flow, Redriven(letters)))
    assert services.calls == {"pricing": 1, "a": 6, "b": 6}


def test_kept_results_that_json_changes_are_marked_and_called_again() -> None:
    """As when another service of the step fails."""
    services, broken = Services(), Broken()
    at = datetime(2026, 1, 1, tzinfo=UTC)
    flow = Flow[Any]("f").enrich(at=services.service("at", at), price=services.service("price", 7)).map(broken.check)
    letters = letters_of(flow, [{}])
    assert letters[0].partial_results == {"at (not reused)": at, "price": 7}

    broken.repaired = True
    (result,) = results(flow, Redriven(letters))
    assert result.value == {"at": at, "price": 7}
    assert services.calls == {"at": 2, "price": 1}


@pytest.mark.parametrize("divided", [False, True], ids=["whole", "part"])
def test_secret_fields_are_removed_from_kept_results(divided: bool) -> None:
    """By the name of the service, in the response, and wherever a secret of the input is repeated."""
    services = Services()
    flow = (
        Flow[Any]("f")
        .enrich(card=services.service("card", {"number": "4111", "type": "visa"}), echo=services.service("echo", "t0p"))
        .enrich(price=services.service("price", 7), name="offer")
    )
    if divided:
        flow = flow.flat_map(lambda value: [value], name="lines")

    async def main() -> Any:
        store = MemoryStore()
        stored = flow.map(lambda value: value["missing"]).dead_letters(store, redact=["card.number", "token"])
        await stored.start(from_iterable([{"token": "t0p"}]), DiscardResults()).finished
        return (await store.page(DeadLetterQuery())).letters

    (letter,) = quiet(main())
    assert letter.partial_results == {
        "card (not reused)": {"number": "[redacted]", "type": "visa"},
        "echo (not reused)": "[redacted]",
        "offer: price": 7,
    }


FATES = ["ok", "early", "a", "b", "between", "c", "late"]


@given(
    st.lists(st.tuples(st.sampled_from(FATES), st.integers(0, 2)), min_size=1, max_size=8),
    st.booleans(),
    st.booleans(),
)
def test_every_service_responds_once_to_every_element(given: list[tuple[str, int]], waits: bool, merges: bool) -> None:
    """Wherever elements fail, in whatever company: after the redrive each service has responded once to each."""
    services = Services()
    repaired = False

    def may_fail(fate: str) -> Any:
        def check(value: Any) -> Any:
            if value["fate"] == fate and not repaired:
                raise ValueError(fate)
            return value if repaired or fate != "early" else value | {"refused_by": value["fate"]}

        return check

    def merge(value: Any, responses: dict[str, Any]) -> Any:
        return value | responses

    options: dict[str, Any] = {"merge": merge} if merges else {}
    flow = (
        Flow[Any]("f")
        .map(may_fail("early"), name="early")
        .enrich({name: services.service(name, name, waits=waits) for name in "ab"}, **options)
        .map(may_fail("between"), name="between")
        .enrich({"c": services.service("c", "c", waits=waits), "d": services.service("d", waits=waits)}, name="second")
        .map(may_fail("late"), name="late")
    )
    values = [{"id": id, "fate": fate, "seconds": seconds} for id, (fate, seconds) in enumerate(given)]
    letters = letters_of(flow, values)
    assert [letter.seq for letter in letters] == [id for id, (fate, _) in enumerate(given) if fate != "ok"]

    repaired = True
    assert not letters or all(result.ok for result in results(flow, Redriven(letters)))
    refused = Counter(fate for fate, _ in given if fate in "abc")
    assert services.calls == {name: len(given) + refused[name] for name in "abcd"}
