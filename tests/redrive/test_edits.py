"""Edits by assignments: which fields they change, and which inputs they do not accept."""

from __future__ import annotations

import asyncio
import json
import time
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.deadletters import DeadLetter
from penstock.errors import InvalidAssignment, NotEditable
from penstock.expressions import Expression
from penstock.redrive.edits import Assignments, parse_assignments
from penstock.redrive.field_names import original_offset, with_fields
from redrive import letters


def letter(input: bytes, **fields: Any) -> DeadLetter:
    """A letter with an input."""
    return letters.letter(input=input, **{"input_size": len(input), **fields})


def changed(input: bytes, *assignments: str, **fields: Any) -> bytes:
    """The input after an edit."""
    return parse_assignments(assignments).apply(letter(input, **fields))


@pytest.mark.parametrize(
    ("assignments", "after"),
    [
        (['currency="EUR"'], b'{"id":7,"amount":2.50,"currency":"EUR","card":{"country":"AT","n":[1]}}'),
        (["amount = amount * 100.0"], b'{"id":7,"amount":250.0,"currency":"USD","card":{"country":"AT","n":[1]}}'),
        (['card.country="DE"'], b'{"id":7,"amount":2.50,"currency":"USD","card":{"country":"DE","n":[1]}}'),
        (["id=card.n[0] + id"], b'{"id":8,"amount":2.50,"currency":"USD","card":{"country":"AT","n":[1]}}'),
        (["id=value.id + 1"], b'{"id":8,"amount":2.50,"currency":"USD","card":{"country":"AT","n":[1]}}'),
        (
            ["id=string(id)", "currency=string(id)"],
            b'{"id":"7","amount":2.50,"currency":"7","card":{"country":"AT","n":[1]}}',
        ),
        (
            ["a.b.c=null", "a.b.d=true"],
            b'{"id":7,"amount":2.50,"currency":"USD","card":{"country":"AT","n":[1]},"a":{"b":{"c":null,"d":true}}}',
        ),
        (
            ["card={'country': currency}", "card.n=card.n.map(id, id * 2)"],
            b'{"id":7,"amount":2.50,"currency":"USD","card":{"country":"USD","n":[2]}}',
        ),
    ],
    ids=str,
)
def test_an_assignment_changes_its_field(assignments: list[str], after: bytes) -> None:
    """And no other: they stay as they were written, in their order."""
    before = b'{ "id":7,"amount":2.50,"currency":"USD","card":{"country":"AT","n":[1]}}'
    assert changed(before, *assignments) == after


def test_numbers_of_other_fields_keep_their_digits() -> None:
    """They are not read and written again."""
    before = b'{"price": 0.12345678901234567890, "big": 123456789012345678901234567890, "id": 1}'
    after = changed(before, "id=2")
    assert after == b'{"price":0.12345678901234567890,"big":123456789012345678901234567890,"id":2}'


def test_an_edit_that_changes_nothing_returns_the_input_as_it_is() -> None:
    """So it is not counted as a change."""
    before = b'{ "currency" : "EUR", "amount": 1 }'
    assert changed(before, 'currency="EUR"') is not None
    assert changed(before, 'currency="EUR"') == before
    assert changed(before, "amount=1.0") == b'{"currency":"EUR","amount":1.0}'


@pytest.mark.parametrize(("delimiter", "header"), [(",", "a,b"), (";", "sep=;\na;b")])
def test_a_row_of_csv_is_read_with_its_header(delimiter: str, header: str) -> None:
    """What comes out is JSON."""
    row = f'1{delimiter}"x{delimiter}y"'.encode()
    assert json.loads(changed(row, "a=int(a) + 1", header=header)) == {"a": 2, "b": f"x{delimiter}y"}


@pytest.mark.parametrize(
    ("input", "fields", "assignment", "says"),
    [
        (b"[1]", {}, "a=1", "the input is not a JSON object; replace it"),
        (b"7", {}, "a=1", "the input is not a JSON object; replace it"),
        (b'{"a":', {}, "a=1", "the input is not JSON: "),
        (b"\xff", {}, "a=1", "the input is not JSON: not UTF-8 at byte 0; replace it"),
        (b"[" * 100_000, {}, "a=1", "the input is not"),
        (b'{"a":1', {"input_size": 10_000}, "a=1", "the input of 10000 bytes is not complete (6 bytes are stored)"),
        (b'{"a":"[redacted]"}', {"input_size": 9}, "a=1", "it was too large, or has redacted fields; replace it"),
        (b"1,2,3", {"header": "a,b"}, "a=1", "it has 3 cells, the header names 2 fields; replace the input by JSON"),
        (b'{"a":1}', {}, "a=amont", "a=amont: Key not found in map"),
        (b'{"a":1}', {}, "a.b=1", "a.b=1: a is not an object"),
        (b'{"a":1}', {}, "a=a + 'x'", "a=a + 'x': "),
        (b'{"a":1}', {}, "a=1.0 / 0.0", "the result cannot be written as JSON"),
        (b'{"a":1}', {}, "a=b'x'", "the result cannot be written as JSON"),
    ],
)
def test_an_input_that_cannot_be_changed_says_why(
    input: bytes, fields: dict[str, Any], assignment: str, says: str
) -> None:
    """It stays as it is; the change has the error."""
    edit, unreadable = parse_assignments([assignment]), letter(input, **fields)
    with pytest.raises(NotEditable) as raised:
        edit.apply(unreadable)
    assert says in str(raised.value)
    change = edit(unreadable)
    assert (change.before, change.after, change.error) == (input, None, str(raised.value))


@pytest.mark.parametrize(
    ("texts", "column", "says"),
    [
        ([], None, "expected at least one assignment"),
        (["amount"], 1, "it does not begin with the name of a field and ="),
        (["=1"], 1, "it does not begin with the name of a field and ="),
        (["a..b=1"], 1, "it does not begin with the name of a field and ="),
        (["a[0]=1"], 1, "it does not begin with the name of a field and ="),
        (["a=="], 3, "== compares; an assignment has one ="),
        (["a= "], 3, "the expression is missing"),
        (["amount=amount *"], 16, "it ends too early"),
        (["a=b + (c + nosuch(d))"], 12, "unknown name 'nosuch'"),
        (["a=b +\n c + nosuch(d)"], 12, "unknown name 'nosuch'"),
        (["a=list.map(value, value)"], None, "give the variable of the loop another name"),
        (["a=1", "b=2", " a =3"], None, "a is assigned twice; remove one"),
        (["a=1", "a=" + "(" * 20_000], None, "more than 10000 characters"),
        (["a=" + "(" * 4_000], 3, "it is nested too deeply"),
        ([f"a{number}=1" for number in range(51)], None, "at most 50 assignments"),
        (['a="x\0"'], 5, "it contains the character NUL"),
    ],
)
def test_an_invalid_assignment_says_where(texts: list[str], column: int | None, says: str) -> None:
    """Columns count in the assignment as it was written."""
    with pytest.raises(InvalidAssignment, match="invalid assignment") as raised:
        Assignments.parse(texts)
    assert says in str(raised.value)
    assert raised.value.column == column


@pytest.mark.parametrize(
    ("written", "evaluated"),
    [
        ("amount * 100", "value.amount * 100"),
        ("a.b.c + a [b]", "value.a.b.c + value.a [value.b]"),
        ('"a + b" + r"\\" + \'c\' + a', '"a + b" + r"\\" + \'c\' + value.a'),
        ("\"\"\"a \" b\"\"\" + '''c\n'd''' + e // f", "\"\"\"a \" b\"\"\" + '''c\n'd''' + value.e // f"),
        ("1e5 + 0xff + 2u + .5 + e5", "1e5 + 0xff + 2u + .5 + value.e5"),
        ("has(a.b) && !(a in [true, null])", "has(value.a.b) && !(value.a in [true, null])"),
        ("a ? b : c", "value.a ? value.b : value.c"),
        ("a.?b.orValue(c)", "value.a.?b.orValue(value.c)"),
        ("{a: b, 'c': d}[?e]", "{value.a: value.b, 'c': value.d}[?value.e]"),
        ("size(a) + math.greatest(b, math) ", "size(value.a) + math.greatest(value.b, value.math) "),
        ("optional.of(a).optMap(x, x + y)", "optional.of(value.a).optMap(x, x + value.y)"),
        ("a.map(x, x.y + x + y) + x", "value.a.map(x, x.y + x + value.y) + value.x"),
        ("a.all(a, a > 1) || a", "value.a.all(a, a > 1) || value.a"),
        ("a.map(x, b.filter(y, x > y && z)) + y", "value.a.map(x, value.b.filter(y, x > y && value.z)) + value.y"),
        ("map.filter(map, map.map > all)", "value.map.filter(map, map.map > value.all)"),
        ("value.a + values", "value.a + value.values"),
        ("string(text).matches('^a')", "string(value.text).matches('^a')"),
    ],
)
def test_names_are_fields(written: str, evaluated: str) -> None:
    """Except those that select fields, are called, name a library, or are variables of a loop around them."""
    assert with_fields(written)[0] == evaluated


@given(
    st.lists(
        st.sampled_from(
            ["a", "b1", "x", " ", "+", ".", "(", ")", "[", "'a'", '"', ".map(x,", "1", "value", "in", "\n"]
        ),
        max_size=12,
    )
)
def test_positions_are_found_again(parts: list[str]) -> None:
    """Each character of the expression on the item is at its place in the text that was written."""
    written = "".join(parts)
    evaluated, inserted = with_fields(written)
    kept = iter(range(len(evaluated)))
    for position, character in enumerate(written):
        if position in inserted:
            assert [original_offset(next(kept), inserted) for _ in "value."] == [position] * 6
        at = next(kept)
        assert (evaluated[at], original_offset(at, inserted)) == (character, position)


@given(
    st.dictionaries(st.sampled_from(["a", "b", "size", "map", "math", "type"]), st.integers(-9, 9), min_size=2),
    st.data(),
)
def test_expressions_on_fields_are_those_on_the_item(item: dict[str, int], data: st.DataObject) -> None:
    """Whatever the fields are called."""
    one, other = data.draw(st.sampled_from(sorted(item))), data.draw(st.sampled_from(sorted(item)))
    after = json.loads(changed(json.dumps(item).encode(), f"new=[{one} + {other}].map(x, x * {one})"))
    assert after == item | {"new": Expression(f"[value.{one} + value.{other}].map(x, x * value.{one})")(item)}


def test_an_edit_with_many_assignments_lets_other_tasks_run() -> None:
    """Also within one letter."""
    item = json.dumps({"a": list(range(20_000)), "s": "x" * 100_000}).encode()
    edit = parse_assignments([f"f{number}=size(a) + size(s.upperAscii())" for number in range(50)])

    async def main() -> list[float]:
        task = asyncio.create_task(edit.changes([letter(item)]))
        times = [time.thread_time()]
        while not task.done():
            await asyncio.sleep(0)
            times.append(time.thread_time())
        assert task.result()[0].error is None
        return times

    times = asyncio.run(main())
    longest = max(after - before for before, after in pairwise(times))
    assert longest < (times[-1] - times[0]) / 2


def test_the_results_of_an_edit_are_limited() -> None:
    """Each may be as large as the input, so fifty could fill the memory."""
    item = json.dumps({"s": "x" * 400_000}).encode()
    assert len(changed(item, "t=s", "u=s")) > 1_200_000
    with pytest.raises(NotEditable, match="v=s: the results have more than 1048576 bytes"):
        changed(item, "t=s", "u=s", "v=s")


def test_changes_come_in_batches_that_fit_into_memory() -> None:
    """So a page of letters can become larger than a page."""
    item = json.dumps({"s": "x" * 500_000}).encode()
    edit = parse_assignments(["t=s"])

    async def main() -> list[int]:
        return [len(batch) async for batch in edit.batches([letter(item)] * 10)]

    assert asyncio.run(main()) == [5, 5]


def test_expressions_cannot_block_the_service() -> None:
    """One that would take too long is rejected, and other tasks run between letters."""
    large = json.dumps({"list": list(range(3_000)), "text": "x" * 1_000}).encode()
    with pytest.raises(NotEditable, match=r"too large|more than 10,000 iterations"):
        changed(large, "n=list.filter(a, list.exists(b, b == a * 7)).size()")

    slow = [letter(json.dumps({"list": list(range(2_000))}).encode())] * 200
    edit = parse_assignments(["n=list.map(x, x * 2)"])

    async def main() -> float:
        task = asyncio.create_task(edit.changes(slow))
        longest, last = 0.0, time.thread_time()
        while not task.done():
            await asyncio.sleep(0)
            longest, last = max(longest, time.thread_time() - last), time.thread_time()
        assert all(change.after is not None for change in task.result())
        return longest

    assert asyncio.run(main()) < 0.5
