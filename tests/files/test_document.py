"""Documents: three formats, the same nodes, and every mistake at its place."""

from __future__ import annotations

import json
import time

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import FlowDefinitionError, FlowFileError
from penstock.flowfile import Diagnostic, Diagnostics, SourceLocation, node_of, read_document

HERE = SourceLocation("here", 1, 1)
TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8)


def data(texts):
    """Whatever JSON holds, with these texts."""
    scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts
    return st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3))


DATA = data(TEXTS)


def mistakes(text, file):
    """The mistakes of a text as (line, column, said)."""
    with pytest.raises(FlowFileError) as caught:
        read_document(text, file)
    return [(found.location.line, found.location.column, str(found)) for found in caught.value.diagnostics]


def placed(node):
    """Every node below this one, keys included."""
    yield node
    for part in node.value if isinstance(node.value, tuple) else ():
        for inner in part if isinstance(part, tuple) else (part,):
            yield from placed(inner)


def rest(text, place):
    return text.split("\n")[place.line - 1][place.column - 1 :]


@given(DATA)
def test_json_reads_as_the_standard_library_reads_it(data):
    assert read_document(json.dumps(data, indent=2), "a.json").plain() == data


@given(DATA)
def test_json_is_yaml_too(data):
    text = json.dumps(data, ensure_ascii=False)
    assert read_document(text, "a.yaml").plain() == data


@given(data(st.text("abcdefn: #-'y\n", max_size=12)))
def test_yaml_in_blocks_reads_as_it_was_written(data):
    assert read_document(yaml.safe_dump(data), "a.yaml").plain() == data


@pytest.mark.parametrize("word", ["on", "no", "NO", "yes", "y", "1:30", "12_000", "2024-01-01", "=", "0b1", "1,5", "+"])
def test_what_only_yaml_1_1_takes_for_something_else_stays_a_text(word):
    assert read_document(f"key: {word}", "a.yaml").plain() == {"key": word}


@pytest.mark.parametrize(
    ("word", "value"),
    [
        *[("true", True), ("False", False), ("~", None), ("", None), ("0x1F", 31), ("0o17", 15), ("-12", -12)],
        *[("1e3", 1000.0), (".5", 0.5), ("1.", 1.0), ("-.inf", float("-inf")), ('"5"', "5"), ("'true'", "true")],
        *[("010", 10), ("9" * 401, float("inf"))],
    ],
)
def test_the_core_schema_of_yaml_1_2_decides(word, value):
    found = read_document(f"key: {word}", "a.yaml").plain()["key"]
    assert (found, type(found)) == (value, type(value))


def test_keys_are_texts_whatever_they_look_like():
    assert read_document("1: a\ntrue: b\n~: c\n", "a.yml").plain() == {"1": "a", "true": "b", "~": "c"}


YAML = """\
# a comment
name: orders
steps:
  - filter: "amount > 0"
  - enrich: {with: [pricing, 2.5]}
"""
JSON = """\
{
\t"name": "orders",
\t"steps": [{"filter": "x"},
\t\t{"enrich": {"with": ["pricing", 2.5]}}]
}
"""


@pytest.mark.parametrize(("text", "file"), [(YAML, "a.yaml"), (JSON, "a.json")])
def test_every_key_and_scalar_stands_where_its_place_says(text, file):
    for node in placed(read_document(text, file)):
        if not isinstance(node.value, tuple):
            shown = str(node.value).lower() if node.kind == "boolean" else str(node.value)
            assert rest(text, node.location).lstrip("\"'").startswith(shown.strip().split("\n")[0][:3]) or "\n" in shown


WORDS = st.text("ab.#'\"[]{}=, \\é", max_size=6)


def stands_where_it_says(text, root):
    return all(
        json.loads(json.dumps(node.value)) == json.JSONDecoder().raw_decode(rest(text, node.location))[0]
        for node in placed(root)
        if not isinstance(node.value, tuple)
    )


@given(data(WORDS))
@pytest.mark.parametrize("file", ["a.yaml", "a.json"])
def test_every_value_of_json_stands_at_its_place(file, data):
    text = json.dumps(data, indent=1)
    assert stands_where_it_says(text, read_document(text, file))


def test_all_formats_give_the_same_nodes():
    plain = read_document(JSON, "a.json").plain()
    assert read_document(YAML.replace("amount > 0", "x"), "a.yaml").plain() == plain


@pytest.mark.parametrize(
    ("text", "file", "line", "column", "said"),
    [
        ("a: 1\nb: 2\na: 3\n", "a.yaml", 3, 1, 'duplicate key "a"'),
        ('{"a": 1,\n "a": 2}', "a.json", 2, 2, 'duplicate key "a"'),
        ("a:\n\tb: 1\n", "a.yaml", 2, 1, "tab"),
        ("a: b: c\n", "a.yaml", 1, 5, "colon"),
        ("a:\n  - b\n c: d\n", "a.yaml", 3, 2, "indentation"),
        ('a: "x\nb: 1\n', "a.yaml", 1, 4, "quotes is not closed"),
        ("a: [1, 2\nb: 3\n", "a.yaml", 1, 4, "a comma is missing"),
        ("a: @x\n", "a.yaml", 1, 4, "quotes"),
        ("a: &x [*x]\n", "a.yaml", 1, 8, "refers to a value that contains it"),
        ("limits: &limits 1\na: *limit\n", "a.yaml", 2, 4, 'did you mean "limits"?'),
        ("a: !env HOME\n", "a.yaml", 1, 4, "tag !env"),
        ("a: !!str 5\n", "a.yaml", 1, 4, "tag !!str"),
        ("x: &x {a: 1}\ny:\n  <<: *x\n", "a.yaml", 3, 3, "merge key"),
        ("a: 1\n---\nb: 1\n", "a.yaml", 2, 1, "second document"),
        ("a: 1\n? [b]\n: 2\n", "a.yaml", 2, 3, "expected a string as a key, got a list of 1"),
        ("a: 1\nb: \x07\n", "a.yaml", 2, 4, "U+0007"),
        ("[" * 101 + "]" * 101, "a.yaml", 1, 101, "100 levels"),
        ("[" * 101 + "]" * 101, "a.json", 1, 101, "100 levels"),
        ("[" * 100_000, "a.json", 1, 101, "100 levels"),
        ('{"[": "\\"[",\n "a": ' + "[" * 100_000 + "]" * 100_000 + "}", "a.json", 2, 106, "100 levels"),
        ("x: 'a\u2028b\x85c\u2029'\na: 1\na: 2\n", "a.yaml", 3, 1, 'duplicate key "a"'),
        ("x: 'a\u2028b'\na: @x\n", "a.yaml", 2, 4, "quotes"),
        ("x: 'a\u2028b'\na:\n\tb: 1\n", "a.yaml", 3, 1, "tab"),
        ("- " * 100_000, "a.yaml", 1, 201, "100 levels"),
        ('{"a": 1,\n  b: 2}', "a.json", 2, 3, "expecting property name"),
        ('{"a": NaN}', "a.json", 1, 7, "finite"),
        ("1" * 5000, "a.json", 1, 1, "limit"),
        ("", "a.json", 1, 1, "expecting value"),
        ("a: 1", "a.txt", 1, 1, ".yaml, .yml, .json"),
        ('flow = "a"', "a.toml", 1, 1, "cannot be written in TOML; write it as YAML or JSON"),
        ('{"a": "\\ud800"}', "a.json", 1, 7, "U+D800 is not allowed in flow files"),
        ('{"\\u0000": 1}', "a.json", 1, 2, "U+0000"),
        ('a: "x\\0"', "a.yaml", 1, 4, "U+0000"),
        ('"\\0": 1', "a.yaml", 1, 1, "U+0000"),
    ],
)
def test_a_mistake_points_at_what_is_wrong(text, file, line, column, said):
    found = mistakes(text, file)
    assert [place[:2] for place in found] == [(line, column)]
    assert found[0][2].startswith(f"{file}:{line}:{column}: ")
    assert said in found[0][2]


def test_all_mistakes_are_told_at_once_in_the_order_of_their_lines():
    text = "b: !x 1\na: 1\na: 2\nc: {<<: 1}\nd: *e\n"
    with pytest.raises(FlowDefinitionError) as caught:
        read_document(text, "a.yaml")
    assert [line.split(": ")[0] for line in str(caught.value).splitlines()] == [
        "a.yaml:1:4",
        "a.yaml:3:1",
        "a.yaml:4:5",
        "a.yaml:5:4",
    ]


def test_aliases_stand_for_what_they_name():
    assert read_document("a: &x {k: [1]}\nb: *x\n", "a.yaml").plain() == {"a": {"k": [1]}, "b": {"k": [1]}}


def test_an_alias_stands_at_its_own_place():
    root = read_document("a: &x 5\nb: *x\n", "a.yaml")
    assert root.get("b").location == SourceLocation("a.yaml", 2, 4)


def test_aliases_that_would_fill_the_memory_are_refused():
    """Nine aliases of nine aliases … of nine texts: 400 bytes that stand for 9**12 nodes."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    assert "more than 20000 values up to here" in mistakes("\n".join(lines), "a.yaml")[0][2]


def test_aliases_do_not_nest_deeper_than_anything_else():
    lines = ["a0: &a0 [x]", *(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 150))]
    assert [place[:2] for place in mistakes("\n".join(lines), "a.yaml")] == [(100, 12)]


def test_an_alias_is_as_deep_as_what_is_marked_inside_of_it():
    inner = "[" * 50 + "]" * 50
    text = f"a: &outer [&inner {inner}, 1]\nb: {'[' * 60}*outer{']' * 60}\n"
    assert [place[:2] for place in mistakes(text, "a.yaml")] == [(2, 64)]


def test_no_nesting_exhausts_the_stack():
    for file in ("a.yaml", "a.json"):
        for depth in (400, 900, 100_000):
            text = "[" * depth + "]" * depth
            assert "levels" in mistakes(text, file)[0][2]


def test_an_alias_counts_as_the_text_that_it_stands_for():
    """A text of 20 kB and 60 aliases of it: more than 1 MiB."""
    text = f"a: &x {'x' * 20_000}\nb: [{', '.join(['*x'] * 60)}]\n"
    assert [said for _, _, said in mistakes(text, "a.yaml")] == [
        "a.yaml:2:209: more than 1048576 bytes of strings up to here; use fewer aliases"
    ]


@pytest.mark.parametrize("file", ["a.yaml", "a.json"])
def test_a_document_has_at_most_20000_values(file):
    """Whatever the limit lets through is read in a fraction of a second."""
    assert len(read_document(f"[{'1, ' * 19_998}1]", file).value) == 19_999
    (found,) = mistakes(f"[{'1, ' * 30_000}1]", file)
    assert (found[0], "more than 20000 values up to here" in found[2]) == (1, True)


def test_the_format_can_be_named():
    assert read_document("a: 1", "-", "yaml").plain() == {"a": 1}
    with pytest.raises(ValueError, match="ini"):
        read_document("a = 1", "-", "ini")


@pytest.mark.parametrize("file", ["a.yaml", "a.json"])
def test_a_byte_order_mark_is_passed_over(file):
    assert read_document('\ufeff{"a": 1}', file).plain() == {"a": 1}


def test_an_empty_document_is_nothing():
    assert read_document("# nothing\n", "a.yaml").shown() == "nothing"


@given(DATA)
def test_plain_data_comes_back_from_its_node(data):
    assert node_of(data, HERE).plain() == data


def test_a_mistake_reads_like_a_compiler_error():
    found = Diagnostics()
    found.unknown(node_of("pricng", SourceLocation("orders.yaml", 12, 5)), "service", ["pricing", "inventory"])
    line = 'orders.yaml:12:5: unknown service "pricng": did you mean "pricing"?'
    assert [str(mistake) for mistake in found] == [line]


def test_mistakes_are_told_once_and_in_order():
    found = Diagnostics()
    for line in (3, 1, 3, 2):
        found.add(SourceLocation("a", line, 1), "wrong")
    assert list(found) == [Diagnostic(SourceLocation("a", line, 1), "wrong") for line in (1, 2, 3)]


def test_two_hundred_lines_are_read_at_once():
    """A flow file is read again whenever it is saved, so it must not be felt."""
    step = "  - enrich:\n      with: [pricing, inventory]\n      timeout: 2s\n      attempts: 3\n"
    text = "name: orders\nsteps:\n" + step * 50

    def once():
        start = time.thread_time()  # of the processor: other processes do not count
        read_document(text, "a.yaml")
        return time.thread_time() - start

    assert min(once() for _ in range(10)) < 0.02
