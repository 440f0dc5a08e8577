"""The step `fail`: values are rejected with a reason, and are ordinary failures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from penstock import Expression, Flow, FlowDefinitionError, Otherwise, When, from_iterable, steps
from penstock.core.element import MESSAGE_LIMIT
from penstock.deadletters import DeadLetterQuery, MemoryStore
from penstock.results import Result
from penstock.testing import run


def results(flow: Flow[Any], values: list[Any]) -> list[Result[Any]]:
    async def main() -> list[Result[Any]]:
        return [result async for result in flow.stream(from_iterable(values), ordered=True)]

    return run(main())


def failures(flow: Flow[Any], values: list[Any]) -> list[tuple[Any, ...]]:
    """Step, type, message and attempts of each failure."""
    found = [result.failure for result in results(flow, values) if not result.ok]
    return [(one.step, one.type, one.message, one.attempts) for one in found]


def test_a_rejected_value_is_an_ordinary_failure_with_a_dead_letter() -> None:
    """Step, type, message and attempts are in the result and in the dead letter; other values go on."""
    store = MemoryStore()
    flow = Flow[Any]("f", key="id").fail(
        lambda value: value["amount"] < 0, reason="amount {amount} is negative", type="Negative", name="check"
    )
    flow = flow.dead_letters(store)

    async def main() -> tuple[list[Result[Any]], Any]:
        source = from_iterable([{"id": 1, "amount": -5}, {"id": 2, "amount": 5}])
        came = [result async for result in flow.stream(source, ordered=True)]
        return came, (await store.page(DeadLetterQuery(step="check"))).letters

    (bad, good), letters = run(main())
    assert (bad.failure.step, bad.failure.type, bad.failure.message) == ("check", "Negative", "amount -5 is negative")
    assert (good.ok, good.value) == (True, {"id": 2, "amount": 5})
    (letter,) = letters
    told = (letter.id, letter.key, letter.type, letter.message, letter.attempts)
    assert told == (bad.dead_letter, 1, "Negative", "amount -5 is negative", 1)


def test_without_a_condition_all_values_fail() -> None:
    """As at the end of a branch for what nothing else takes. The type is `Rejected` unless another is given."""
    flow = Flow[Any]("f").route(
        known=When(lambda value: value == 1), others=Otherwise(lambda way: way.fail(reason="unknown", name="unknown"))
    )
    assert failures(flow, [1, 2]) == [("unknown", "Rejected", "unknown", 1)]


@dataclass
class Card:
    number: str


@pytest.mark.parametrize(
    ("reason", "value", "message"),
    [
        ("literal: value.a > 1", {}, "literal: value.a > 1"),
        ("{{a}} costs $5", {"a": 1}, "{a} costs $5"),
        ("{card.number}!", {"card": {"number": "x"}}, "x!"),
        ("{card.number}!", {"card": Card("x")}, "x!"),
        ("{a}", {"a": True}, "true"),
        ("{a}", {"a": None}, "null"),
        ("{a}", {"a": {"b": [1]}}, '{"b":[1]}'),
        ("{a}", {"a": "\ud800"}, "\ud800"),
        ("no {a}", {}, "no {a} (cannot be computed: the value has no field a)"),
        (Expression("'n is ' + string(value.n)"), {"n": 2}, "n is 2"),
        (Expression("value.n"), {"n": 2}, "2"),
        (Expression("''"), {}, "Rejected"),
        (lambda value: f"got {value!r}", {}, "got {}"),
        (lambda value: 1 // value["a"], {"a": 0}, "reason (cannot be computed: integer division or modulo by zero)"),
    ],
)
def test_the_reason_is_literal_text_with_fields_or_is_computed(reason: Any, value: Any, message: str) -> None:
    """A value is rejected with its type even if the reason cannot be computed."""
    assert failures(Flow[Any]("f").fail(reason=reason), [value]) == [("fail", "Rejected", message, 1)]


def test_the_reason_has_a_limit() -> None:
    """As every message has."""
    ((*_, message, _),) = failures(Flow[Any]("f").fail(reason="{a}"), [{"a": "x" * 10 * MESSAGE_LIMIT}])
    assert message == "x" * MESSAGE_LIMIT


async def later(value: Any) -> bool:
    return bool(value)


@pytest.mark.parametrize(
    ("when", "type"),
    [
        (lambda value: value["missing"], "KeyError"),
        (Expression("value.missing"), "ExpressionFailed"),
        (Expression("value.n"), "ExpressionFailed"),
        (lambda value: later(value), "TypeError"),
    ],
)
def test_a_condition_that_fails_is_a_failure_of_its_own_type(when: Any, type: str) -> None:
    """It is told apart from a rejection; an expression has to give true or false."""
    ((step, found, _, _),) = failures(Flow[Any]("f").fail(when, reason="x", name="check"), [{"n": 1}])
    assert (step, found) == ("check", type)


def test_what_failed_or_was_filtered_before_is_left_alone() -> None:
    """The first failure counts."""
    flow = Flow[Any]("f").map(lambda value: 1 // value, name="share").filter(lambda value: value > 1).fail(reason="x")
    assert [step for step, *_ in failures(flow, [0, 5])] == ["share"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"reason": ""}, "reason: expected a text that is not empty"),
        ({"reason": "a {b"}, "reason: expected '}' before end of string; write {{ or }} for a literal brace"),
        ({"reason": "a {}"}, "reason: {} is not the name of a field; write {{ or }} for a literal brace"),
        ({"reason": "a ${TOKEN}"}, "${TOKEN} is not filled in"),
        (
            {"reason": "a", "type": "no name"},
            "type: expected a name of at most 64 letters, digits and _, got 'no name'",
        ),
        ({"reason": "a", "type": "x" * 65}, "type: expected a name"),
        ({"reason": later}, "fail: reason: expected a plain function"),
        ({"reason": None}, "fail: reason: expected a function, got None"),
        ({"when": "a", "reason": "b"}, "fail: when: expected a function, got 'a'"),
    ],
)
def test_what_is_wrong_is_said_when_the_flow_is_built(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises((FlowDefinitionError, ValueError)) as caught:
        Flow[Any]("f").fail(**options)
    assert sentence in str(caught.value)


def test_it_works_as_an_operator_of_its_own() -> None:
    """In a `pipe`, as the other steps."""
    flow = Flow[Any]("f").operator(steps.Fail(lambda value: value > 1, reason="more than 1"))
    assert failures(flow, [1, 2]) == [("fail", "Rejected", "more than 1", 1)]
