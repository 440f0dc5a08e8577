"""CSV: rows, split from chunks of bytes (RFC 4180).

It reads what Python's `csv` reads, but in pieces and with a limit for rows: there one that is too large, or bad, ends
the whole reading.
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
from penstock.formats.ndjson_reader import LINE_LIMIT
from penstock.formats.rejected import OversizedInput, RejectedInput

BOM = b"\xef\xbb\xbf"
QUOTE = ord('"')


class Row(NamedTuple):
    """One row as it came, without its end."""

    line: int
    """The line of the file at which it begins, from 1."""
    raw: bytes
    """Its bytes; when there were more than the limit, its beginning."""
    length: int
    """How many bytes it had."""
    open: bool = False
    """True when the input ended inside of quotes."""


class CsvState(IntEnum):
    """Where in a row the splitter stands."""

    START = 0
    """At the start of a cell, where a quote opens one."""
    PLAIN = 1
    """In a cell without quotes, or behind them: a quote is a character like others."""
    QUOTED = 2
    """Inside of quotes, where newlines and delimiters are characters like others."""
    QUOTE = 3
    """Behind a quote inside of quotes: it closes them, unless another one follows."""


class RowSplitter:
    """Splits chunks into rows, keeping no more of one than its limit.

    Knows `\\n` and `\\r\\n`, newlines inside of quotes, and a byte order mark at the start. Empty rows are passed over.
    """

    def __init__(self, limit: int, delimiter: str = ",") -> None:
        if limit < 1:
            raise ValueError(f"a row needs at least 1 byte, got limit {limit!r}")
        self.ended = 0
        """The bytes up to the end of the last whole row."""
        self._limit = limit
        self._delimiter = ord(delimiter)
        self._opening = delimiter.encode() + b'"'
        other = re.escape(delimiter)
        cell = rf'(?:"[^"]*(?:""[^"]*)*"(?!")[^{other}\n]*|[^"{other}\n][^{other}\n]*|)'
        self._whole_row = re.compile(rf"{cell}(?:{other}{cell})*\n".encode())
        self._place = CsvState.START
        self._rest = bytearray()
        self._length = 0
        self._line = 1
        self._lines = 0
        self._return = False
        self._mark: bytes | None = b""

    def feed(self, chunk: bytes) -> list[Row]:
        """The rows that a chunk completes."""
        if self._mark is not None:
            chunk = self._mark + chunk
            if len(chunk) < len(BOM) and BOM.startswith(chunk):
                self._mark = chunk
                return []
            self._mark = None
            if chunk.startswith(BOM):
                self.ended, chunk = len(BOM), chunk[len(BOM) :]
        if self._place in (CsvState.START, CsvState.PLAIN) and b'"' not in chunk:
            return self._split(chunk)
        rows: list[Row] = []
        start = 0
        while (stop := self._end_of_row(chunk, start)) >= 0:
            self._keep(chunk[start : stop - 1])
            self.ended += self._length + 1
            rows.append(self._take())
            start = stop
        self._keep(chunk[start:])
        return [row for row in rows if row.length]

    def finish(self) -> list[Row]:
        """The last row, if the input did not end with a newline."""
        if self._mark:
            self._keep(self._mark)
        row = self._take()._replace(open=self._place is CsvState.QUOTED)
        return [row] if row.length or row.open else []

    def _split(self, chunk: bytes) -> list[Row]:
        """The rows of a chunk without quotes, where every newline ends one. What is done for each byte is done in C."""
        first, *lines = chunk.split(b"\n")
        self._keep(first)
        last = first
        rows: list[Row] = []
        if lines:
            last = lines.pop()
            self.ended += self._length + 1 + sum(map(len, lines)) + len(lines)
            rows.append(self._take())
            if b"\r" in chunk:
                lines = [line.removesuffix(b"\r") for line in lines]
            limit = self._limit
            rows += [Row(number, line[:limit], len(line)) for number, line in enumerate(lines, self._line)]
            self._line += len(lines)
            self._keep(last)
        if last:
            self._place = CsvState.START if last[-1] == self._delimiter else CsvState.PLAIN
        elif rows:
            self._place = CsvState.START
        return [row for row in rows if row.length]

    def _end_of_row(self, chunk: bytes, position: int) -> int:
        """The position behind the newline that ends the row; -1 when that is in a later chunk."""
        place, end, newline = self._place, len(chunk), -1
        if not self._length and (whole := self._whole_row.match(chunk, position)) is not None:
            return whole.end()  # most rows are whole; going from quote to quote takes 3 times as long
        while position < end:
            if place is CsvState.QUOTED:
                position = chunk.find(b'"', position) + 1
                if not position:
                    break
                place = CsvState.QUOTE
                continue
            opens = place is not CsvState.PLAIN and chunk[position] == QUOTE
            parts = place is CsvState.QUOTE and chunk[position] == self._delimiter
            if opens or parts:
                place = CsvState.QUOTED if opens else CsvState.START
                position += 1
                continue
            if newline < position:
                newline = chunk.find(b"\n", position)
                newline = end if newline < 0 else newline
            opened = chunk.find(self._opening, position, newline)
            if opened >= 0:
                place, position = CsvState.QUOTED, opened + 2
            elif newline < end:
                self._place = CsvState.START
                return newline + 1
            else:
                place, position = (CsvState.START if chunk[-1] == self._delimiter else CsvState.PLAIN), end
        self._place = place
        return -1

    def _keep(self, piece: bytes) -> None:
        self._rest += piece[: max(0, self._limit + 1 - len(self._rest))]  # one more: it may be a \r
        self._length += len(piece)
        self._lines += piece.count(b"\n")
        if piece:
            self._return = piece.endswith(b"\r")

    def _take(self) -> Row:
        length = self._length - self._return
        row = Row(self._line, bytes(self._rest[: min(length, self._limit)]), length)
        self._rest.clear()
        self._line += self._lines + 1
        self._length = self._lines = 0
        self._return = False
        return row


def cell_reader(delimiter: str = ",") -> Callable[[str], list[str]]:
    """A function from the text of a row to its cells.

    It raises `ValueError` for a `\\r` outside of quotes, save at the end, where `csv` takes it for the end of the row.
    """
    careful = careful_reader(delimiter)
    quick = partial(csv.reader, delimiter=delimiter)

    def read(row: str) -> list[str]:
        if '"' not in row and "\r" not in row:
            return row.split(delimiter)
        try:
            return next(quick((row,)))
        except csv.Error:  # a cell of more than 131,072 characters is one for it
            return careful(row)

    return read


def careful_reader(delimiter: str = ",") -> Callable[[str], list[str]]:
    """The same with a pattern: it takes 5 times as long, and has no limit for a cell."""
    other = re.escape(delimiter)
    cell = re.compile(rf'(?:"([^"]*(?:""[^"]*)*)"(?!")([^{other}]*)|([^{other}]*))({other}|\Z)')

    def read(row: str) -> list[str]:
        cells: list[str] = []
        position = 0
        while (found := cell.match(row, position)) is not None:
            quoted, behind, plain, end = found.groups("")
            if "\r" in behind or "\r" in plain:
                raise ValueError("a carriage return outside of quotes; rows end with \\n or \\r\\n")
            cells.append(plain or quoted.replace('""', '"') + behind)
            if not end:
                return cells
            position = found.end()
        raise ValueError("a quote that is never closed")

    return read


_encode = msgspec.json.Encoder().encode


class CsvSplitter:
    """Splits chunks of CSV into lines of JSON. Raises `ValueError` for a header that names no fields.

    A row with more or fewer cells than the header, or that is no UTF-8, comes out as an `RejectedInput` with its bytes;
    one over the limit as a `OversizedInput`. A quote that is never closed takes all rows up to the next quote with it.
    """

    def __init__(self, limit: int = LINE_LIMIT, delimiter: str = ",") -> None:
        self._limit = limit
        self._rows = RowSplitter(limit, delimiter)
        self._cells = cell_reader(delimiter)
        self._fields: list[str] | None = None

    def feed(self, chunk: bytes) -> list[bytes]:
        """The rows that a chunk completes."""
        return self._read_all(self._rows.feed(chunk))

    def finish(self) -> list[bytes]:
        """The last row, if the input did not end with a newline."""
        return self._read_all(self._rows.finish())

    def _read_all(self, rows: list[Row]) -> list[bytes]:
        if self._fields is None and rows:
            self._fields = self._header(rows.pop(0))
        return [self._read(row) for row in rows]

    def _read(self, row: Row) -> bytes:
        if row.length > self._limit:
            return OversizedInput.of(row.raw, row.length, self._limit)
        fields = self._fields
        assert fields is not None
        try:
            cells = self._cells(_text(row))
            if len(cells) != len(fields):
                raise ValueError(
                    f"it has {_count(len(cells), 'cell')}, the header names {_count(len(fields), 'field')}"
                )
        except ValueError as error:
            return RejectedInput.of_bytes(row.raw, MalformedRow(row.line, str(error)))
        return _encode(dict(zip(fields, cells, strict=True)))

    def _header(self, row: Row) -> list[str]:
        if row.length > self._limit:
            raise ValueError(f"its header is longer than {self._limit} bytes")
        try:
            fields = self._cells(_text(row))
        except ValueError as error:
            raise ValueError(f"its header is no row: {error}") from None
        for number, field in enumerate(fields):
            if not field.strip():
                raise ValueError(f"its header has no name for column {number + 1}; its first row names the fields")
            if field in fields[:number]:
                raise ValueError(f"its header names the field {field!r} twice")
        return fields


def _text(row: Row) -> str:
    if row.open:
        raise ValueError("a quote that is never closed")
    try:
        return row.raw.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start} of the row") from None


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number != 1 else ''}"
