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
from penstock.flowtests import CASES
from penstock.orders import orders_flow

RULE = "[{{name: a, given: [], when: {{inventory: {}}}, expect: {{ok: 0}}}}]"
EVENT = "[{{name: a, given: [], events: [{}], expect: {{ok: 0}}}}]"
EXPECT = "[{{name: a, given: [], expect: {}}}]"


def mistakes(text: str, flow: Flow[Any] = ORDERS) -> list[str]:
    """What is wrong with tests, without the name of their file."""
    with pytest.raises(FlowFileError) as caught:
        cases(text, flow)
    return [str(mistake).removeprefix("orders.yaml:") for mistake in caught.value.mistakes]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[{name: a, given: []}]", '1:2: "expect" is missing, wanted is a mapping'),
        (EXPECT.format("{}"), "1:31: nothing is expected, wanted is at least one expectation; such as ok: 3"),
        ("[{given: [], expect: {ok: 0}}]", '1:2: "name" is missing, wanted is a text'),
        ("[{name: a, expect: {ok: 0}}]", '1:2: "given" is missing, wanted is a list or a mapping'),
        (EXPECT.format("{okay: 1}"), '1:32: found "okay", allowed are '),
        (
            EXPECT.format("{calls: {inventry: 1}}"),
            '1:40: found "inventry", allowed are inventory, pricing; did you mean "inventory"?',
        ),
        (EXPECT.format("{delivered: {file: 1}}"), '1:44: found "file", but the flow has no outlet'),
        (EXPECT.format("{failed: [{stp: x}]}"), '1:42: found "stp", allowed are key, seq, part, step, '),
        (EXPECT.format("{failed: [{step: price}]}"), '1:48: found "price", allowed are source, decode, pricing, '),
        (
            EXPECT.format("{reason: done}"),
            '1:40: found "done", allowed are completed, draining, disconnected, aborted, failed',
        ),
        (RULE.format("{orderId: 3}"), "1:41: the rule does not say what happens, wanted is one of returns, expression"),
        (RULE.format("{returns: 1, raises: no}"), '1:62: "raises" stands beside "returns", wanted is only one of them'),
        (RULE.format("{hangs: false}"), "1:49: found false, wanted is true, or the word left out"),
        (RULE.format("{raises: {}}"), "1:50: the error says nothing, wanted is a message, a type or a status"),
        (
            RULE.format("{raises: {type: UnicodeDecodeError}}"),
            "1:57: an error UnicodeDecodeError is not made of a message",
        ),
        (RULE.format("{raises: {status: 503, retryable: true}}"), '1:75: "retryable" stands beside "status"'),
        (RULE.format("{raises: {message: a, retry_after: 1s}}"), '1:76: found "retry_after" without a status'),
        (RULE.format("{if: value., returns: 1}"), "1:46: found the expression 'value.': "),
        (RULE.format("{if: value.a + 1.5, returns: 1}"), "1:46: found an expression that gives DOUBLE, wanted is "),
        (RULE.format("{expression: {a: value.}}"), "1:58: found the expression 'value.': "),
        (RULE.format("{from: 2s, to: 1s, hangs: true}"), '1:56: found a "to" that is not after "from"'),
        (RULE.format("{call: 0, hangs: true}"), "1:48: found 0, wanted is a whole number of at least 1"),
        (EVENT.format("{client: disconnects}"), '1:33: "client" does not say when, wanted is "at" beside it'),
        (EVENT.format("{client: sleeps, at: 1s}"), '1:41: found "sleeps", allowed is disconnects'),
        (EVENT.format("{drain: false, at: 1s}"), "1:40: found false, wanted is true, or the event left out"),
        (EVENT.format("{drain: true, at: 1s, to: 2s}"), '1:58: found "to" beside "drain", allowed is at'),
        (EVENT.format("{store: down, at: 1s}"), '1:50: found "at" beside "store", allowed are from, to'),
        (EVENT.format("{store: down, from: 1s, to: 1s}"), '1:60: found a "to" that is not after "from"'),
        (EVENT.format("{drain: true, abort: true, at: 1s}"), '1:46: "abort" stands beside "drain"'),
    ],
)
def test_a_mistake_is_said_with_its_place(text: str, said: str) -> None:
    (mistake,) = mistakes(text)
    assert mistake.startswith(said)


def test_an_outlet_does_not_answer() -> None:
    assert mistakes("[{name: a, given: [], when: {audit: {returns: 1}}, expect: {ok: 0}}]", DELIVERED) == [
        '1:47: an outlet has no use for "returns", allowed are raises, hangs, delay'
    ]


@pytest.mark.parametrize("flow", [ORDERS, DELIVERED])
def test_a_name_that_nothing_has_is_one_mistake(flow: Flow[Any]) -> None:
    (said,) = mistakes("[{name: a, given: [], when: {prcing: {returns: 1}}, expect: {ok: 0}}]", flow)
    assert said.startswith('1:30: found "prcing", allowed are ')


def test_an_outlet_without_a_name_goes_by_that_of_its_step() -> None:
    flow = ORDERS.to(Folder(""), Folder(""), name="files")
    text = "[{name: a, given: [], expect: {delivered: {files: 0, files.2: 0, files.3: 0}, failed: [{step: ''}]}}]"
    assert mistakes(text, flow) == [
        '1:66: found "files.3", allowed are files, files.2; did you mean "files.2"?',
        '1:95: found "", allowed are source, decode, pricing, inventory, enrich, files, encode',
    ]


def test_samples_that_the_flow_does_not_have_cannot_come_in() -> None:
    assert mistakes("[{name: a, given: {generate: 1}, expect: {ok: 1}}]", orders_flow()) == [
        "1:19: the flow orders has no samples, wanted is a list of values"
    ]


def test_two_tests_have_two_names() -> None:
    text = "[{name: a, given: [], expect: {ok: 0}}, {name: a, given: [], expect: {ok: 0}}]"
    assert mistakes(text) == ['1:48: found a second test "a", wanted is a name of its own']


def test_all_mistakes_are_said_at_once() -> None:
    text = "[{name: a, given: [], when: {prcing: {hangs: true}, inventory: {x: 1}}, expect: {calls: {a: 1}}}]"
    assert [mistake.split(": ")[0] for mistake in mistakes(text)] == ["1:30", "1:64", "1:90"]


def test_a_flow_file_without_tests_has_none() -> None:
    assert cases("[]") == ()


def test_the_schema_says_what_every_word_is_for() -> None:
    schema = CASES.schema()
    words = [schema["items"]["properties"], schema["items"]["properties"]["expect"]["properties"]]
    assert [name for group in words for name, piece in group.items() if not piece.get("description")] == []


def test_fields_of_values_stand_beside_the_words_of_a_rule() -> None:
    rule = CASES.schema()["items"]["properties"]["when"]["additionalProperties"]["anyOf"][0]
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
