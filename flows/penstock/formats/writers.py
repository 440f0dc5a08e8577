"""Values as the bytes of a file: a line of NDJSON or a row of CSV each; one that cannot be written is refused alone."""

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

Refusals = Sequence[Exception | None] | None
"""For each value why it was not written; None when all were."""


class Writer(Protocol):
    """How values become bytes."""

    def write(self, values: Sequence[Any]) -> tuple[bytes, Refusals]: ...


class NdjsonWriter:
    """A line a value."""

    def write(self, values: Sequence[Any]) -> tuple[bytes, Refusals]:
        """The lines of the values that can be written, and what is to be said of the others."""
        try:
            lines = [_encode(value) + b"\n" for value in values]
            data = b"".join(lines)
            if may_contain_null(data):
                for value, line in zip(values, lines, strict=True):
                    if may_contain_null(line):
                        reject_non_finite(value)
            return data, None
        except Exception:  # one of them cannot be written; which one, the slow way finds out
            return one_by_one(values, _line)


class CsvWriter:
    """A row a value. The columns are the given ones, or the fields of the first value; a header comes before it."""

    def __init__(self, columns: Sequence[str] | None = None, *, header: bool = True) -> None:
        self._columns = None if columns is None else tuple(columns)
        self._named = columns is not None
        self._header = header
        self._text = io.StringIO(newline="")
        self._csv = csv.writer(self._text)  # whose rows end with \r\n, as RFC 4180 has it

    def write(self, values: Sequence[Any]) -> tuple[bytes, Refusals]:
        """The rows of the values that can be written, and what is to be said of the others."""
        rows, refusals = one_by_one(values, self._row)
        if rows and self._header:
            assert self._columns is not None
            self._header = False
            rows = self._line(self._columns) + rows
        return rows, refusals

    def _row(self, value: Any) -> bytes:
        fields = msgspec.to_builtins(value)
        if not isinstance(fields, Mapping):
            raise TypeError("it has no fields; a row of CSV is made of an object")
        fields = cast("Mapping[str, Any]", fields)
        columns = self._columns or tuple(fields)
        if not columns:
            raise TypeError("it has no fields; a row of CSV needs at least one")
        missing = [column for column in columns if column not in fields]
        unknown = [field for field in fields if field not in columns]
        if missing or unknown:
            raise ColumnMismatch(missing, unknown, named=self._named)
        row = self._line([_cell(fields[column]) for column in columns])
        self._columns = columns
        return row

    def _line(self, cells: Sequence[str]) -> bytes:
        self._text.seek(0)
        self._text.truncate()
        self._csv.writerow(cells)
        return self._text.getvalue().encode()


def make_writer(format: Format, fields: Sequence[str] | None = None, *, header: bool = True) -> Writer:
    """What writes values in a format."""
    return CsvWriter(fields, header=header) if format is Format.CSV else NdjsonWriter()


def check_fields(format: Format, fields: Sequence[str] | None) -> tuple[str, ...] | None:
    """The columns that were asked for. Raises `FlowDefinitionError` for what cannot be columns."""
    if fields is None:
        return None
    if format is not Format.CSV:
        raise FlowDefinitionError(
            f"fields are the columns of CSV, got {list(fields)!r} for {format}; say the format csv to have them"
        )
    columns = tuple(fields)
    if isinstance(fields, str) or not columns or len(set(columns)) < len(columns) or not all(columns):
        raise FlowDefinitionError(f"fields are the names of the columns, at least one, none twice, got {fields!r}")
    return columns


def one_by_one(values: Sequence[Any], write: Callable[[Any], bytes]) -> tuple[bytes, Refusals]:
    """The bytes of each value that can be written; the others are refused alone."""
    written: list[bytes] = []
    refusals: list[Exception | None] = []
    for value in values:
        try:
            written.append(write(value))
            refusals.append(None)
        except ColumnMismatch as error:
            refusals.append(error)
        except Exception as error:
            refusal = EncodingFailed(f"the value cannot be written: {describe(error)}")
            refusal.__cause__ = error
            refusals.append(refusal)
    return b"".join(written), refusals if any(refusals) else None


def _json(value: Any) -> bytes:
    data = _encode(value)
    if may_contain_null(data):
        reject_non_finite(value)
    return data


def _line(value: Any) -> bytes:
    return _json(value) + b"\n"


def _cell(value: Any) -> str:
    """A text as it is, nothing as nothing, anything else as JSON."""
    if isinstance(value, str):
        return value
    return "" if value is None else _json(value).decode()
