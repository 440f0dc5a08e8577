"""CSV as lines of JSON: each row becomes an object whose values are the texts of its cells.

So a row is read, checked and, when it fails, run again like a line of NDJSON: a dead letter holds the object, which
needs no header to be understood.
"""

from __future__ import annotations

import msgspec

from penstock.csv_cells import cell_reader
from penstock.csv_rows import Row, RowSplitter
from penstock.errors import BadRow
from penstock.sources.ndjson import LINE_LIMIT
from penstock.sources.source import LongLine, Unreadable

_encode = msgspec.json.Encoder().encode


class CsvSplitter:
    """Splits chunks of CSV into lines of JSON. Raises `ValueError` for a header that names no fields.

    A row with more or fewer cells than the header, or that is no UTF-8, comes out as an `Unreadable` with its bytes;
    one over the limit as a `LongLine`. A quote that is never closed takes all rows up to the next quote with it.
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
            return LongLine.of(row.raw, row.length, self._limit)
        fields = self._fields
        assert fields is not None
        try:
            cells = self._cells(_text(row))
            if len(cells) != len(fields):
                raise ValueError(
                    f"it has {_count(len(cells), 'cell')}, the header names {_count(len(fields), 'field')}"
                )
        except ValueError as error:
            return Unreadable.of_bytes(row.raw, BadRow(row.line, str(error)))
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
