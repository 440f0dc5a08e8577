"""What is asked of the table of letters. Only who reads needs this: SQLAlchemy takes 150 ms to import."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import Column, Integer, LargeBinary, MetaData, Select, Table, Text, select

from penstock.deadletters.letter import id_at
from penstock.deadletters.rows import COLUMNS, microseconds
from penstock.deadletters.store import Filter

CLOCK_SLACK = timedelta(minutes=1)
"""How far the clock may be set back between a letter's time and its id."""

_NUMBERS = {"seq", "part", "attempts", "input_size", "started_at", "failed_at", "revision"}

LETTERS = Table(
    "letters",
    MetaData(),
    *(
        Column(name, LargeBinary() if name == "input" else Integer() if name in _NUMBERS else Text())
        for name in COLUMNS
    ),
)
"""For queries; the migrations make the table itself."""


def letter_query(id: str) -> Select[Any]:
    """The question for one letter."""
    return select(LETTERS).where(LETTERS.c.id == id)


def page_query(filter: Filter, after: str | None, limit: int) -> Select[Any]:
    """The question for a page. It is read off an index in the order of ids, and sorted never."""
    start = after or ""
    query = select(LETTERS).order_by(LETTERS.c.id).limit(limit)
    if filter.since is not None:
        # SQLite begins at one bound only, so it gets the later one. There is none for `until`: ids never run behind
        # the times of their letters, but they run ahead of a clock that was set back.
        start = max(start, id_at(filter.since, slack=CLOCK_SLACK))
        query = query.where(LETTERS.c.failed_at >= microseconds(filter.since))
    if filter.until is not None:
        query = query.where(LETTERS.c.failed_at < microseconds(filter.until))
    if start:
        query = query.where(LETTERS.c.id > start)
    for name in ("flow", "run", "step", "type", "state"):
        wanted = getattr(filter, name)
        if wanted is not None:
            query = query.where(LETTERS.c[name] == wanted)
    return query
