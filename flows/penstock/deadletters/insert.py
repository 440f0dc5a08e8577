"""The one statement that stores a group of letters, and its values as the driver takes them fastest."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import chain
from typing import Any

from penstock.deadletters.rows import COLUMNS, Columns

GROUP = 512
"""Letters in one statement at most; SQLite allows 32,766 values, these are 9,216."""

WIDTH = len(COLUMNS)
STATE = COLUMNS.index("state")
INPUT = COLUMNS.index("input")

OPTIONAL = tuple(COLUMNS.index(name) for name in ("part", "key", "cause", "found", "revision"))
"""The columns that may hold nothing."""

NOTHING = -0.5
"""Stands for None on its way to the database; none of those columns has a value like it."""


def values_of(calls: Sequence[Columns]) -> list[Any]:
    """The letters of all callers as rows, one after the other, each as its values in the order of `COLUMNS`.

    The driver looks for an adapter whenever it is given None or `bytes` (CPython 3.11), which costs 0.25 and 0.5 µs
    each, half of all that it does for a row. Hence `NOTHING` and `bytearray`.
    """
    values = list(chain.from_iterable(row for columns in calls for row in zip(*columns, strict=True)))
    values[INPUT::WIDTH] = map(bytearray, values[INPUT::WIDTH])
    for place in OPTIONAL:
        values[place::WIDTH] = [NOTHING if value is None else value for value in values[place::WIDTH]]
    return values


@cache
def insert_of(size: int) -> str:
    """The statement for so many rows. Letters that are there already are passed over."""
    row = f"({','.join(f'nullif(?,{NOTHING})' if place in OPTIONAL else '?' for place in range(WIDTH))})"
    return f"INSERT INTO letters ({','.join(COLUMNS)}) VALUES {','.join([row] * size)} ON CONFLICT (id) DO NOTHING"  # noqa: S608 - no input
