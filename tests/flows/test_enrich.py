"""What is special for `enrich`: several services side by side, and one value of their answers."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypedDict

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
