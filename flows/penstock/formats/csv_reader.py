"""Read CSV (RFC 4180): split chunks of bytes into rows, rows into cells, and cells into JSON objects.

Reads what Python's `csv` reads, but in chunks and with a limit for rows: `csv` stops at the first row that is too large
or malformed.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from enum import IntEnum
from functools import partial
from typing import NamedTuple

import msgspec

from penstock.errors import MalformedRow
from penstock.formats.csv_header import split_delimiter, with_delimiter
from penstock.formats.ndjson_reader import LINE_LIMIT
from penstock.formats.rejected import OversizedInput, RejectedInput

BOM = b"\xef\xbb\xbf"

QUOTE = ord('"')

_encode = msgspec.json.Encoder().encode


class Row(NamedTuple):
    """One row as received, without its line ending."""

    line: int
    """The line of the file at which the row starts, from 1."""
    raw: bytes
    """Its bytes, at most the limit."""
    length: int
    """The number of its bytes."""
    open: bool = False
    """Whether the input ended inside quotes."""


class CsvState(IntEnum):
    """The position of the splitter within a row."""

    START = 0
    """At the start of a cell, where a quote opens a quoted cell."""
    PLAIN = 1
    """In a cell without quotes, or after its closing quote: a quote is an ordinary character."""
    QUOTED = 2
    """Inside quotes, where newlines and delimiters are ordinary characters."""
    QUOTE = 3
    """After a quote inside quotes: it closes them unless another quote follows."""


class CsvSplitter:
    """Splits chunks of CSV into lines of JSON. Raises `ValueError` for an invalid header.

    A row with more or fewer cells than the header, or that is not UTF-8, becomes a `RejectedInput` with its bytes; a
    row over the limit becomes an `OversizedInput`. Both have the header. A quote that is never closed includes all rows
    up to the next quote.
    """

    def __init__(self, limit: int = LINE_LIMIT, delimiter: str = ",") -> None:
        self._limit = limit
        self._rows = RowSplitter(limit, delimiter)
        self._cells = cell_reader(delimiter)
        self._delimiter = delimiter
        self._fields: list[str] | None = None
        self._header_text = ""

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the rows that a chunk completes."""
        return self._read_all(self._rows.feed(chunk))

    def finish(self) -> list[bytes]:
        """Return the last row, if the input did not end with a newline."""
        return self._read_all(self._rows.finish())

    def _read_all(self, rows: list[Row]) -> list[bytes]:
        if self._fields is None and rows:
            self._fields = self._header(rows.pop(0))
        return [self._read(row) for row in rows]

    def _read(self, row: Row) -> bytes:
        if row.length > self._limit:
            return OversizedInput.of(row.raw, row.length, self._limit, self._header_text)
        fields = self._fields
        assert fields is not None
        try:
            cells = self._cells(_text(row))
            if len(cells) != len(fields):
                raise ValueError(
                    f"it has {_count(len(cells), 'cell')}, the header names {_count(len(fields), 'field')}"
                )
        except ValueError as error:
            return RejectedInput.of_bytes(row.raw, MalformedRow(row.line, str(error)), self._header_text)
        return _encode(dict(zip(fields, cells, strict=True)))

    def _header(self, row: Row) -> list[str]:
        if row.length > self._limit:
            raise ValueError(f"its header is longer than {self._limit} bytes")
        try:
            fields = self._cells(_text(row))
        except ValueError as error:
            raise ValueError(f"its header is not a valid row: {error}") from None
        for number, field in enumerate(fields):
            if not field.strip():
                raise ValueError(f"its header has no name for column {number + 1}; its first row names the fields")
            if field in fields[:number]:
                raise ValueError(f"its header names the field {field!r} twice")
        self._header_text = with_delimiter(_text(row), self._delimiter)
        return fields


def parse_row(header: str, row: bytes) -> bytes:
    """Convert one row to JSON, given the header of its file as it is kept with a dead letter.

    Raises `MalformedRow`, also for a row that was cut.
    """
    text, delimiter = split_delimiter(header)
    first = text.encode(errors="replace")
    splitter = CsvSplitter(max(len(first), len(row), 1), delimiter)
    try:
        lines = splitter.feed(first + b"\n" + row) + splitter.finish()
    except ValueError as error:
        raise MalformedRow(None, str(error)) from None
    if len(lines) != 1:
        raise MalformedRow(None, f"expected one row, got {len(lines)}")
    if isinstance(lines[0], RejectedInput):
        rejected = lines[0].error
        raise MalformedRow(None, rejected.reason if isinstance(rejected, MalformedRow) else str(rejected))
    return lines[0]


class RowSplitter:
    """Splits chunks into rows. Buffers at most one row, up to its size limit.

    Accepts `\\n` and `\\r\\n`, newlines inside quotes, and a byte order mark at the start. Skips empty rows.
    """

    def __init__(self, limit: int, delimiter: str = ",") -> None:
        if limit < 1:
            raise ValueError(f"limit: expected at least 1 byte for a row, got {limit!r}")
        self.ended = 0
        """Bytes up to the end of the last complete row."""
        self._limit = limit
        self._delimiter = ord(delimiter)
        self._opening = delimiter.encode() + b'"'
        other = re.escape(delimiter)
        cell = rf'(?:"[^"]*(?:""[^"]*)*"(?!")[^{other}\n]*|[^"{other}\n][^{other}\n]*|)'
        self._complete_row = re.compile(rf"{cell}(?:{other}{cell})*\n".encode())
        self._state = CsvState.START
        self._buffered = bytearray()
        self._length = 0
        self._line = 1
        self._lines = 0
        self._return = False
        self._mark: bytes | None = b""

    def feed(self, chunk: bytes) -> list[Row]:
        """Return the rows that a chunk completes."""
        if self._mark is not None:
            chunk = self._mark + chunk
            if len(chunk) < len(BOM) and BOM.startswith(chunk):
                self._mark = chunk
                return []
            self._mark = None
            if chunk.startswith(BOM):
                self.ended, chunk = len(BOM), chunk[len(BOM) :]
        if self._state in (CsvState.START, CsvState.PLAIN) and b'"' not in chunk:
            return self._split(chunk)
        rows: list[Row] = []
        start = 0
        while (stop := self._end_of_row(chunk, start)) >= 0:
            self._buffer(chunk[start : stop - 1])
            self.ended += self._length + 1
            rows.append(self._take_row())
            start = stop
        self._buffer(chunk[start:])
        return [row for row in rows if row.length]

    def finish(self) -> list[Row]:
        """Return the last row, if the input did not end with a newline."""
        if self._mark:
            self._buffer(self._mark)
        row = self._take_row()._replace(open=self._state is CsvState.QUOTED)
        return [row] if row.length or row.open else []

    def _split(self, chunk: bytes) -> list[Row]:
        """Split a chunk without quotes, where every newline ends a row. All work per byte is done in C."""
        first, *lines = chunk.split(b"\n")
        self._buffer(first)
        last = first
        rows: list[Row] = []
        if lines:
            last = lines.pop()
            self.ended += self._length + 1 + sum(map(len, lines)) + len(lines)
            rows.append(self._take_row())
            if b"\r" in chunk:
                lines = [line.removesuffix(b"\r") for line in lines]
            limit = self._limit
            rows += [Row(number, line[:limit], len(line)) for number, line in enumerate(lines, self._line)]
            self._line += len(lines)
            self._buffer(last)
        if last:
            self._state = CsvState.START if last[-1] == self._delimiter else CsvState.PLAIN
        elif rows:
            self._state = CsvState.START
        return [row for row in rows if row.length]

    def _end_of_row(self, chunk: bytes, position: int) -> int:
        """Return the position after the newline that ends the row; -1 if it is in a later chunk."""
        state, end, newline = self._state, len(chunk), -1
        if not self._length and (row := self._complete_row.match(chunk, position)) is not None:
            return row.end()  # most rows are complete; going from quote to quote takes 3 times as long
        while position < end:
            if state is CsvState.QUOTED:
                position = chunk.find(b'"', position) + 1
                if not position:
                    break
                state = CsvState.QUOTE
                continue
            opens = state is not CsvState.PLAIN and chunk[position] == QUOTE
            parts = state is CsvState.QUOTE and chunk[position] == self._delimiter
            if opens or parts:
                state = CsvState.QUOTED if opens else CsvState.START
                position += 1
                continue
            if newline < position:
                newline = chunk.find(b"\n", position)
                newline = end if newline < 0 else newline
            opened = chunk.find(self._opening, position, newline)
            if opened >= 0:
                state, position = CsvState.QUOTED, opened + 2
            elif newline < end:
                self._state = CsvState.START
                return newline + 1
            else:
                state, position = (CsvState.START if chunk[-1] == self._delimiter else CsvState.PLAIN), end
        self._state = state
        return -1

    def _buffer(self, chunk: bytes) -> None:
        self._buffered += chunk[: max(0, self._limit + 1 - len(self._buffered))]  # one more: it may be a \r
        self._length += len(chunk)
        self._lines += chunk.count(b"\n")
        if chunk:
            self._return = chunk.endswith(b"\r")

    def _take_row(self) -> Row:
        length = self._length - self._return
        row = Row(self._line, bytes(self._buffered[: min(length, self._limit)]), length)
        self._buffered.clear()
        self._line += self._lines + 1
        self._length = self._lines = 0
        self._return = False
        return row


def cell_reader(delimiter: str = ",") -> Callable[[str], list[str]]:
    """Return a function that splits the text of a row into cells.

    The function raises `ValueError` for a `\\r` outside quotes, except at the end, where `csv` takes it for the line
    ending.
    """
    careful = careful_reader(delimiter)
    quick = partial(csv.reader, delimiter=delimiter)

    def read(row: str) -> list[str]:
        if '"' not in row and "\r" not in row:
            return row.split(delimiter)
        try:
            return next(quick((row,)))
        except csv.Error:  # `csv` rejects cells of more than 131,072 characters
            return careful(row)

    return read


def careful_reader(delimiter: str = ",") -> Callable[[str], list[str]]:
    """Do the same with a regular expression: takes 5 times as long, without a limit for a cell."""
    other = re.escape(delimiter)
    cell = re.compile(rf'(?:"([^"]*(?:""[^"]*)*)"(?!")([^{other}]*)|([^{other}]*))({other}|\Z)')

    def read(row: str) -> list[str]:
        cells: list[str] = []
        position = 0
        while (found := cell.match(row, position)) is not None:
            quoted, behind, plain, end = found.groups("")
            if "\r" in behind or "\r" in plain:
                raise ValueError("a carriage return outside quotes; rows end with \\n or \\r\\n")
            cells.append(plain or quoted.replace('""', '"') + behind)
            if not end:
                return cells
            position = found.end()
        raise ValueError("a quote that is never closed")

    return read


def _text(row: Row) -> str:
    if row.open:
        raise ValueError("a quote that is never closed")
    try:
        return row.raw.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start} of the row") from None


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number != 1 else ''}"
