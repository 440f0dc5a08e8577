"""The INSERT of many letters in one statement, with as few values as possible."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache
from itertools import chain
from typing import Any

from penstock.deadletters.sql.rows import COLUMNS, Columns

INPUT = COLUMNS.index("input")

OPTIONAL = {COLUMNS.index(name) for name in ("part", "key", "cause", "found", "revision", "header", "origin")}

SHARED = [
    {COLUMNS.index(name) for name in names}
    for names in (("flow", "run", "started_at", "state", "revision"), ("step", "type", "message", "group_id"))
]
"""Columns in which all letters of a statement often have the same values, which are then bound once."""

EMPTY = [
    {COLUMNS.index(name): value for name, value in columns}
    for columns in (
        (("part", None), ("header", None), ("origin", None), ("redrives", 0)),
        (("cause", None),),
        (("found", None),),
    )
]
"""Columns that are left out if all letters of a statement have these values, which are the defaults."""

# The driver searches for an adapter whenever it is passed None or `bytes` (CPython 3.11): 0.25 and 0.5 µs each, half
# of its time for a row. So None is passed as NULL_MARKER, which no optional column contains, and bytes as `bytearray`.
NULL_MARKER = -0.5


NUMBERED = sys.version_info < (3, 12)
"""Whether the driver takes a list for placeholders with numbers (`?1`). Later versions want a dict, by "1", "2" …"""


def insert_of(columns: Columns) -> tuple[str, list[Any] | dict[str, Any]]:
    """Return the statement that inserts letters and skips those whose ids or origins exist, and its values.

    It has few forms and few sizes, so that SQLite keeps it prepared: the last letter is repeated, which stores nothing.
    """
    count = len(columns[0])
    empty = {c for group in EMPTY if all(columns[c].count(v) == count for c, v in group.items()) for c in group}
    shared = {c for group in SHARED if all(columns[c].count(columns[c][0]) == count for c in group) for c in group}
    values = [_bindable(column, columns[column][:1]) for column in sorted(shared)]
    each = [_bindable(c, columns[c]) for c in range(len(COLUMNS)) if c not in shared and c not in empty]
    rows = list(zip(*each, strict=True))
    size = count if count <= 4 else -(-count // 32) * 32
    rows += rows[-1:] * (size - count)
    bound = list(chain(*values, *rows))
    return _statement(size, frozenset(shared), frozenset(empty)), bound if NUMBERED else dict(
        zip(_names(), bound, strict=False)
    )


@cache
def _names() -> tuple[str, ...]:
    """Return the names of all placeholders that SQLite allows."""
    return tuple(map(str, range(1, 32_767)))


def _bindable(column: int, values: Sequence[Any]) -> Sequence[Any]:
    if column == INPUT:
        return list(map(bytearray, values))
    if column in OPTIONAL and None in values:
        return [NULL_MARKER if value is None else value for value in values]
    return values


@cache
def _statement(rows: int, shared: frozenset[int], empty: frozenset[int]) -> str:
    """Build the statement. The values of shared columns come first; then those of the others, row by row.

    NULL_MARKER becomes NULL by CASE: with a function such as `nullif`, SQLite writes the pages that the statement
    changes to a temporary file, in case that the function fails.
    """
    inserted = [column for column in range(len(COLUMNS)) if column not in empty]
    places = {column: place for place, column in enumerate(sorted(shared), 1)}
    number = len(places)
    lines: list[str] = []
    for _ in range(rows):
        line: list[str] = []
        for column in inserted:
            if column not in shared:
                number += 1
            place = places.get(column, number)
            line.append(
                f"CASE ?{place} WHEN {NULL_MARKER} THEN NULL ELSE ?{place} END" if column in OPTIONAL else f"?{place}"
            )
        lines.append(f"({','.join(line)})")
    names = ",".join(COLUMNS[column] for column in inserted)
    return f"INSERT OR ROLLBACK INTO letters ({names}) VALUES {','.join(lines)} ON CONFLICT DO NOTHING"  # noqa: S608 - no input
