"""Encode values as rows of a table: for each column the text that PostgreSQL reads as a value of its type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, NamedTuple, cast
from uuid import UUID

import msgspec

from penstock.support.json_encoding import may_contain_null, reject_non_finite

Cells = tuple[str | None, ...]
"""The texts of one row. None is NULL."""

_PYTHON_TYPES = (datetime, date, time, timedelta, Decimal, UUID, bytes)
"""Types that are not converted to JSON: PostgreSQL has its own texts for them."""

_ESCAPES = str.maketrans({"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"})
"""Characters with a meaning in the text format of COPY."""

_encode = msgspec.json.Encoder(decimal_format="number").encode


class Column(NamedTuple):
    """A column of a table."""

    name: str
    type: str
    """As `format_type` writes it, without length and precision: `integer`, `text[]`."""
    category: str
    """`pg_type.typcategory`: A for arrays. The type of a domain is that of its base type."""


def fields_of(value: Any) -> Mapping[str, Any]:
    """Return the fields of a dict, a Struct, a dataclass or any other object that msgspec converts to one.

    Raises `TypeError` or `ValueError` for other values.
    """
    fields = msgspec.to_builtins(value, builtin_types=_PYTHON_TYPES)
    if not isinstance(fields, dict):
        raise TypeError("expected an object, whose fields are the columns")
    return {str(name): field for name, field in cast("dict[object, Any]", fields).items()}


def encode_cell(value: Any, column: Column) -> str | None:
    """Return the text of a value for a column, or None for NULL. Raises `ValueError` for one that cannot fit."""
    if value is None:
        return None
    if column.type in ("json", "jsonb"):
        return _json(value)
    if isinstance(value, list | tuple) and column.category == "A":
        return _array(cast("Sequence[Any]", value), json=column.type.startswith("json"))
    return _scalar(value, column)


def copy_line(cells: Cells) -> str:
    """Return a line in the text format of COPY."""
    return "\t".join("\\N" if cell is None else cell.translate(_ESCAPES) for cell in cells) + "\n"


def _scalar(value: Any, column: Column) -> str:
    match value:
        case str():
            value.encode()  # a lone surrogate would fail the whole batch
            return value
        case bool():
            return "true" if value else "false"
        case int() | float() | Decimal() | UUID():
            return str(value)
        case datetime() | date() | time():
            return value.isoformat()
        case timedelta():
            return f"{value.days} days {value.seconds}.{value.microseconds:06} seconds"
        case bytes():
            return f"\\x{value.hex()}"
        case _:
            kind = "an object" if isinstance(value, dict) else "an array"
            raise ValueError(f"{column.name}: expected a value of type {column.type}, got {kind}")


def _json(value: Any) -> str:
    data = _encode(value)
    if may_contain_null(data):
        reject_non_finite(value)
    return data.decode()


def _array(values: Sequence[Any], *, json: bool) -> str:
    """Return an array as PostgreSQL reads it: `{"a",NULL,{"b"}}`."""
    parts: list[str] = []
    for value in values:
        if value is None:
            parts.append("NULL")
        elif not json and isinstance(value, list | tuple):
            parts.append(_array(cast("Sequence[Any]", value), json=False))
        else:
            text = _json(value) if json else _scalar(value, _ELEMENT)
            parts.append('"{}"'.format(text.replace("\\", "\\\\").replace('"', '\\"')))
    return f"{{{','.join(parts)}}}"


_ELEMENT = Column("array", "its elements", "")
