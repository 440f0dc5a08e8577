"""Expressions: what CEL would cut off or reorder comes through as it is, or fails its element."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock import Expression
from penstock.errors import ExpressionFailed, InvalidExpression
from penstock.expressions import Fields
from penstock.expressions.cost import SLICE
from penstock.expressions.program import Program, cel, environment

ORDER = {"zz": 1, "b": {"y": 1, "a": 2}, "a": 3, "m": [{"q": 1, "c": 2}], "k": 4}

NAMES = st.sampled_from(["a", "b", "c"])
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=10,
)


def outcome(call: Any, *args: Any) -> Any:
    """What a call gives; the message of its failure."""
    try:
        return repr(call(*args))
    except ExpressionFailed as error:
        return str(error)


def of_cel(text: str, value: Any) -> Any:
    """What CEL itself says of a path."""
    result = environment("value").compile(text).eval(data={"value": value})
    plain = result.plain_value()
    if result.type() == cel().Type.ERROR:
        raise ExpressionFailed("", plain)
    return plain


# A character NUL


@pytest.mark.parametrize("text", ["value.s", "value['s']", " value . s ", "value.o.s", "value.o['s']"])
def test_a_path_passes_a_nul(text: str) -> None:
    assert Expression(text)({"s": "pass\0word", "o": {"s": "pass\0word"}}) == "pass\0word"


def test_objects_and_bodies_keep_a_nul_in_names_and_values() -> None:
    value = {"o": {"k\0a": 1, "k\0b": ["x\0y"]}}
    assert Expression("value.o")(value) == value["o"]
    assert Fields({"sent": Expression("value.o")})(value) == {"sent": value["o"]}


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("value.mail.endsWith('@corp.example')", r"value\.mail contains the character NUL"),
        ("value.names.size() == 2", r"the name of a field of value\.names contains"),
        ("value.list.exists(x, x == 'a')", r"value\.list\[1\] contains"),
        ("value == {}", "contains the character NUL"),
    ],
)
def test_any_other_expression_fails_with_a_nul(text: str, where: str) -> None:
    value = {"mail": "a@corp.example\0@evil.example", "names": {"k\0a": 1, "k\0b": 2}, "list": ["a", "a\0"]}
    with pytest.raises(ExpressionFailed, match=where):
        Expression(text)(value)


def test_a_nul_in_a_field_that_is_not_read_is_none_of_an_expressions_business() -> None:
    assert Expression("value.a + 1")({"a": 1, "s": "x\0y", "x\0y": 2, "n": 2**70}) == 2


def test_a_nul_in_a_text_of_the_expression_is_kept() -> None:
    assert Expression(r"value.a + '\u0000b'")({"a": "a"}) == "a\0b"


@pytest.mark.parametrize("text", ["value.a\0", "value.a\0 + 1", "\0"])
def test_a_nul_in_an_expression_is_refused(text: str) -> None:
    with pytest.raises(InvalidExpression, match="contains the character NUL"):
        Expression(text)


# Integers


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 10**400])
def test_a_path_passes_an_integer_of_any_size_and_other_expressions_fail(number: int) -> None:
    assert Expression("value.n")({"n": number}) == number
    with pytest.raises(ExpressionFailed, match=r"value\.n is an integer of more than 64 bits"):
        Expression("value.n > 1")({"n": number})


# Paths

NOT_FINITE = {"nan": "nan", "inf": float("inf")}
"""What the names in the texts of values stand for. A text for NaN, which equals nothing."""


@given(value=VALUES, path=st.lists(NAMES, max_size=3))
def test_a_path_gives_what_cel_gives(value: Any, path: list[str]) -> None:
    text = ".".join(["value", *path])
    expected = outcome(of_cel, text, value)
    found = outcome(Expression(text), value)
    if "Key not found" in expected or "non-message" in expected:
        said = expected.removeprefix(": ").partition(": ")[2]
        assert found.startswith(f"{text}: {said}")
    else:
        assert eval(found, NOT_FINITE) == eval(expected, NOT_FINITE)


@given(value=VALUES, path=st.lists(NAMES, max_size=3))
def test_the_failure_of_a_path_says_what_to_do_as_of_any_expression(value: Any, path: list[str]) -> None:
    text = ".".join(["value", *path])
    in_cel = outcome(Expression(f"[{text}][0]"), value)
    if "Key not found" in in_cel or "non-message" in in_cel:
        assert outcome(Expression(text), value) == in_cel.replace(f"[{text}][0]", text, 1)


@pytest.mark.parametrize("text", ["value.in", "value.true", "value.null", "values.a", "value.", "value..a", "value.1"])
def test_what_looks_like_a_path_and_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidExpression):
        Expression(text)


def test_a_path_gives_a_copy() -> None:
    value: Any = {"o": {"l": [1]}}
    Expression("value.o")(value)["l"].append(2)
    assert value == {"o": {"l": [1]}}


def test_a_path_is_of_the_type_that_cel_says() -> None:
    assert [Expression(text).result_type for text in ("value", "value.a", "value['a']")] == ["DYN"] * 3
    assert Program("value.a", "value").kind == "DYN"


def test_cel_is_imported_with_the_first_expression_that_is_no_path() -> None:
    code = (
        "import sys; from penstock import Expression; Expression('value.a.b')({'a': {'b': 1}});"
        "assert not any('cel_expr' in name for name in sys.modules), 1;"
        "Expression('value.a > 1'); assert any('cel_expr' in name for name in sys.modules), 2"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# The order of fields

ORDERED = [
    ("value", ORDER),
    ("[value]", [ORDER]),
    ("value.zz == 1 ? value.b : value", ORDER["b"]),
    ("{'b': 1, 'a': value.b, 'c': [{'z': 1, 'k': 2}]}", {"b": 1, "a": ORDER["b"], "c": [{"z": 1, "k": 2}]}),
    ("value.m.filter(l, l.q > 0)", ORDER["m"]),
    ("value.m.map(l, {'sku': l.c, 'n': l.q})", [{"sku": 2, "n": 1}]),
    ("value.m.map(l, {'q': l.q, ?'d': value.?nothing, 'c': 0})", [{"q": 1, "c": 0}]),
    ("value.map(k, k)", list(ORDER)),
    ("value.b.map(k, value.b[k])", [1, 2]),
    ("value.filter(k, k != 'b')", ["zz", "a", "m", "k"]),
    ("value.?b.orValue({}).map(k, k)", ["y", "a"]),
    ("{'c': 1, 'b': 2, 'a': 3}.map(k, k)", ["c", "b", "a"]),
    ("value.m.map(l, value.b.map(k, k))", [["y", "a"]]),
    ("has(value.none) ? value.none.map(k, k) : value.b.map(k, k)", ["y", "a"]),
    ("{string(value.zz): 1, string(value.k): 2, string(value.a): 3}", {"1": 1, "3": 3, "4": 2}),
    ("[value.m, value.m.map(l, {'q': 3, 'c': 4})]", [ORDER["m"], [{"q": 3, "c": 4}]]),
]


def shown(value: Any) -> str:
    """With the order of fields, which `==` does not look at."""
    return repr(value)


@pytest.mark.parametrize(("text", "expected"), ORDERED)
def test_fields_are_in_the_order_of_the_input_or_of_the_expression(text: str, expected: Any) -> None:
    assert shown(Expression(text)(ORDER)) == shown(expected)


def test_the_order_is_the_same_in_every_process() -> None:
    """The hash tables of CEL have a seed that differs between processes, by where the system loads them."""
    code = f"from penstock import Expression\nfor text, _ in {ORDERED!r}: print(Expression(text)({ORDER!r}))"
    expected = "".join(f"{value}\n" for _, value in ORDERED)
    for seed in range(4):
        made = subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": str(seed)}, capture_output=True, text=True, check=True
        )
        assert made.stdout == expected


def test_equal_fields_in_several_orders_are_each_in_their_own() -> None:
    value = {"l": [{"a": 1, "b": 2}, {"b": 3, "a": 4}, {"a": 5, "b": float("nan")}]}
    assert shown(Expression("value.l.filter(x, x.a > 1)")(value)) == "[{'b': 3, 'a': 4}, {'a': 5, 'b': nan}]"


def test_a_loop_within_a_loop_through_an_object_fails() -> None:
    text = "value.l.map(x, x.map(k, k))"
    assert Expression(text)({"l": [["a", "b"], ["c"]]}) == [["a", "b"], ["c"]]
    with pytest.raises(ExpressionFailed, match="iterates over the fields of an object"):
        Expression(text)({"l": [{"b": 1, "a": 2}]})


@given(VALUES)
def test_a_result_has_the_order_of_its_input(value: Any) -> None:
    """Of each object, whatever other objects there are."""
    objects = [inner for inner in (value if isinstance(value, list) else [value]) if isinstance(inner, dict)]
    for inner in objects:
        assert list(Expression("[value][0]")(inner)) == list(inner)


# Long lists


@given(st.lists(st.integers(-5, 5), max_size=4 * SLICE), st.integers(0, 3))
def test_a_list_that_is_worked_on_in_slices_gives_what_it_gives_as_a_whole(numbers: list[int], add: int) -> None:
    value = {"l": numbers, "add": add}
    assert Expression("value.l.map(x, x + value.add)")(value) == [number + add for number in numbers]
    assert Expression("value.l.filter(x, x in value.l && x > value.add)")(value) == [x for x in numbers if x > add]
    assert Expression("value.l.map(value, value > 0, {'n': value})")(value) == [{"n": x} for x in numbers if x > 0]


def test_a_failure_in_a_slice_is_that_of_the_element() -> None:
    value = {"l": [1] * 3 * SLICE + [0]}
    with pytest.raises(ExpressionFailed, match="divide by zero"):
        Expression("value.l.map(x, 1 / x)")(value)


def test_too_many_iterations_are_a_clear_failure() -> None:
    with pytest.raises(ExpressionFailed, match="more than 10,000 iterations"):
        Expression("value.l.all(x, value.l.all(y, true))")({"l": [1] * 200})


@pytest.mark.parametrize("text", ["value.n * value.t", "value.t + value.i", "value.t < value.i", "-value.t"])
def test_values_of_different_types_have_the_advice_to_convert(text: str) -> None:
    with pytest.raises(ExpressionFailed, match=r"\); convert with double\(…\), int\(…\) or string\(…\)$"):
        Expression(text)({"n": 1.5, "i": 2, "t": "x"})
    with pytest.raises(ExpressionFailed, match=r"_\+_\(null_type, int64\)$"):
        Expression("value.o + 1")({"o": None})


@pytest.mark.parametrize("text", ["value.order.quantitty", "1 < value.order.quantitty"])
def test_a_mistyped_field_has_the_advice_to_write_the_similar_one(text: str) -> None:
    """Of the object in which it was searched, unless that has very many or very long keys."""
    advice = "Or handle a field that may be missing: has"
    with pytest.raises(ExpressionFailed, match=rf"; did you mean quantity\? {advice}\(value\.order\.quantitty\)"):
        Expression(text)({"quantitie": 1, "order": {"quantity": 2}})
    for order in ({"other": 1}, {"quantitty" * 50: 1}, {f"quantity{number}": 1 for number in range(100)}):
        with pytest.raises(ExpressionFailed, match="; handle a field that may be missing"):
            Expression(text)({"order": order})


def test_a_missing_key_of_any_length_and_kind_is_said() -> None:
    with pytest.raises(ExpressionFailed, match="Key not found"):
        Expression("{'a': 1}[value.k]")({"k": ".*(" * 100_000})
    with pytest.raises(ExpressionFailed, match=r"has\(value\.order\.price\)"):
        Expression("value.priced > 1 || value.order.price > 2")({"priced": 0, "order": {}})
