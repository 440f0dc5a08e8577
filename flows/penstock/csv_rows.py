"""CSV: rows, split from chunks of bytes (RFC 4180).

It reads what Python's `csv` reads, but in pieces and with a limit for rows: there one that is too large, or bad, ends
the whole reading.
"""

from __future__ import annotations

import re
from enum import IntEnum
from typing import NamedTuple

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


class Place(IntEnum):
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
        self._place = Place.START
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
        if self._place in (Place.START, Place.PLAIN) and b'"' not in chunk:
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
        row = self._take()._replace(open=self._place is Place.QUOTED)
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
            self._place = Place.START if last[-1] == self._delimiter else Place.PLAIN
        elif rows:
            self._place = Place.START
        return [row for row in rows if row.length]

    def _end_of_row(self, chunk: bytes, position: int) -> int:
        """The position behind the newline that ends the row; -1 when that is in a later chunk."""
        place, end, newline = self._place, len(chunk), -1
        if not self._length and (whole := self._whole_row.match(chunk, position)) is not None:
            return whole.end()  # most rows are whole; going from quote to quote takes 3 times as long
        while position < end:
            if place is Place.QUOTED:
                position = chunk.find(b'"', position) + 1
                if not position:
                    break
                place = Place.QUOTE
                continue
            opens = place is not Place.PLAIN and chunk[position] == QUOTE
            parts = place is Place.QUOTE and chunk[position] == self._delimiter
            if opens or parts:
                place = Place.QUOTED if opens else Place.START
                position += 1
                continue
            if newline < position:
                newline = chunk.find(b"\n", position)
                newline = end if newline < 0 else newline
            opened = chunk.find(self._opening, position, newline)
            if opened >= 0:
                place, position = Place.QUOTED, opened + 2
            elif newline < end:
                self._place = Place.START
                return newline + 1
            else:
                place, position = (Place.START if chunk[-1] == self._delimiter else Place.PLAIN), end
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
