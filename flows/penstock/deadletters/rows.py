"""A dead letter as a row of a database table, and back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from penstock.deadletters.letter import Letter, as_json

Values = list[Any]
"""The rows of some letters one after the other, each as its values in the order of `COLUMNS`."""

COLUMNS = Letter.__struct_fields__
"""A column for each field of a letter, of the same name and in the same order."""

WIDTH = len(COLUMNS)
STATE = COLUMNS.index("state")

OPTIONAL = ("part", "key", "cause", "found", "revision")
"""The columns that may hold nothing."""

NOTHING = -0.5
"""Stands for None in a row, on its way to the database; none of those columns has a value like it."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def values_of(letters: Sequence[Letter]) -> Values:
    """Letters as rows: times as microseconds since 1970, which sort as numbers; `key` and `found` as JSON.

    What is no text or no JSON is kept as something that is: a letter that cannot be stored would hold up its
    run for ever. Lone surrogates in the error's texts become escapes, foreign objects in `found` their `repr`.

    The driver looks for an adapter whenever it is given None or `bytes` (CPython 3.11), which costs 0.25 and 0.5 µs
    each, half of all that it does for a row. Hence `NOTHING` and `bytearray`.
    """
    values: Values = []
    started_at = failed_at = None
    started = failed = 0
    for letter in letters:
        if letter.started_at is not started_at:  # one run has one, and letters that were written together the other
            started_at, started = letter.started_at, microseconds(letter.started_at)
        if letter.failed_at is not failed_at:
            failed_at, failed = letter.failed_at, microseconds(letter.failed_at)
        values += (
            letter.id,
            letter.flow,
            letter.run,
            letter.seq,
            letter.step,
            letter.type,
            _text(letter.message),
            bytearray(letter.input),
            letter.input_size,
            started,
            failed,
            NOTHING if letter.part is None else letter.part,
            NOTHING if letter.key is None else _json(letter.key),
            letter.attempts,
            NOTHING if letter.cause is None else _text(letter.cause),
            NOTHING if letter.found is None else _json(letter.found),
            letter.state,
            NOTHING if letter.revision is None else letter.revision,
        )
    return values


def letter_of(row: Sequence[Any]) -> Letter:
    """The letter that a row holds; its times are in UTC."""
    fields = dict(zip(COLUMNS, row, strict=True))
    for name in ("key", "found"):
        if fields[name] is not None:
            fields[name] = json.loads(fields[name])
    for name in ("started_at", "failed_at"):
        fields[name] = _EPOCH + fields[name] * _MICROSECOND
    return Letter(**fields)


def microseconds(time: datetime) -> int:
    """A time with a zone as microseconds since 1970, exact for all years."""
    return (time - _EPOCH) // _MICROSECOND


def _json(value: Any) -> str:
    return as_json(value).decode()


def _text(text: str) -> str:
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()
