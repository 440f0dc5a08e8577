"""CSV: the same rows as Python's own reader finds, wherever the chunks are cut, and every bad row by itself."""

from __future__ import annotations

import csv
import io
import json
import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laws.chunks import cut
from penstock.errors import ElementTooLarge, MalformedRow
from penstock.formats.csv_header import split_delimiter, with_delimiter
from penstock.formats.csv_reader import CsvSplitter, RowSplitter, careful_reader, cell_reader, parse_row
from penstock.formats.rejected import RejectedInput


def rows(data: bytes, sizes: list[int] | None = None, limit: int = 1000, delimiter: str = ",") -> list[bytes]:
    splitter = CsvSplitter(limit, delimiter)
    found = [row for chunk in cut(data, sizes or [7]) for row in splitter.feed(chunk)]
    return found + splitter.finish()


def values(data: bytes, sizes: list[int] | None = None, delimiter: str = ",") -> list[dict[str, str]]:
    return [json.loads(row) for row in rows(data, sizes, delimiter=delimiter)]


def refusals(found: list[bytes]) -> list[str]:
    return [str(row.error) for row in found if isinstance(row, RejectedInput)]


cells = st.text(st.sampled_from('ab,;" \n\té€𝄞'), max_size=8) | st.sampled_from(["", '"', '""', "a\r\nb", "\r", "x,y"])
sizes = st.lists(st.integers(1, 9), min_size=1, max_size=5)


@settings(max_examples=300, deadline=None)
@given(
    table=st.integers(1, 4).flatmap(
        lambda width: st.lists(st.lists(cells, min_size=width, max_size=width), max_size=6)
    ),
    sizes=sizes,
    end=st.sampled_from(["\n", "\r\n"]),
    delimiter=st.sampled_from(",;\t"),
    mark=st.booleans(),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
def test_what_the_csv_module_writes_is_read_as_it_was(
    table: list[list[str]], sizes: list[int], end: str, delimiter: str, mark: bool, quoting: int
) -> None:
    """Quotes, newlines in quotes, delimiters of other kinds, a byte order mark: every text comes back, in its row."""
    written = io.StringIO()
    fields = [f"f{number}" for number in range(len(table[0]) if table else 1)]
    writer = csv.writer(written, lineterminator="\r\n", delimiter=delimiter, quoting=quoting)  # type: ignore[arg-type]
    writer.writerows([fields, *table])
    text = written.getvalue() if end == "\r\n" else "\n".join(written.getvalue().split("\r\n"))
    data = (b"\xef\xbb\xbf" if mark else b"") + text.encode()
    if end == "\n":
        table = [[cell.replace("\r\n", "\n") for cell in row] for row in table]

    assert values(data, sizes, delimiter) == [dict(zip(fields, row, strict=True)) for row in table]


@settings(max_examples=500, deadline=None)
@given(body=st.text(st.sampled_from('ab,"\n'), max_size=40), sizes=sizes)
def test_odd_quotes_are_read_like_the_csv_module_reads_them(body: str, sizes: list[int]) -> None:
    """A quote in the middle of a cell, or behind closed quotes, is a character like others."""
    expected = list(csv.reader(io.StringIO(body, newline="")))
    splitter = RowSplitter(1000)
    found = [row for chunk in cut(body.encode(), sizes) for row in splitter.feed(chunk)] + splitter.finish()
    reference = [row for row in expected if row]
    if found and found[-1].open:  # the csv module takes what it got; we do not
        found, reference = found[:-1], reference[:-1]

    for read in (cell_reader(), careful_reader()):
        assert [read(row.raw.decode()) for row in found] == reference


def test_a_cell_may_be_as_large_as_a_row() -> None:
    """The csv module's own limit for a cell, 131,072 characters, is none here."""
    (row,) = rows(b'a,b\n"' + b"x" * 500_000 + b'",1\n', [65536], limit=1_000_000)

    assert json.loads(row) == {"a": "x" * 500_000, "b": "1"}


@settings(max_examples=200, deadline=None)
@given(body=st.binary(max_size=60) | st.text(st.sampled_from('a,"\r\n'), max_size=60).map(str.encode), sizes=sizes)
def test_the_cuts_make_no_difference(body: bytes, sizes: list[int]) -> None:
    """Whatever the bytes are, the rows, the refused ones and their reasons are those of the whole in one chunk."""
    data = b"f,g\n" + body

    def told(found: list[bytes]) -> list[tuple[bytes, str]]:
        return [(bytes(row), str(getattr(row, "error", ""))) for row in found]

    assert told(rows(data, sizes, limit=12)) == told(rows(data, [10_000], limit=12))


def test_a_row_that_does_not_fit_fails_alone() -> None:
    """Too many cells, too few, no UTF-8, a stray carriage return: each says where and why, and the others are read."""
    found = rows(b'a,b\n1,2\n1,2,3\n"x\ny"\n\xff,2\n1\r2,3\n5,6\n')

    assert [json.loads(row) for row in found if not isinstance(row, RejectedInput)] == [
        {"a": "1", "b": "2"},
        {"a": "5", "b": "6"},
    ]
    assert refusals(found) == [
        "the row at line 3 cannot be read: it has 3 cells, the header names 2 fields",
        "the row at line 4 cannot be read: it has 1 cell, the header names 2 fields",
        "the row at line 6 cannot be read: not UTF-8 at byte 0 of the row",
        "the row at line 7 cannot be read: a carriage return outside quotes; rows end with \\n or \\r\\n",
    ]
    assert [bytes(row) for row in found if isinstance(row, RejectedInput)][:2] == [b"1,2,3", b'"x\ny"']


def test_a_row_over_the_limit_keeps_its_beginning() -> None:
    """However long it is, no more than the limit is held, and the next row is read."""
    splitter = CsvSplitter(10)
    found = splitter.feed(b"a,b\n")
    for _ in range(1000):
        found += splitter.feed(b'"x\n' + b"y" * 1000)
        assert len(splitter._rows._buffered) <= 11
        found += splitter.feed(b'",')
    found += splitter.feed(b"\n1,2\n")

    assert [type(getattr(row, "error", None)) for row in found] == [ElementTooLarge, type(None)]
    assert found[0].error.length > 1_000_000  # type: ignore[attr-defined]


@settings(deadline=None)
@given(
    fields=st.lists(st.text(st.sampled_from('ab,;"=\n\té'), max_size=4).map("sep={}".format), min_size=1, unique=True),
    row=st.lists(cells, min_size=1, max_size=4),
    delimiter=st.sampled_from(",;\t=|"),
)  # fmt: skip
def test_a_row_is_read_with_its_header_as_it_was_in_its_file(fields: list[str], row: list[str], delimiter: str) -> None:
    """Whatever the delimiter and the names: the same JSON, or the same reason without the line."""
    written = io.StringIO()
    csv.writer(written, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerow(fields)
    header = written.getvalue().removesuffix("\r\n")
    written = io.StringIO()
    csv.writer(written, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerow(row)
    raw = written.getvalue().removesuffix("\r\n").encode()
    (found,) = rows(header.encode() + b"\n" + raw, delimiter=delimiter)
    kept = with_delimiter(header, delimiter)

    assert split_delimiter(kept) == (header, delimiter)
    if isinstance(found, RejectedInput):
        assert found.header == kept
        with pytest.raises(MalformedRow, match=re.escape(f"the row cannot be read: {found.error.reason}")):  # type: ignore[attr-defined]
            parse_row(kept, raw)
    else:
        assert parse_row(kept, raw) == found


@pytest.mark.parametrize(
    ("header", "row", "reason"),
    [
        ("a,b", b"", "expected one row, got 0"),
        ("a,b", b"1,2\n3,4", "expected one row, got 2"),
        ("a,b", b'1,"2', "a quote that is never closed"),
        ("a,b", b"\xff,2", "not UTF-8 at byte 0 of the row"),
        ("a,a", b"1,2", "its header names the field 'a' twice"),
        ("sep=;\na,b", b"1;2", "it has 2 cells, the header names 1 field"),
    ],
)
def test_a_row_that_cannot_be_read_says_why(header: str, row: bytes, reason: str) -> None:
    """A letter may have been imported with anything in it."""
    with pytest.raises(MalformedRow) as raised:
        parse_row(header, row)
    assert str(raised.value) == f"the row cannot be read: {reason}"


def test_quotes_that_are_never_closed_fail_at_the_end() -> None:
    """The rows before are read; the rest is one bad row that says where it began."""
    found = rows(b'a,b\n1,2\n3,"4\n5,6\n')

    assert json.loads(found[0]) == {"a": "1", "b": "2"}
    assert refusals(found) == ["the row at line 3 cannot be read: a quote that is never closed"]
    assert isinstance(found[1].error, MalformedRow)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (b"a,,c", "no name for column 2"),
        (b"a,b,a", "names the field 'a' twice"),
        (b"a\rb", "carriage return"),
        (b"\xff", "not UTF-8"),
        (b"a" * 2000, "longer than 1000 bytes"),
    ],
)
def test_a_header_that_names_no_fields_is_refused(header: bytes, reason: str) -> None:
    """Nothing can be made of the rows behind it."""
    with pytest.raises(ValueError, match=reason):
        rows(header + b"\n1,2,3\n")


def test_an_empty_file_has_no_rows() -> None:
    """Nor has one with nothing but a header, a mark or empty lines."""
    assert [rows(data) for data in (b"", b"a,b", b"a,b\r\n", b"\xef\xbb\xbf", b"\n\n")] == [[]] * 5


def test_many_quotes_in_one_row_take_no_time() -> None:
    """Splitting costs time in proportion to the bytes, whatever they are."""
    chance = random.Random(1)
    data = bytes(chance.choices(b'a,"', k=300_000))
    splitter = RowSplitter(1000)
    for start in range(0, len(data), 65536):
        splitter.feed(data[start : start + 65536])

    assert splitter.finish()[0].length == len(data)
