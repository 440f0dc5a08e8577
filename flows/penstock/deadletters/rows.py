"""A dead letter as a row of a database table, and back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from penstock.deadletters.letter import Letter, as_json

Row = tuple[Any, ...]
"""The values of a letter in the order of `COLUMNS`."""

COLUMNS = Letter.__struct_fields__
"""A column for each field of a letter, of the same name and in the same order."""

STATE = COLUMNS.index("state")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def rows_of(letters: Sequence[Letter]) -> list[Row]:
    """Letters as rows: times as microseconds since 1970, which sort as numbers; `key` and `found` as JSON.

    What is no text or no JSON is kept as something that is: a letter that cannot be stored would hold up its
    run for ever. Lone surrogates in the error's texts become escapes, foreign objects in `found` their `repr`.
    """
    return [
        (
            letter.id,
            letter.flow,
            letter.run,
            letter.seq,
            letter.part,
            _json(letter.key),
            letter.step,
            letter.type,
            _text(letter.message),
            letter.attempts,
            letter.cause and _text(letter.cause),
            letter.input,
            letter.input_size,
            _json(letter.found),
            letter.state,
            microseconds(letter.started_at),
            microseconds(letter.failed_at),
            letter.revision,
        )
        for letter in letters
    ]


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


def _json(value: Any) -> str | None:
    return None if value is None else as_json(value).decode()


def _text(text: str) -> str:
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()
