"""Conversion of dead letters to columns of a database table, and back."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from msgspec.structs import astuple

from penstock.deadletters.dead_letter import DeadLetter
from penstock.support.json_encoding import encode_json_each
from penstock.support.text import sanitize

Columns = list[Sequence[Any]]
"""Letters as they are stored: for each of `COLUMNS`, the values of all letters."""

FIELDS = DeadLetter.__struct_fields__

_RENAMED = {"partial_results": "found", "group": "group_id"}

COLUMNS = tuple(_RENAMED.get(name, name) for name in FIELDS)
"""The column of each field of a letter, in the same order. Columns keep their names when fields are renamed."""

_JSON = [COLUMNS.index(name) for name in ("key", "found")]
_TIMES = [COLUMNS.index(name) for name in ("started_at", "failed_at")]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def to_columns(letters: Sequence[DeadLetter]) -> Columns:
    """Convert letters to columns: times to microseconds since 1970, `key` and `partial_results` to JSON.

    Text that is not valid Unicode and values that JSON cannot represent are replaced, because a letter that cannot be
    stored would block its run. Lone surrogates in texts become escapes, foreign objects become their `repr`.

    The conversion works by columns, so that C code converts many values at once: 0.35 µs a letter instead of 0.55.
    """
    if not letters:
        return []
    columns: dict[str, Sequence[Any]] = dict(zip(COLUMNS, zip(*map(astuple, letters), strict=True), strict=True))
    for name, encode in _ENCODERS.items():
        columns[name] = encode(columns[name])
    return list(columns.values())


def from_row(row: Sequence[Any]) -> DeadLetter:
    """Convert a row to a letter. Its times are in UTC."""
    values = list(row)
    for column in _JSON:
        if values[column] is not None:
            values[column] = json.loads(values[column])
    for column in _TIMES:
        values[column] = from_microseconds(values[column])
    return DeadLetter(*values)


def to_microseconds(time: datetime) -> int:
    """Convert a time with a zone to microseconds since 1970. Exact for all years."""
    return (time - _EPOCH) // _MICROSECOND


def from_microseconds(number: int) -> datetime:
    """Convert microseconds since 1970 to a time in UTC."""
    return _EPOCH + number * _MICROSECOND


def _encode_times(column: Sequence[datetime]) -> Sequence[int]:
    previous: datetime | None = None
    numbers: list[int] = []
    number = 0
    for time in column:
        if time is not previous:  # letters of one run share their start, letters created together their time
            previous, number = time, to_microseconds(time)
        numbers.append(number)
    return numbers


def _encode_json(column: Sequence[Any]) -> Sequence[str | None]:
    return [None if value is None else text for value, text in zip(column, encode_json_each(column), strict=True)]


def _escape_surrogates(column: Sequence[str | None]) -> Sequence[str | None]:
    if "".join(filter(None, column)).isascii():
        return column
    return [text and sanitize(text) for text in column]


_ENCODERS: dict[str, Callable[[Sequence[Any]], Sequence[Any]]] = {
    "step": _escape_surrogates,
    "message": _escape_surrogates,
    "cause": _escape_surrogates,
    "header": _escape_surrogates,
    "origin": _escape_surrogates,
    "key": _encode_json,
    "found": _encode_json,
    "started_at": _encode_times,
    "failed_at": _encode_times,
}
"""The columns whose values are stored in another form."""
