"""Shapes: all mistakes at once, each at its place; and the schema takes exactly what `read` takes."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from penstock.errors import FlowDefinitionError, FlowFileError
from penstock.flowfile import (
    MISSING,
    AnyValue,
    Boolean,
    Diagnostics,
    Duration,
    Either,
    Field,
    Integer,
    Lazy,
    ListOf,
    MapOf,
    Number,
    OneKey,
    Rate,
    Record,
    Size,
    SourceLocation,
    Text,
    node_of,
    read_document,
)

HERE = SourceLocation("here", 1, 1)

STEP = OneKey(
    {
        "filter": Text(about="keeps the elements for which this holds"),
        "batch": Either(Integer(least=1, most=100), Record({"size": Field(Integer(least=1), required=True)})),
        "each": Lazy("steps", lambda: STEPS),
    },
    beside={"name": Field(Text(pattern="[a-z]+"), about="what the step is called")},
)
STEPS = ListOf(STEP, least=1)
FLOW = Record(
    {
        "name": Field(Text(pattern="[a-z]+"), required=True),
        "steps": Field(Lazy("steps", lambda: STEPS), required=True, about="what is done, in this order"),
        "overflow": Field(Text(choices=("backpressure", "fail")), default="backpressure"),
        "timeout": Field(Duration(), default="10s", about="what one attempt may take"),
        "delay": Field(Duration(least=0)),
        "memory": Field(Size()),
        "limit": Field(Rate()),
        "ratio": Field(Number(least=0, most=1)),
        "ordered": Field(Boolean()),
        "services": Field(MapOf(Either(Text(), Integer()), key_pattern="[a-z]+")),
        "extra": Field(AnyValue()),
    }
)


def read(shape, text):
    """The value and the mistakes of a YAML text."""
    mistakes = Diagnostics()
    return shape.read(read_document(text, "a.yaml"), mistakes), [str(mistake) for mistake in mistakes]


def accepts(shape, data):
    mistakes = Diagnostics()
    value = shape.read(node_of(data, HERE), mistakes)
    assert (value is MISSING) == bool(mistakes)
    return not mistakes


FULL = """\
name: orders
steps:
  - filter: amount > 0
    name: positive
  - each:
      - batch: 10
      - batch: {size: 5}
timeout: 2s
delay: 0
memory: 16MiB
limit: 600/m
ratio: 1
ordered: true
services: {pricing: "http://127.0.0.1", inventory: 3}
extra: [1, {a: null}]
"""


def test_what_is_right_is_read():
    flow, mistakes = read(FLOW, FULL)
    assert mistakes == []
    assert {name: flow[name] for name in flow if name != "steps"} == {
        "name": "orders",
        "overflow": "backpressure",
        "timeout": 2.0,
        "delay": 0.0,
        "memory": 16 * 1024 * 1024,
        "limit": 10.0,
        "ratio": 1.0,
        "ordered": True,
        "services": {"pricing": "http://127.0.0.1", "inventory": 3},
        "extra": [1, {"a": None}],
    }
    assert [step.kind for step in flow["steps"]] == ["filter", "each"]
    assert [step.beside["name"] for step in flow["steps"]] == ["positive", None]
    assert flow["steps"][1].value[1].value["size"] == 5


def test_what_was_read_knows_where_it_stood():
    flow, _ = read(FLOW, FULL)
    positive = flow["steps"][0]
    places = [flow.at("timeout"), positive.key, positive.at, positive.beside.at("name"), flow["steps"][1].value[0].at]
    assert [(node.place.line, node.place.column) for node in places] == [(8, 10), (3, 5), (3, 13), (4, 11), (6, 16)]


def test_what_was_left_out_has_its_default_and_the_place_of_the_whole():
    flow, _ = read(FLOW, "name: a\nsteps: [filter: x]\n")
    assert (flow["timeout"], flow["ratio"], "timeout" in flow, "name" in flow) == (10.0, None, False, True)
    assert flow.at("timeout") is flow.node


WRONG = """\
nam: orders
steps:
  - filtr: amount > 0
  - filter: x
    batch: 10
  - batch: 0
  - name: alone
  - filter: 5
    nme: x
  - each: []
  - batch: [1]
overflow: fial
timeout: 5 seconds
delay: -1
memory: 1.5
limit: fast
ratio: .nan
ordered: yes
services: {Pricing: [], stock: null}
"""


def test_all_mistakes_are_told_at_once_each_at_its_place():
    flow, mistakes = read(FLOW, WRONG)
    assert flow is MISSING
    assert [line.removeprefix("a.yaml:") for line in mistakes] == [
        '1:1: found "nam", allowed are name, steps, overflow, timeout, delay, memory, limit, ratio, ordered, services, '
        'extra; did you mean "name"?',
        '1:1: "name" is missing, wanted is a text like [a-z]+',
        '3:5: found "filtr", allowed are filter, batch, each, name; did you mean "filter"?',
        '5:5: "batch" stands beside "filter", wanted is only one of them; leave one out',
        "6:12: found 0, wanted is a whole number from 1 to 100",
        "7:5: found a mapping, wanted is a mapping with one of filter, batch, each",
        "8:13: found 5, wanted is a text; put it into quotes",
        '9:5: found "nme", allowed are filter, batch, each, name; did you mean "name"?',
        "10:11: found an empty list, wanted is a list of at least 1",
        "11:12: found a list of 1, wanted is a whole number from 1 to 100 or a mapping",
        '12:11: found "fial", allowed are backpressure, fail; did you mean "fail"?',
        '13:10: found "5 seconds", wanted is a duration such as 250ms, 2s or 1h30m of more than 0; did you mean "5s"?',
        "14:8: found -1, wanted is a duration such as 250ms, 2s or 1h30m",
        "15:9: found 1.5, wanted is a size such as 16MiB, 64kB or 512B of more than 0",
        '16:8: found "fast", wanted is a rate such as 10/s, 600/m or 5000/h of more than 0',
        "17:8: found nan, wanted is a number from 0 to 1",
        '18:10: found "yes", wanted is true or false',
        '19:12: found the name "Pricing", wanted is a name like [a-z]+',
        "19:21: found an empty list, wanted is a text or a whole number",
        "19:32: found nothing, wanted is a text or a whole number; give it a value, or leave it out",
    ]


def test_the_error_holds_all_mistakes_a_line_each():
    mistakes = Diagnostics()
    FLOW.read(read_document(WRONG, "a.yaml"), mistakes)
    with pytest.raises(FlowFileError) as caught:
        mistakes.check()
    assert len(str(caught.value).splitlines()) == len(caught.value.mistakes) == 20


@pytest.mark.parametrize(
    ("shape", "text"),
    [(Number(), "1" + "0" * 350), (Number(), ".inf"), (Duration(), "-.inf"), (Size(), ".inf"), (Rate(), ".nan")],
)
def test_numbers_are_finite(shape, text):
    assert len(read(shape, text)[1]) == 1


def test_what_make_refuses_is_a_mistake_of_the_record():
    def make(read):
        if read["least"] > read["most"]:
            raise ValueError("least is larger than most")
        return range(read["least"], read["most"])

    bounds = Record({"least": Field(Integer(), required=True), "most": Field(Integer(), default=10)}, make)
    assert read(bounds, "least: 3") == (range(3, 10), [])
    assert read(ListOf(bounds), "- least: 1\n- least: 11\n")[1] == ["a.yaml:2:3: least is larger than most"]


def test_make_is_not_asked_about_what_is_wrong_already():
    def make(read):
        raise AssertionError

    assert len(read(Record({"a": Field(Integer())}, make), "a: x")[1]) == 1


def test_a_flow_error_of_make_is_a_mistake_too():
    def make(read):
        raise FlowDefinitionError("there is no such service")

    assert read(Record({}, make), "{}")[1] == ["a.yaml:1:1: there is no such service"]


def test_a_default_has_to_be_right():
    with pytest.raises(ValueError, match="soon"):
        Field(Duration(), default="soon")


def test_alternatives_have_to_differ_in_kind():
    with pytest.raises(ValueError, match="differ in kind"):
        Either(Text(), Duration()).schema()


def test_a_key_cannot_stand_beside_itself():
    with pytest.raises(ValueError, match="name"):
        OneKey({"name": Text()}, beside={"name": Field(Text())})


def test_an_amount_is_bounded_by_nothing_or_by_zero():
    with pytest.raises(ValueError, match="5"):
        Duration(least=5)


def test_the_schema_is_one():
    Draft202012Validator.check_schema(FLOW.schema())


def test_the_schema_says_what_things_are_for():
    schema = FLOW.schema()
    timeout, steps = schema["properties"]["timeout"], schema["properties"]["steps"]
    step = schema["$defs"]["steps"]["items"]["properties"]
    assert (timeout["description"], timeout["default"]) == ("what one attempt may take", "10s")
    assert steps == {"$ref": "#/$defs/steps", "description": "what is done, in this order"}
    assert step["filter"]["description"] == "keeps the elements for which this holds"
    assert step["each"] == {"$ref": "#/$defs/steps"}


SAMPLES = [
    *[None, True, False, 0, 1, 2, 100, 101, -1, 0.0, 0.5, 1.0, 2.5],
    *["", "a", "abc", "A", "a\n", "fail", "backpressure"],
    *["2s", "0s", "0.0s", "1h30m", "1m1h", "250ms", "2s\n", "٣s", "0h0.1ms", "0h0ms"],
    *["0B", "16MiB", "16mib", "1.5MiB", "10/s", "0/s", "1/d"],
]
SCALARS = st.sampled_from(SAMPLES)
NAMES = st.sampled_from(["a", "size", "filter", "B"])
ANY = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=2),
    max_leaves=4,
)


def steps(or_else):
    """Lists of steps that are right, as far as `or_else` leaves them so."""

    def step(inner):
        kinds = {
            "filter": or_else(st.just("x")),
            "batch": or_else(st.integers(1, 100) | st.fixed_dictionaries({"size": st.integers(1, 200)})),
            "each": or_else(inner),
        }
        names = {"name": or_else(st.just("abc"))}
        return st.one_of(
            *(st.fixed_dictionaries({kind: value}, optional=names) for kind, value in kinds.items()),
            *([st.fixed_dictionaries({}, optional=kinds | {"nmae": ANY})] if or_else is often else []),
        )

    first = st.just([{"filter": "x"}])
    return st.recursive(first, lambda inner: st.lists(or_else(step(inner)), min_size=1, max_size=3), max_leaves=4)


def flows(or_else):
    """Flows that are right, as far as `or_else` leaves them so."""
    return st.fixed_dictionaries(
        {"name": or_else(st.just("abc")), "steps": or_else(steps(or_else))},
        optional={
            "overflow": or_else(st.sampled_from(["fail", "backpressure"])),
            "timeout": or_else(st.sampled_from(["2s", "1h30m", 0.5, 1])),
            "delay": or_else(st.sampled_from(["0s", 0, 0.0, "0.0s"])),
            "memory": or_else(st.sampled_from(["16MiB", 2, 2.0])),
            "limit": or_else(st.sampled_from(["10/s", "0.1/h", 2.5])),
            "ratio": or_else(st.floats(0, 1)),
            "ordered": or_else(st.booleans()),
            "services": or_else(st.dictionaries(st.sampled_from(["a", "bc"]), st.just("x") | st.integers())),
            "extra": ANY,
        },
    )


def often(good):
    """Mostly what is right, now and then anything."""
    return st.integers(0, 9).flatmap(lambda choice: good if choice else ANY)


RIGHT = flows(lambda good: good)
FLOW_DATA = flows(often)


@given(RIGHT)
def test_what_is_right_has_no_mistakes(data):
    assert accepts(FLOW, data)


@settings(max_examples=400)
@given(FLOW_DATA | RIGHT | ANY)
@example({"name": "abc\n", "steps": [{"filter": "x"}]})
@example({"name": "abc", "steps": [{"filter": "x"}], "memory": 2.0})
@example({"name": "abc", "steps": []})
@example({"name": "abc", "steps": [{"filter": "x"}], "limt": 1})
@example({"name": "abc", "steps": [{"filter": "x", "nmae": "x"}]})
@example({"name": "abc", "steps": [{"filter": "x", "batch": 1}]})
@example({"name": "abc", "steps": [{"name": "abc"}]})
def test_the_schema_takes_exactly_what_read_takes(data):
    assert accepts(FLOW, data) == Draft202012Validator(FLOW.schema()).is_valid(data)


LEAVES = [
    Text(),
    Text(pattern="a|b"),
    Text(choices=("a", "fail")),
    Integer(),
    Integer(least=1, most=100),
    Number(least=0.5),
    Number(most=2),
    Boolean(),
    AnyValue(),
    Duration(),
    Duration(least=0),
    Size(),
    Size(least=0),
    Rate(),
    Rate(least=0),
    ListOf(Integer(), least=1),
    MapOf(Text(), key_pattern="a"),
    Either(Text(), Integer()),
]


@pytest.mark.parametrize("shape", LEAVES, ids=repr)
@given(data=ANY | st.floats(allow_nan=False, allow_infinity=False) | st.text("0123456789.dhms/kMGiB", max_size=6))
def test_the_schema_of_each_shape_takes_exactly_what_it_reads(shape, data):
    assert accepts(shape, data) == Draft202012Validator(shape.schema()).is_valid(data)


@pytest.mark.parametrize("shape", LEAVES, ids=repr)
def test_the_schema_and_read_agree_on_every_sample(shape):
    taken = [sample for sample in SAMPLES if accepts(shape, sample)]
    assert taken == [sample for sample in SAMPLES if Draft202012Validator(shape.schema()).is_valid(sample)]


@pytest.mark.parametrize("shape", LEAVES, ids=repr)
def test_no_shape_takes_everything_or_nothing(shape):
    """Else the comparison with the schema would compare nothing."""
    samples = [None, True, 1, 0.75, 1.0, "a", "2s", "1B", "1/s", [], [1], {"a": "x"}]
    taken = [accepts(shape, sample) for sample in samples]
    assert any(taken)
    assert not all(taken) or isinstance(shape, AnyValue)


@given(FLOW_DATA)
def test_every_mistake_has_its_place_in_the_document(data):
    """The same data written as JSON, an item a line: no mistake points outside of the text."""
    import json

    text = json.dumps(data, indent=1)
    lines = text.split("\n")
    mistakes = Diagnostics()
    FLOW.read(read_document(text, "a.json"), mistakes)
    for mistake in mistakes:
        assert lines[mistake.place.line - 1][mistake.place.column - 1 :].strip()
        assert lines[mistake.place.line - 1][mistake.place.column - 1] not in " ,:]}"
