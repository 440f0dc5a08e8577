"""Encode values as lines of NDJSON or rows of CSV. A value that cannot be encoded is rejected alone."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, cast

import msgspec

from penstock.errors import ColumnMismatch, EncodingFailed, FlowDefinitionError, describe
from penstock.formats.format import Format
from penstock.support.json_encoding import may_contain_null, reject_non_finite

_encode = msgspec.json.Encoder().encode

WriteErrors = Sequence[Exception | None] | None
"""The error of each value, or None if it was written; None alone if all were written."""


class Writer(Protocol):
    """Encodes values as bytes."""

    def write(self, values: Sequence[Any]) -> tuple[bytes, WriteErrors]: ...


class NdjsonWriter:
    """Writes one value per line."""

    def write(self, values: Sequence[Any]) -> tuple[bytes, WriteErrors]:
        """Return the lines of the values that can be written, and the errors of the others."""
        try:
            lines = [_encode(value) + b"\n" for value in values]
            data = b"".join(lines)
            if may_contain_null(data):
                for value, line in zip(values, lines, strict=True):
                    if may_contain_null(line):
                        reject_non_finite(value)
            return data, None
        except Exception:  # one value cannot be written; find out which one
            return one_by_one(values, _line)


class CsvWriter:
    """Writes one value per row. Columns are the given ones or the fields of the first value, after a header."""

    def __init__(self, columns: Sequence[str] | None = None, *, header: bool = True) -> None:
        self._columns = None if columns is None else tuple(columns)
        self._explicit = columns is not None
        self._header = header
        self._text = io.StringIO(newline="")
        self._csv = csv.writer(self._text)  # its rows end with \r\n, as in RFC 4180

    def write(self, values: Sequence[Any]) -> tuple[bytes, WriteErrors]:
        """Return the rows of the values that can be written, and the errors of the others."""
        rows, refusals = one_by_one(values, self._row)
        if rows and self._header:
            assert self._columns is not None
            self._header = False
            rows = self._line(self._columns) + rows
        return rows, refusals

    def _row(self, value: Any) -> bytes:
        fields = msgspec.to_builtins(value)
        if not isinstance(fields, Mapping):
            raise TypeError("expected an object with fields for a CSV row")
        fields = cast("Mapping[str, Any]", fields)
        columns = self._columns or tuple(fields)
        if not columns:
            raise TypeError("expected an object with at least one field for a CSV row")
        missing = [column for column in columns if column not in fields]
        unknown = [field for field in fields if field not in columns]
        if missing or unknown:
            raise ColumnMismatch(missing, unknown, explicit=self._explicit)
        row = self._line([_cell(fields[column]) for column in columns])
        self._columns = columns
        return row

    def _line(self, cells: Sequence[str]) -> bytes:
        self._text.seek(0)
        self._text.truncate()
        self._csv.writerow(cells)
        return self._text.getvalue().encode()


def make_writer(format: Format, fields: Sequence[str] | None = None, *, header: bool = True) -> Writer:
    """Create a writer for a format."""
    return CsvWriter(fields, header=header) if format is Format.CSV else NdjsonWriter()


def check_fields(format: Format, fields: Sequence[str] | None) -> tuple[str, ...] | None:
    """Check the columns of a CSV writer. Raises `FlowDefinitionError` for invalid ones."""
    if fields is None:
        return None
    if format is not Format.CSV:
        raise FlowDefinitionError(
            f"fields: expected only with CSV, got {list(fields)!r} for {format}; set the format to csv"
        )
    columns = tuple(fields)
    if isinstance(fields, str) or not columns or len(set(columns)) < len(columns) or not all(columns):
        raise FlowDefinitionError(f"fields: expected the names of the columns, each once, got {fields!r}")
    return columns


def one_by_one(values: Sequence[Any], write: Callable[[Any], bytes]) -> tuple[bytes, WriteErrors]:
    """Encode values one by one. Return the bytes of those that can be written, and the errors of the others."""
    written: list[bytes] = []
    errors: list[Exception | None] = []
    for value in values:
        try:
            written.append(write(value))
            errors.append(None)
        except ColumnMismatch as error:
            errors.append(error)
        except Exception as error:
            failure = EncodingFailed(f"the value cannot be written: {describe(error)}")
            failure.__cause__ = error
            errors.append(failure)
    return b"".join(written), errors if any(errors) else None


def _json(value: Any) -> bytes:
    data = _encode(value)
    if may_contain_null(data):
        reject_non_finite(value)
    return data


def _line(value: Any) -> bytes:
    return _json(value) + b"\n"


def _cell(value: Any) -> str:
    """Encode a cell: text unchanged, None as an empty cell, anything else as JSON."""
    if isinstance(value, str):
        return value
    return "" if value is None else _json(value).decode()
