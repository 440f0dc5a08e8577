"""Encode values as rows of a table: for each column the text that PostgreSQL reads as a value of its type."""

from __future__ import annotations

import re
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

_NEEDS_ESCAPES = re.compile(r"[\\\n\r]").search
"""Finds such a character other than a tab."""

_encode = msgspec.json.Encoder(decimal_format="number").encode


class Column(NamedTuple):
    """A column of a table."""

    name: str
    type: str
    """As `format_type` writes it, without length and precision: `integer`, `text[]`."""
    category: str
    """`pg_type.typcategory`: A for arrays. The type of a domain is that of its base type."""
    is_json: bool = False


Row = tuple[int, Cells]
"""The position of a value in the write, and its cells."""

Group = tuple[tuple[Column, ...], list[Row]]
"""Rows with the same columns."""


def group_rows(
    values: Sequence[Any],
    columns: Mapping[str, Column],
    *,
    selected: Sequence[str] | None = None,
    unique: Sequence[str] = (),
) -> tuple[Sequence[Group], Sequence[tuple[int, Exception]]]:
    """Encode values as rows. Return those with the same columns together, and the errors of the others.

    `selected` are the fields to write; None: all. A group has one row only for each value of the columns `unique`, in
    the notation of the values; later rows are in later groups.
    """
    groups: dict[tuple[int, tuple[str, ...]], list[Row]] = {}
    errors: list[tuple[int, Exception]] = []
    seen: dict[tuple[Any, ...], int] = {}
    for number, value in enumerate(values):
        try:
            fields = _fields_of(value, selected)
            cells = _encode_fields(fields, columns)
        except Exception as error:
            errors.append((number, error))
            continue
        names = tuple(fields)
        turn = 0
        if unique and all(name in fields for name in unique):
            key = tuple(cells[names.index(name)] for name in unique)
            turn = seen[key] = seen.get(key, -1) + 1
        groups.setdefault((turn, names), []).append((number, cells))
    ordered = sorted(groups.items(), key=lambda group: group[0][0])
    return [(tuple(columns[name] for name in names), rows) for (_, names), rows in ordered], errors


def copy_line(cells: Cells) -> str:
    """Return a line in the text format of COPY."""
    known = [cell for cell in cells if cell is not None]
    line = "\t".join(known)
    if not _NEEDS_ESCAPES(line) and line.count("\t") == len(known) - 1:  # the usual case, in a third of the time
        return "\t".join(["\\N" if cell is None else cell for cell in cells]) + "\n"
    return "\t".join(["\\N" if cell is None else cell.translate(_ESCAPES) for cell in cells]) + "\n"


def _fields_of(value: Any, selected: Sequence[str] | None) -> Mapping[str, Any]:
    """Return the fields of a dict, a Struct, a dataclass or any other object that msgspec converts to one."""
    fields = msgspec.to_builtins(value, builtin_types=_PYTHON_TYPES)
    if not isinstance(fields, dict):
        raise TypeError("expected an object, whose fields are the columns")
    known = cast("dict[str, Any]", fields)
    if selected is not None:
        known = {name: known[name] for name in selected if name in known}
    if not known:
        raise ValueError("the value has none of the columns")
    return known


def _encode_fields(fields: Mapping[str, Any], columns: Mapping[str, Column]) -> Cells:
    try:
        return tuple([_encode_cell(value, columns[name]) for name, value in fields.items()])
    except KeyError:
        unknown = ", ".join(str(name) for name in fields if name not in columns)
        raise ValueError(f"there is no column {unknown}; name the fields to write: columns=[…]") from None


def _encode_cell(value: Any, column: Column) -> str | None:
    """Return the text of a value for a column, or None for NULL. Raises `ValueError` for one that cannot fit."""
    if value is None:
        return None
    if column.is_json:
        return _json(value)
    kind = cast("type[object]", type(value))
    if kind is str:
        return _text(value)
    if kind is int or kind is float:
        return str(value)
    if kind in (list, tuple) and column.category == "A":
        return _array(value, json=column.type.startswith("json"))
    return _scalar(value, column)


def _scalar(value: Any, column: Column) -> str:
    match value:
        case str():
            return _text(value)
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


def _text(value: str) -> str:
    """Return a text. Raises `ValueError` for one that PostgreSQL cannot store."""
    if "\0" in value:
        raise ValueError("PostgreSQL cannot store the character NUL")
    if not value.isascii():
        value.encode()  # raises for a lone surrogate
    return value


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
