"""Patterns of items are matched in linear time, as a part of reading the item."""

from __future__ import annotations

import json
from time import thread_time
from typing import Annotated, Any, TypedDict

import msgspec
import pytest

from laws.virtual import results
from penstock import from_iterable
from penstock.errors import FlowFileError
from penstock.flowfile import loads
from penstock.flowfile.item_types import item_type
from penstock.steps.patterns import check_patterns

EMAIL = "^([a-z0-9]+[._-]?)+@x$"

RULES: dict[str, Any] = {
    "email": {"type": "string?", "pattern": EMAIL},
    "tags": {"type": "array?", "items": {"type": "string", "pattern": "^[a-z]+$", "min_length": 2}},
    "to": {"type": "object?", "fields": {"code": {"type": "string?", "pattern": r"^\d+$"}}},
    "lines": {"type": "array?", "items": {"type": "object", "fields": {"sku": {"type": "string", "pattern": "-"}}}},
}

FLOW = f"flow: f\nitem: {json.dumps(RULES)}"


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"email": "a.b@x"}, None),
        ({}, None),
        ({"email": "a" * 28 + "!"}, f"Expected `str` matching regex {EMAIL!r} - at `$.email`"),
        ({"email": "a@x\n"}, f"Expected `str` matching regex {EMAIL!r} - at `$.email`"),
        ({"tags": ["ab", "Ab"]}, "Expected `str` matching regex '^[a-z]+$' - at `$.tags[1]`"),
        ({"tags": ["a"]}, "Expected `str` of length >= 2 - at `$.tags[0]`"),
        ({"to": {"code": "x"}}, r"Expected `str` matching regex '^\\d+$' - at `$.to.code`"),
        ({"lines": [{"sku": "a-b"}, {"sku": "ab"}]}, "Expected `str` matching regex '-' - at `$.lines[1].sku`"),
        ({"email": 1}, "Expected `str`, got `int` - at `$.email`"),
    ],
)
def test_a_text_has_to_match_its_pattern(value: Any, says: str | None) -> None:
    """The words are those of msgspec for any other rule, whether an item comes alone or among good ones."""
    flow = loads(FLOW, "f.yaml").flow
    for lines in ([value], [{}, value, {}]):
        upload = from_iterable([json.dumps(line).encode() for line in lines])
        failures = [result.failure for result in results(flow, upload) if not result.ok]
        assert [failure.message for failure in failures] == ([says] if says else [])
        assert {(failure.step, failure.type) for failure in failures} <= {("decode", "InvalidItem")}


def test_no_text_takes_long() -> None:
    """Python's `re` takes minutes for 28 characters of this pattern, and for each further one twice the time."""
    check = check_patterns(item_type(RULES))
    assert check is not None
    start = thread_time()
    assert check({"email": "a" * 300_000 + "!"}) is not None
    assert thread_time() - start < 0.5


def test_a_pattern_of_many_states_limits_the_length() -> None:
    check = check_patterns(item_type({"s": {"type": "string", "pattern": "(a?){300}(a?){300}(a?){300}b"}}))
    assert check is not None
    start = thread_time()
    found = check({"s": "a" * 1_000_000})
    assert found is not None
    assert found.expected.startswith("`str` of at most ")
    check({"s": "a" * int(found.expected.split()[4])})
    assert thread_time() - start < 1


@pytest.mark.parametrize("pattern", ["(", "(?=a)", r"(a)\\1", "a{2000}", "a*+", r"\\Z"])
def test_a_pattern_that_re2_does_not_know_is_refused_at_its_place(pattern: str) -> None:
    with pytest.raises(FlowFileError, match=r"2:11: pattern: not a regular expression of RE2: .+lookaround"):
        loads(f'flow: f\nitem: {{n: {{type: string, pattern: "{pattern}"}}}}', "f.yaml")


def test_the_schema_of_an_item_has_the_pattern_as_it_is_written() -> None:
    schema = msgspec.json.schema(item_type({"email": {"type": "string", "pattern": EMAIL, "max_length": 9}}))
    (item,) = schema["$defs"].values()
    assert item["properties"]["email"] == {"type": "string", "maxLength": 9, "pattern": EMAIL}


def test_types_without_patterns_of_flow_files_are_not_looked_through() -> None:
    """Those that were written in Python are left to msgspec."""
    own = TypedDict("own", {"s": Annotated[str, msgspec.Meta(pattern="^a")]})  # noqa: UP013
    assert check_patterns(own) is None
    assert check_patterns(item_type({"s": "string", "n": {"type": "integer", "minimum": 1}})) is None
