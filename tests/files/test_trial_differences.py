"""The exact messages of tests that fail."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from files.trying import DELIVERED, ORDERS, found, verdict
from penstock import Flow
from penstock.flowtests import verify
from penstock.flowtests.compare import Item, differences, explain, matches
from penstock.flowtests.rules import json_equal

SCRIPT = (
    "given: {generate: 3}, when: {pricing: {returns: {price: 5}, delay: 1ms}, inventory: {orderId: 3, raises: out}}"
)
REASON = "\n  failed at inventory: StubError: out (key 3)"


@pytest.mark.parametrize(
    ("expected", "said"),
    [
        ("ok: 3", "ok: expected 3, got 2: 1, 2" + REASON),
        ("ok: [1, 2, 3]", "ok: expected 3, got 2\n  missing: 3" + REASON),
        (
            "ok: [1]",
            "ok: expected 1, got 2\n"
            '  unexpected: {"orderId": 2, "pricing": {"price": 5}, "inventory": {"inStock": true}}' + REASON,
        ),
        (
            "ok: [{orderId: 1, pricing: {price: 1001}}, {orderId: 2, note: x}]",
            'ok: different items\n  1: pricing.price is 5, expected 1001\n  2: note is missing, expected "x"' + REASON,
        ),
        (
            "failed: [{key: 3, step: pricing}]",
            'failed: different items\n  3: step is "inventory", expected "pricing"',
        ),
        ("dead_letters: 0", "dead_letters: expected 0, got 1: 3"),
        ("filtered: [1]", "filtered: expected 1, got 0\n  missing: 1" + REASON),
        ("received: 4", "received: expected 4, got 3"),
        ("order: [1, 2, 3]", "order: expected [1, 2, 3]\n     got [3, 1, 2]"),
        ("calls: {inventory: 3}", "calls: inventory: expected 3, got 4"),
        ("calls: {inventory: {min: 5}}", "calls: inventory: expected at least 5, got 4"),
        ("calls: {inventory: {min: 1, max: 2}}", "calls: inventory: expected 1 to 2, got 4"),
        ("peak_calls: {pricing: {max: 2}}", "peak_calls: pricing: expected at most 2, got 3"),
        ("in_flight: {max: 2}", "in_flight: expected at most 2, got 3"),
        ("seconds: 100ms", "seconds: expected 0.1 s, got 0.15 s"),
        ("max_duration: 0.149", "max_duration: expected at most 0.149 s, got 0.15 s"),
        ("reason: draining", "reason: expected draining, got completed"),
    ],
)
def test_what_is_not_as_expected_is_said(expected: str, said: str) -> None:
    assert found(f"{{{SCRIPT}, expect: {{{expected}}}}}") == [said]


def test_what_an_outlet_was_not_handed_is_said() -> None:
    assert found("{given: {generate: 1}, expect: {delivered: {audit: [{orderId: 2}]}}}", DELIVERED) == [
        "delivered to audit: different items\n"
        '  missing: {"orderId": 2}\n'
        '  unexpected: {"orderId": 1, "pricing": {"price": 1001}, "inventory": {"inStock": true}}'
    ]


def test_failures_that_nobody_expects_are_told_once_and_not_all() -> None:
    failing = Flow[Any]("f").filter(lambda value: value["name"] > "a", name="named")
    assert found("{given: [1, 2, 3, 4, 5], expect: {ok: 1, filtered: 2}}", failing) == [
        "ok: expected 1, got 0\n"
        "  failed at named: TypeError: 'int' object is not subscriptable (element 0)\n"
        "  failed at named: TypeError: 'int' object is not subscriptable (element 1)\n"
        "  failed at named: TypeError: 'int' object is not subscriptable (element 2)\n"
        "  and 2 more failed",
        "filtered: expected 2, got 0",
    ]


def test_failures_that_a_test_expects_are_no_reasons() -> None:
    assert found(f"{{{SCRIPT}, expect: {{ok: 3, failed: 1}}}}") == ["ok: expected 3, got 2: 1, 2"]


def test_all_differences_are_said_at_once() -> None:
    assert len(found(f"{{{SCRIPT}, expect: {{ok: 1, failed: 2, seconds: 1s}}}}")) == 3


def test_a_rule_that_decided_nothing_is_a_difference() -> None:
    text = "{given: {generate: 1}, when: {inventory: {orderId: 7, call: 2, from: 1s, raises: no}}, expect: {ok: 1}}"
    assert found(text) == [
        "when: orders.yaml:1:58: the rule of inventory (orderId = 7, call 2, from 1 s) applied to none of its 1 calls"
    ]


def test_an_event_that_came_too_late_is_a_difference() -> None:
    text = "{given: {generate: 1}, events: [{at: 9s, client: disconnects}], expect: {ok: 1}}"
    assert found(text) == ["events: the client disconnects: the run ended earlier, after 0.15 s"]


def test_letters_that_do_not_agree_with_failures_are_a_difference() -> None:
    run = verdict("{given: {generate: 3}, expect: {failed: [3]}}").run
    assert [str(one) for one in verify(replace(run, letters=())).differences] == [
        "run: 1 failed, but 0 dead letters were stored"
    ]


def test_elements_that_are_lost_are_a_difference() -> None:
    run = verdict("{given: {generate: 2}, expect: {ok: 2}}").run
    lost = msgspec.structs.replace(run.summary, ok=1)
    assert [str(one) for one in verify(replace(run, summary=lost)).differences] == ["run: received 2, but settled 1"]


def test_long_values_are_shortened() -> None:
    (said,) = found("{given: ['\"" + "x" * 500 + "\"'], expect: {ok: []}}", Flow[Any]("f"))
    assert said == f'ok: expected 0, got 1\n  unexpected: "{"x" * 199}…'


def test_true_is_no_number_and_a_whole_fraction_is_one() -> None:
    assert json_equal([1, {"a": 1.0}], [1.0, {"a": 1}])
    assert not json_equal(True, 1)
    assert not json_equal([0], [False])
    assert list(explain({"a": True}, {"a": 1})) == ["a is 1, expected true"]


def test_lists_inside_records_are_compared_place_by_place() -> None:
    assert list(explain({"a": [{"b": 1}, 2]}, {"a": [{"b": 3, "c": 0}, 2]})) == ["a[0].b is 3, expected 1"]
    assert list(explain({"a": [1]}, {"a": [1, 2]})) == ["a is [1, 2], expected [1]"]


def test_nothing_stands_for_what_is_not_there() -> None:
    assert list(explain({"note": None}, {})) == []
    assert list(explain({"note": None}, {"note": 1})) == ["note is 1, expected null"]


records = st.fixed_dictionaries({}, optional={"a": st.integers(0, 1), "b": st.integers(0, 1)})


@given(wanted=st.lists(records, max_size=5), came=st.lists(records, max_size=5))
def test_each_item_serves_one_expectation_and_the_best_pairing_is_found(wanted: list[Any], came: list[Any]) -> None:
    items = [Item(place, facts) for place, facts in enumerate(came)]

    def pairable(wanted: list[Any], items: list[Item]) -> bool:
        if not wanted:
            return not items
        return any(
            matches(wanted[0], item) and pairable(wanted[1:], [*items[:place], *items[place + 1 :]])
            for place, item in enumerate(items)
        )

    assert (differences(tuple(wanted), items) == ()) == pairable(wanted, items)


def test_an_order_that_expects_more_than_comes_is_no_success() -> None:
    assert found("{given: [], expect: {ok: [1]}}", ORDERS) == ["ok: expected 1, got 0\n  missing: 1"]
