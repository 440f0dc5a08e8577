"""Shapes: all mistakes at once, each at its place; and the schema takes exactly what `read` takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from penstock.errors import FlowDefinitionError, FlowFileError
from penstock.flowfile import Diagnostics, SourceLocation, node_of, read_document
from penstock.flowfile.field_types import Duration, Percentage, Rate, Size
from penstock.flowfile.forms.choices import Either, OneKey, one_or_more
from penstock.flowfile.forms.containers import ListOf, MapOf
from penstock.flowfile.forms.form import MISSING, Lazy
from penstock.flowfile.forms.record import Located, Record, defaulted, optional, required
from penstock.flowfile.forms.scalars import AnyValue, Boolean, Integer, Number, Text

HERE = SourceLocation("here", 1, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch(Located):
    size: int = required(Integer(min=1, max=100))
    steps: Any = optional(Lazy("steps", lambda: STEPS))


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside(Located):
    name: str | None = optional(Text(pattern="[a-z]+"), "what the step is called")


STEP = OneKey(
    {
        "filter": Text(description="keeps the elements for which this holds"),
        "batch": Record(Batch, "size"),
        "each": Lazy("steps", lambda: STEPS),
    },
    beside=Beside,
    noun="step",
    separate="are two steps: write them as two list items",
)
STEPS = ListOf(STEP, min=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowRead(Located):
    name: str = required(Text(pattern="[a-z]+", noun="name", allowed="a to z"))
    steps: Any = required(Lazy("steps", lambda: STEPS), "what is done, in this order")
    overflow: str = defaulted(Text(choices=("backpressure", "fail")), "backpressure")
    timeout: float = defaulted(Duration(), "10s", "what one attempt may take")
    delay: float | None = optional(Duration(min=0))
    memory: int | None = optional(Size())
    limit: float | None = optional(Rate())
    ratio: float | None = optional(Number(min=0, max=1))
    ordered: bool | None = optional(Boolean())
    services: Any = optional(MapOf(Either(Text(), Integer()), keys=Text(pattern="[a-z]+")))
    extra: Any = optional(AnyValue())
    from_here: int | None = optional(Integer(), key="from")


FLOW = Record(FlowRead)


def read(shape, text):
    """The value and the mistakes of a YAML text."""
    mistakes = Diagnostics()
    return shape.read(read_document(text, "a.yaml"), mistakes), [str(mistake) for mistake in mistakes]


def accepts(shape, data):
    mistakes = Diagnostics()
    value = shape.read(node_of(data, HERE), mistakes)
    assert (value is MISSING) == bool(mistakes)
    return not mistakes


NAMES_READ = ("overflow", "timeout", "delay", "memory", "limit", "ratio", "ordered", "services", "extra")
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
    assert flow.name == "orders"
    assert {name: getattr(flow, name) for name in NAMES_READ} == {
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
    assert [step.kind for step in flow.steps] == ["filter", "each"]
    assert [step.beside.name for step in flow.steps] == ["positive", None]
    assert [step.value.size for step in flow.steps[1].value] == [10, 5]


def test_a_value_alone_is_read_as_the_mapping_that_it_stands_for():
    alone, complete = read(STEPS, "- batch: 10\n- batch: {size: 10}\n")[0]
    assert alone.value == complete.value == Batch(size=10)
    assert [alone.value.has("size"), complete.value.has("size")] == [False, True]


def test_a_key_may_have_another_name_than_its_attribute():
    assert read(FLOW, "name: a\nsteps: [filter: x]\nfrom: 3\n")[0].from_here == 3


def test_one_value_or_several_are_a_tuple():
    form = one_or_more(Integer(min=1))
    assert [read(form, text)[0] for text in ("3", "[3, 4]")] == [(3,), (3, 4)]
    assert [len(read(form, text)[1]) for text in ("0", "[0, 1]", "[]", "x")] == [1, 1, 1, 1]


def test_what_was_read_knows_where_it_stood():
    flow, _ = read(FLOW, FULL)
    positive = flow.steps[0]
    places = [flow.at("timeout"), positive.key, positive.at, positive.beside.at("name"), flow.steps[1].value[0].at]
    assert [(node.location.line, node.location.column) for node in places] == [
        (8, 10),
        (3, 5),
        (3, 13),
        (4, 11),
        (6, 16),
    ]


def test_what_was_left_out_has_its_default_and_the_place_of_the_whole():
    flow, _ = read(FLOW, "name: a\nsteps: [filter: x]\n")
    assert (flow.timeout, flow.ratio, flow.has("timeout"), flow.has("name")) == (10.0, None, False, True)
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
        '1:1: unknown key "nam": did you mean "name"?',
        '1:1: missing "name": expected a name of a to z',
        '3:5: unknown step "filtr": did you mean "filter"?',
        '5:5: "filter" and "batch" are two steps: write them as two list items',
        "6:12: batch: expected an integer from 1 to 100, got 0",
        "7:5: steps: expected a mapping with one of filter, batch, each, got a mapping",
        "8:13: filter: expected a string, got 5; put it in quotes",
        '9:5: unknown key "nme": did you mean "name"?',
        "10:11: each: expected a list of at least 1, got an empty list",
        "11:12: batch: expected an integer from 1 to 100 or a mapping, got a list of 1",
        '12:11: overflow: unknown value "fial": did you mean "fail"?',
        '13:10: timeout: expected a duration > 0 such as 250ms, 2s or 1h30m, got "5 seconds": did you mean "5s"?',
        "14:8: delay: expected a duration >= 0 such as 250ms, 2s or 1h30m, got -1",
        "15:9: memory: expected a size > 0 such as 16MiB, 64kB or 512B, got 1.5",
        '16:8: limit: expected a rate > 0 such as 10/s, 600/m or 5000/h, got "fast"',
        "17:8: ratio: expected a number from 0 to 1, got nan",
        '18:10: ordered: expected true or false, got "yes"',
        '19:12: Pricing: expected a string that matches [a-z]+, got "Pricing"',
        "19:21: Pricing: expected a string or an integer, got an empty list",
        "19:32: stock: expected a string or an integer, got nothing; give it a value or remove the key",
    ]


def test_the_error_holds_all_mistakes_a_line_each():
    mistakes = Diagnostics()
    FLOW.read(read_document(WRONG, "a.yaml"), mistakes)
    with pytest.raises(FlowFileError) as caught:
        mistakes.check()
    assert len(str(caught.value).splitlines()) == len(caught.value.diagnostics) == 20


@pytest.mark.parametrize(
    ("shape", "text"),
    [(Number(), "1" + "0" * 350), (Number(), ".inf"), (Duration(), "-.inf"), (Size(), ".inf"), (Rate(), ".nan")],
)
def test_numbers_are_finite(shape, text):
    assert len(read(shape, text)[1]) == 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds(Located):
    min: int = required(Integer())
    max: int = defaulted(Integer(), 10)

    def range(self):
        """The numbers between the bounds."""
        if self.min > self.max:
            raise ValueError("min is larger than max")
        return range(self.min, self.max)


def test_what_a_conversion_refuses_is_a_mistake_at_the_value():
    bounds = Record(Bounds).then(Bounds.range)
    assert read(bounds, "min: 3") == (range(3, 10), [])
    assert read(ListOf(bounds), "- min: 1\n- min: 11\n")[1] == ["a.yaml:2:3: min is larger than max"]


def test_a_conversion_is_not_asked_about_what_is_wrong_already():
    def make(value):
        raise AssertionError

    assert len(read(Record(Bounds).then(make), "min: x")[1]) == 1


def test_a_flow_error_of_a_conversion_is_a_mistake_too():
    def make(value):
        raise FlowDefinitionError("there is no such service")

    assert read(AnyValue().then(make), "{}")[1] == ["a.yaml:1:1: there is no such service"]


def test_a_default_has_to_be_right():
    with pytest.raises(ValueError, match="soon"):
        defaulted(Duration(), "soon")


def test_alternatives_have_to_differ_in_kind():
    with pytest.raises(ValueError, match="differ in kind"):
        Either(Text(), Duration()).schema()


def test_a_key_cannot_stand_beside_itself():
    with pytest.raises(ValueError, match="name"):
        OneKey({"name": Text()}, beside=Beside)


def test_an_amount_is_bounded_by_nothing_or_by_zero():
    with pytest.raises(ValueError, match="5"):
        Duration(min=5)


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
            "batch": or_else(st.integers(1, 100) | st.fixed_dictionaries({"size": st.integers(1, 100)})),
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
    Integer(min=1, max=100),
    Number(min=0.5),
    Number(max=2),
    Boolean(),
    AnyValue(),
    Duration(),
    Duration(min=0),
    Size(),
    Size(min=0),
    Rate(),
    Rate(min=0),
    Percentage(),
    ListOf(Integer(), min=1),
    MapOf(Text(), keys=Text(pattern="a")),
    Either(Text(), Integer()),
    one_or_more(Integer()),
    Boolean(only_true=True),
    Record(Batch, "size"),
]


@pytest.mark.parametrize("shape", LEAVES, ids=lambda shape: type(shape).__name__)
@given(data=ANY | st.floats(allow_nan=False, allow_infinity=False) | st.text("0123456789.dhms/kMGiB", max_size=6))
def test_the_schema_of_each_shape_takes_exactly_what_it_reads(shape, data):
    assert accepts(shape, data) == Draft202012Validator(shape.schema()).is_valid(data)


@pytest.mark.parametrize("shape", LEAVES, ids=lambda shape: type(shape).__name__)
def test_the_schema_and_read_agree_on_every_sample(shape):
    taken = [sample for sample in SAMPLES if accepts(shape, sample)]
    assert taken == [sample for sample in SAMPLES if Draft202012Validator(shape.schema()).is_valid(sample)]


@pytest.mark.parametrize("shape", LEAVES, ids=lambda shape: type(shape).__name__)
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
        assert lines[mistake.location.line - 1][mistake.location.column - 1 :].strip()
        assert lines[mistake.location.line - 1][mistake.location.column - 1] not in " ,:]}"
