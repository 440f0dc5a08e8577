"""What a section `tests` may not say: mistakes with their places, before anything is played."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from files.trying import DELIVERED, ORDERS, Folder, cases
from penstock import Flow
from penstock.errors import FlowFileError
from penstock.flowtests import TESTS
from penstock.orders import orders_flow

RULE = "[{{name: a, given: [], when: {{inventory: {}}}, expect: {{ok: 0}}}}]"
EVENT = "[{{name: a, given: [], events: [{}], expect: {{ok: 0}}}}]"
EXPECT = "[{{name: a, given: [], expect: {}}}]"


def mistakes(text: str, flow: Flow[Any] = ORDERS) -> list[str]:
    """What is wrong with tests, without the name of their file."""
    with pytest.raises(FlowFileError) as caught:
        cases(text, flow)
    return [str(mistake).removeprefix("orders.yaml:") for mistake in caught.value.diagnostics]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[{name: a, given: []}]", '1:2: missing "expect": expected a mapping'),
        (EXPECT.format("{}"), "1:31: expect: expected at least one key, such as ok: 3"),
        ("[{given: [], expect: {ok: 0}}]", '1:2: missing "name": expected a string'),
        ("[{name: a, expect: {ok: 0}}]", '1:2: missing "given": expected a list or a mapping'),
        (EXPECT.format("{okay: 1}"), '1:32: unknown key "okay": '),
        (
            EXPECT.format("{calls: {inventry: 1}}"),
            '1:40: unknown service "inventry": did you mean "inventory"?',
        ),
        (EXPECT.format("{delivered: {file: 1}}"), '1:44: unknown sink "file"; the flow has no sink'),
        (EXPECT.format("{failed: [{stp: x}]}"), '1:42: unknown key "stp": did you mean "step"?'),
        (EXPECT.format("{failed: [{step: price}]}"), '1:48: unknown step "price": did you mean "pricing"?'),
        (
            EXPECT.format("{reason: done}"),
            '1:40: reason: unknown value "done": expected one of completed, draining, disconnected, aborted, failed',
        ),
        (RULE.format("{orderId: 3}"), "1:41: the rule has no action: expected one of returns, expression, raises"),
        (RULE.format("{returns: 1, raises: no}"), '1:62: "returns" and "raises" exclude each other: remove one'),
        (RULE.format("{hangs: false}"), "1:49: hangs: expected true, got false; remove the key"),
        (RULE.format("{raises: {}}"), "1:50: the error is empty: expected a message, a type or a status"),
        (
            RULE.format("{raises: {type: UnicodeDecodeError}}"),
            "1:57: type: UnicodeDecodeError cannot be made from a message",
        ),
        (RULE.format("{raises: {status: 503, retryable: true}}"), '1:75: "status" and "retryable" exclude each other'),
        (RULE.format("{raises: {message: a, retry_after: 1s}}"), "1:76: retry_after: only with status"),
        (RULE.format("{if: value., returns: 1}"), '1:46: invalid expression "value." (column 7): '),
        (RULE.format("{if: value.a + 1.5, returns: 1}"), "1:46: if: expected a Boolean expression such as "),
        (RULE.format("{expression: {a: value.}}"), '1:58: invalid expression "value." (column 7): '),
        (RULE.format("{from: 2s, to: 1s, hangs: true}"), '1:56: expected "to" to be later than "from"'),
        (RULE.format("{call: 0, hangs: true}"), "1:48: call: expected an integer >= 1, got 0"),
        (EVENT.format("{client: disconnects}"), '1:32: missing "at": when does client happen?'),
        (EVENT.format("{client: sleeps, at: 1s}"), '1:41: client: unknown value "sleeps": expected disconnects'),
        (EVENT.format("{drain: false, at: 1s}"), "1:40: drain: expected true, got false; remove the key"),
        (EVENT.format("{drain: true, at: 1s, to: 2s}"), "1:32: from and to: not allowed with drain; use at"),
        (EVENT.format("{store: down, at: 1s}"), "1:32: at: not allowed with store; use from and to"),
        (EVENT.format("{store: down, from: 1s, to: 1s}"), '1:32: expected "to" to be later than "from"'),
        (EVENT.format("{drain: true, abort: true, at: 1s}"), '1:46: "drain" and "abort" are two events: write them'),
    ],
)
def test_a_mistake_is_said_with_its_place(text: str, said: str) -> None:
    (mistake,) = mistakes(text)
    assert mistake.startswith(said)


def test_an_outlet_does_not_answer() -> None:
    assert mistakes("[{name: a, given: [], when: {audit: {returns: 1}}, expect: {ok: 0}}]", DELIVERED) == [
        "1:47: returns: not allowed for a sink: use raises, hangs or delay"
    ]


@pytest.mark.parametrize("flow", [ORDERS, DELIVERED])
def test_a_name_that_nothing_has_is_one_mistake(flow: Flow[Any]) -> None:
    (said,) = mistakes("[{name: a, given: [], when: {prcing: {returns: 1}}, expect: {ok: 0}}]", flow)
    assert said.startswith('1:30: unknown service "prcing": did you mean "pricing"?')


def test_a_step_of_a_flow_without_steps_is_unknown_because_it_has_none() -> None:
    text = "[{name: a, given: [], expect: {failed: [{step: price}]}}]"
    assert mistakes(text, Flow("f")) == ['1:48: unknown step "price"; the flow has no steps']


def test_an_outlet_without_a_name_goes_by_that_of_its_step() -> None:
    flow = ORDERS.to(Folder(""), Folder(""), name="files")
    text = "[{name: a, given: [], expect: {delivered: {files: 0, files.2: 0, files.3: 0}, failed: [{step: ''}]}}]"
    assert mistakes(text, flow) == [
        '1:66: unknown sink "files.3": did you mean "files.2"?',
        '1:95: unknown step "": expected one of source, decode, pricing, inventory, enrich, files, encode',
    ]


def test_samples_that_the_flow_does_not_have_cannot_come_in() -> None:
    assert mistakes("[{name: a, given: {generate: 1}, expect: {ok: 1}}]", orders_flow()) == [
        "1:19: generate: flow orders has no samples; list the values"
    ]


def test_two_tests_have_two_names() -> None:
    text = "[{name: a, given: [], expect: {ok: 0}}, {name: a, given: [], expect: {ok: 0}}]"
    assert mistakes(text) == ['1:48: a second test has the name "a"; rename it']


def test_all_mistakes_are_said_at_once() -> None:
    text = "[{name: a, given: [], when: {prcing: {hangs: true}, inventory: {x: 1}}, expect: {calls: {a: 1}}}]"
    assert [mistake.split(": ")[0] for mistake in mistakes(text)] == ["1:30", "1:64", "1:90"]


def test_a_flow_file_without_tests_has_none() -> None:
    assert cases("[]") == ()


def test_the_schema_says_what_every_word_is_for() -> None:
    schema = TESTS.schema()
    words = [schema["items"]["properties"], schema["items"]["properties"]["expect"]["properties"]]
    assert [name for group in words for name, piece in group.items() if not piece.get("description")] == []


def test_fields_of_values_stand_beside_the_words_of_a_rule() -> None:
    rule = TESTS.schema()["items"]["properties"]["when"]["additionalProperties"]["anyOf"][0]
    assert rule["additionalProperties"] is True
    assert {"returns", "raises", "call"} <= set(rule["properties"])


@given(text=st.text(max_size=60))
def test_whatever_stands_there_gives_mistakes_and_nothing_else(text: str) -> None:
    try:
        found = cases(
            msgspec.json.encode([{"name": text, "given": [text], "when": {text: text}, "expect": {text: 1}}]).decode()
        )
    except FlowFileError:
        return
    assert found == ()
