"""What is special for `enrich`: several services side by side, and one value of their answers."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TypedDict

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.redriving import Redriven, letters_of
from laws.virtual import quiet, results, summary_of
from penstock import Flow, FlowDefinitionError, Service, from_iterable
from penstock.deadletters import DeadLetterQuery, MemoryStore
from penstock.results import DiscardResults
from penstock.services import NONE


class Record(msgspec.Struct):
    id: int
    price: Any = None


@dataclass
class Item:
    id: int
    price: Any = None


async def price(_: Any) -> int:
    await asyncio.sleep(2)
    return 7


async def refuse(_: Any) -> Any:
    await asyncio.sleep(1)
    raise ValueError("no")


@pytest.mark.parametrize(
    ("value", "after"),
    [({"id": 1, "x": 2}, {"id": 1, "x": 2, "price": 7}), (Record(1), Record(1, 7)), (Item(1), Item(1, 7))],
    ids=["dict", "Struct", "dataclass"],
)
def test_answers_are_merged_by_name(value: Any, after: Any) -> None:
    """A dict gets a key, a Struct or a dataclass its field; the value that came in stays as it was."""
    before = repr(value)
    (told,) = results(Flow("f").enrich(price=price), [value])

    assert told.value == after
    assert repr(value) == before


def test_services_are_asked_side_by_side() -> None:
    """Two services of 2 s take 2 s."""
    assert summary_of(Flow("f").enrich(a=price, b=price), [{}]).seconds == 2.0


def test_merge_does_it_for_anything_else() -> None:
    """A function of one's own gets the value and the answers by name."""
    (told,) = results(Flow("f").enrich(merge=lambda value, answers: (value, dict(answers)), a=price), [5])

    assert told.value == (5, {"a": 7})


def test_a_value_that_cannot_be_merged_into_fails_and_the_sentence_says_what_to_do() -> None:
    """A number has no place for an answer."""
    (told,) = results(Flow("f").enrich(a=price), [5])

    assert told.failure.step == "enrich"
    assert "pass merge=" in told.failure.message


def test_the_failure_names_the_service_and_the_others_answers_are_kept() -> None:
    """The letter has what was found, and the failing service as its step."""

    async def main() -> Any:
        store = MemoryStore()
        flow = Flow("f").enrich(price=price, stock=refuse).dead_letters(store)
        await flow.start(from_iterable([{"id": 1}]), DiscardResults()).finished
        return (await store.page(DeadLetterQuery())).letters

    (letter,) = quiet(main())
    assert (letter.step, letter.partial_results, letter.input) == ("stock", {"price": 7}, b'{"id":1}')


def test_a_failed_attempt_of_one_does_not_repeat_the_others() -> None:
    """Three attempts at the stock, one at the price."""
    asked: Counter[str] = Counter()

    def counting(name: str, call: Any) -> Service:
        async def counted(value: Any) -> Any:
            asked[name] += 1
            return await call(value)

        return Service(name, counted, attempts=3, backoff=NONE)

    results(Flow("f").enrich(price=counting("price", price), stock=counting("stock", refuse)), [{}])

    assert asked == {"price": 1, "stock": 3}


class Calls:
    """Services that count their calls, and refuse while they are down."""

    def __init__(self) -> None:
        self.count: Counter[str] = Counter()
        self.down: set[str] = set()

    def service(self, name: str, response: Any = None, *, waits: bool = True) -> Any:
        async def call(value: Any) -> Any:
            self.count[name] += 1
            if waits:
                await asyncio.sleep(value.get("seconds", 1))
            if name in self.down:
                raise ValueError(f"{name} is down")
            return {"from": name} if response is None else response

        return call


def redriven(flow: Flow[Any], letters: Any, **options: Any) -> list[Any]:
    """The values after a redrive, in input order."""
    ended = sorted(results(flow, Redriven(letters, **options)), key=lambda result: result.seq)
    assert all(result.ok for result in ended), ended
    return [result.value for result in ended]


@pytest.mark.parametrize("waits", [True, False], ids=["waiting", "at once"])
def test_a_redriven_element_calls_only_the_service_that_failed(waits: bool) -> None:
    """Pricing had responded when inventory failed; from the start it is called again."""
    calls = Calls()
    flow = Flow[Any]("f").enrich(
        pricing=calls.service("pricing", waits=waits), inventory=calls.service("inventory", waits=waits)
    )
    calls.down = {"inventory"}
    letters = letters_of(flow, [{"id": id} for id in range(3)])
    assert [letter.partial_results for letter in letters] == [{"pricing": {"from": "pricing"}}] * 3

    calls.down.clear()
    calls.count.clear()
    after = [{"id": id, "pricing": {"from": "pricing"}, "inventory": {"from": "inventory"}} for id in range(3)]
    assert redriven(flow, letters) == after
    assert calls.count == {"inventory": 3}

    assert redriven(flow, letters, from_start=True) == after
    assert calls.count == {"inventory": 6, "pricing": 3}


def test_an_element_that_fails_again_keeps_its_results() -> None:
    """Also those that came since; with all results there, nothing is called, only merged."""
    calls = Calls()
    failing = {"merge": True}

    def merge(value: Any, responses: dict[str, Any]) -> Any:
        if failing["merge"]:
            raise RuntimeError("cannot merge")
        return value | responses

    services = {name: calls.service(name, name) for name in "abc"}
    flow = Flow[Any]("f").enrich(services, merge=merge)
    calls.down = {"b", "c"}
    letters = letters_of(flow, [{}])
    assert letters[0].partial_results == {"a": "a"}

    calls.down = {"c"}
    letters = letters_of(flow, Redriven(letters))
    assert (letters[0].step, letters[0].partial_results) == ("c", {"a": "a", "b": "b"})

    calls.down = set()
    letters = letters_of(flow, Redriven(letters))
    assert (letters[0].step, letters[0].partial_results) == ("enrich", {"a": "a", "b": "b", "c": "c"})
    assert calls.count == {"a": 1, "b": 2, "c": 3}

    failing["merge"] = False
    assert redriven(flow, letters) == [{"a": "a", "b": "b", "c": "c"}]
    assert calls.count == {"a": 1, "b": 2, "c": 3}


def test_results_are_used_only_in_the_step_that_had_them() -> None:
    """Two steps call services under the same names. The results of the second are not those of the first."""
    calls = Calls()
    flow = (
        Flow[Any]("f")
        .enrich(price=calls.service("list price", 1), stock=calls.service("stock", 2))
        .map(lambda value: {"listed": value["price"]})
        .enrich(price=calls.service("offer", 3), stock=calls.service("shop", 4), name="offer")
    )
    calls.down = {"shop"}
    letters = letters_of(flow, [{}])
    assert (letters[0].step, letters[0].partial_results) == ("stock", {"price": 1, "stock": 2, "offer: price": 3})

    calls.down.clear()
    calls.count.clear()
    assert redriven(flow, letters) == [{"listed": 1, "price": 3, "stock": 4}]
    assert calls.count == {"shop": 1}


def test_results_of_a_later_step_are_kept_when_an_earlier_one_fails() -> None:
    """Each result is in the letter once, whichever step fails."""
    calls = Calls()
    flow = (
        Flow[Any]("f")
        .enrich(a=calls.service("a", 1))
        .enrich(b=calls.service("b", 2), c=calls.service("c", 3), name="later")
        .map(lambda value: {"sum": value["a"] // value["zero"]})
    )
    calls.down = {"c"}
    letters = letters_of(flow, [{"zero": 0}])
    assert letters[0].partial_results == {"a": 1, "later: b": 2}
    letters = [msgspec.structs.replace(letters[0], partial_results={"later: b": 2})]

    calls.down = {"a"}
    letters = letters_of(flow, Redriven(letters))
    assert (letters[0].step, letters[0].partial_results) == ("a", {"later: b": 2})

    calls.down = set()
    calls.count.clear()
    letters = letters_of(flow, Redriven(letters))
    assert (letters[0].type, letters[0].partial_results) == (
        "ZeroDivisionError",
        {"a": 1, "later: b": 2, "later: c": 3},
    )
    assert calls.count == {"a": 1, "c": 1}

    letters = letters_of(flow, Redriven(letters))
    assert letters[0].partial_results == {"a": 1, "later: b": 2, "later: c": 3}
    assert calls.count == {"a": 1, "c": 1}


def test_a_renamed_response_is_called_again() -> None:
    """The step does not know the service under its old name."""
    calls = Calls()
    before = Flow[Any]("f").enrich(price=calls.service("price", 1), stock=calls.service("stock", 2))
    calls.down = {"stock"}
    letters = letters_of(before, [{}])

    calls.down.clear()
    calls.count.clear()
    after = Flow[Any]("f").enrich(cost=calls.service("price", 1), stock=calls.service("stock", 2))
    assert redriven(after, letters) == [{"cost": 1, "stock": 2}]
    assert calls.count == {"price": 1, "stock": 1}


class Tone(StrEnum):
    LOW = "low"


@pytest.mark.parametrize(
    ("response", "reused"),
    [
        ({"a": [1, -2.5, True, None, "Zoë"]}, True),
        ([], True),
        (None, True),
        (2**63 - 1, True),
        (Record(1), False),
        ([Item(1)], False),
        ((1, 2), False),
        ({"n": float("nan")}, False),
        ({1: "a"}, False),
        (2**70, True),
        (b"raw", False),
        ("\ud800", False),
        (Tone.LOW, False),
        (Counter("a"), False),
        (datetime(2026, 1, 1, tzinfo=UTC), False),
    ],
    ids=repr,
)
def test_only_results_that_json_returns_as_they_were_are_reused(response: Any, reused: bool) -> None:
    """The letter says which are not, and a redrive calls their services again, from whatever store the letter comes."""
    calls = Calls()

    async def price(_: Any) -> Any:
        calls.count["price"] += 1
        return response

    flow = Flow[Any]("f").enrich(price=price, stock=calls.service("stock"))
    calls.down = {"stock"}
    letters = letters_of(flow, [{}])
    assert list(letters[0].partial_results or {}) == ["price" if reused else "price (not reused)"]

    calls.down.clear()
    [value] = redriven(flow, letters)
    assert repr(value["price"]) == repr(response)
    assert calls.count["price"] == (1 if reused else 2)


def test_a_response_that_contains_itself_is_not_reused() -> None:
    """JSON cannot represent it."""
    calls = Calls()
    endless: list[Any] = []
    endless.append(endless)
    calls.down = {"stock"}
    [letter] = letters_of(
        Flow[Any]("f").enrich(price=calls.service("price", endless), stock=calls.service("stock")), [{}]
    )
    assert list(letter.partial_results or {}) == ["price (not reused)"]


def test_redacted_results_are_not_reused() -> None:
    """The card would be called [redacted]."""
    calls = Calls()
    flow = (
        Flow[Any]("f")
        .enrich(
            card=calls.service("card", {"number": "4111"}),
            price=calls.service("price", 7),
            stock=calls.service("stock"),
            name="offer",
        )
        .dead_letters(MemoryStore(), redact=["card.number"])
    )
    calls.down = {"stock"}

    async def main() -> Any:
        store: Any = flow.store
        await flow.start(from_iterable([{}]), DiscardResults()).finished
        return (await store.page(DeadLetterQuery())).letters

    letters = quiet(main())
    assert letters[0].partial_results == {
        "offer: card (not reused)": {"number": "[redacted]"},
        "offer: price": 7,
    }
    calls.down.clear()
    calls.count.clear()
    assert redriven(flow, letters)[0]["card"] == {"number": "4111"}
    assert calls.count == {"card": 1, "stock": 1}


@given(
    st.lists(st.tuples(st.sampled_from([None, "", "a", "ab", "abc"]), st.integers(0, 2)), min_size=1, max_size=8),
    st.booleans(),
)
def test_elements_with_and_without_results_fare_as_if_alone(given: list[tuple[str | None, int]], waits: bool) -> None:
    """Whatever is kept, in whatever company: each service is called once for each element without its result."""
    calls = Calls()
    flow = Flow[Any]("f").enrich({name: calls.service(name, name, waits=waits) for name in "abc"})
    [sample] = letters_of(Flow[Any]("f").map(lambda _: 1 // 0), [{}])
    letters = [
        msgspec.structs.replace(
            sample,
            input=msgspec.json.encode({"id": id, "seconds": seconds}),
            partial_results=None if kept is None else {name: f"kept {name}" for name in kept},
        )
        for id, (kept, seconds) in enumerate(given)
    ]

    values = redriven(flow, letters)
    assert values == [
        {"id": id, "seconds": seconds, **{name: f"kept {name}" if name in (kept or "") else name for name in "abc"}}
        for id, (kept, seconds) in enumerate(given)
    ]
    assert calls.count == Counter(name for kept, _ in given for name in "abc" if name not in (kept or ""))


@given(st.lists(st.sampled_from(["ok", "fail", "late", "number", "lost"]), max_size=12), st.integers(1, 12))
def test_elements_fare_the_same_alone_and_in_company(fates: list[str], window: int) -> None:
    """Whatever else travels with it, an element gets its own answers, and its own failure."""

    async def stock(value: Any) -> Any:
        if value == 5 or value["fate"] == "ok":
            return "in stock"
        if value["fate"] == "late":
            await asyncio.sleep(1)
            return "in stock, late"
        raise ValueError(f"no stock of {value['id']}")

    def refuse_lost(value: Any) -> Any:
        if value != 5 and value["fate"] == "lost":
            raise LookupError(value["id"])
        return value

    def told(elements: int) -> Any:
        flow = Flow("f").window(elements).map(refuse_lost).enrich(stock=stock, twin=lambda value: [value])
        values = [5 if fate == "number" else {"id": id, "fate": fate} for id, fate in enumerate(fates)]
        return sorted(
            (result.seq, result.ok, result.value if result.ok else result.failure) for result in results(flow, values)
        )

    assert told(window) == told(1)


class Offer(msgspec.Struct):
    id: int
    price: int
    stock: str = "none"


class Wanted(TypedDict):
    id: int
    price: int


@pytest.mark.parametrize("value", [{"id": 1, "x": 2}, Record(1), Item(1)], ids=["dict", "Struct", "dataclass"])
def test_a_value_and_its_responses_are_converted_to_a_type(value: Any) -> None:
    """`into` names the type; what is not one of its fields is left out."""
    (told,) = results(Flow("f").enrich(price=price, into=Offer), [value])
    assert told.value == Offer(1, 7)


def test_a_value_that_cannot_be_converted_fails() -> None:
    """The failure says which field has the wrong type."""
    (told,) = results(Flow("f").enrich(stock=price, price=price, into=Offer), [{"id": 1}])
    assert (told.failure.step, told.failure.type) == ("enrich", "ValidationError")
    assert "Expected `str`, got `int` - at `$.stock`" in told.failure.message


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (
            lambda: Flow("f").enrich(prise=price, into=Offer),
            "Offer has no field 'prise' for the response; did you mean",
        ),
        (lambda: Flow("f").enrich(prise=price, into=Wanted), "Wanted has no field 'prise'"),
        (lambda: Flow("f").enrich(price=price, into=len), "into: expected a type such as"),
        (lambda: Flow("f").enrich(price=price, into=["x"]), "into: expected a type such as"),
        (lambda: Flow("f").enrich(price=price, into=Offer, merge=max), "into and merge exclude each other"),
        (lambda: Flow("f").enrich(price, price), "each service needs a name for its response"),
        (lambda: Flow("f").enrich(price, stock=price, merge=max), "either services with names or services without"),
        (lambda: Flow("f").enrich({"a": price}, price, merge=max), "one mapping of services"),
        (lambda: Flow("f").enrich(price, 5, merge=max), "expected a function or a Service, got 5"),
        (lambda: Flow("f").enrich(a=price, merge=later), "enrich: merge: expected a plain function"),
    ],
)
def test_what_cannot_be_merged_is_said_when_the_flow_is_built(build: Callable[[], Any], says: str) -> None:
    """The message says what to write instead."""
    with pytest.raises(FlowDefinitionError, match=re.escape(says)):
        build()


async def later(*_: Any) -> int:
    return 1


def test_a_function_merges_the_responses_of_services_without_names() -> None:
    """It gets the value and each response, in the order of the services; the same service may be called twice."""
    flow = Flow("f").enrich(price, Service("twice", later), price, merge=lambda value, *found: (value, found))
    (told,) = results(flow, [5])

    assert told.value == (5, (7, 1, 7))
    assert [service.name for service in flow.all_services] == ["price", "twice", "price-3"]


def test_a_service_without_a_name_of_its_own_gives_failures_its_name() -> None:
    """As one that is given by name does."""
    (told,) = results(Flow("f").enrich(price, refuse, merge=lambda value, first, second: value), [5])
    assert told.failure.step == "refuse"


def test_the_same_merging_is_equal() -> None:
    """Flows with it can be compared."""
    assert Flow("f").enrich(price=price, into=Offer) == Flow("f").enrich(price=price, into=Offer)
    assert Flow("f").enrich(price, merge=max) == Flow("f").enrich(price, merge=max)
    assert Flow("f").enrich(price=price, into=Offer) != Flow("f").enrich(price=price, into=Wanted)
