"""The outbox: which copies of a store still need which letters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, and_, delete, func, or_, select, update

from penstock.deadletters.dead_letter import DeadLetter
from penstock.deadletters.sql.dialect import among, clock
from penstock.deadletters.sql.queries import select_letters
from penstock.deadletters.sql.rows import from_row
from penstock.deadletters.sql.table import COPIES
from penstock.deadletters.store import PageBuilder

FETCH_ROWS = 32
"""Letters fetched at a time: a thousand letters may be a gigabyte."""


def take_uncopied(connection: Connection, copy: str, count: int, lease: float) -> list[DeadLetter]:
    """Lease letters that a copy needs, oldest first, as many as fit on a page. Removes those that were deleted."""
    now = clock(connection)
    free = (
        select(COPIES.c.letter_id)
        .where(COPIES.c.copy == copy, or_(COPIES.c.leased_until.is_(None), COPIES.c.leased_until <= now))
        .order_by(COPIES.c.letter_id)
        .limit(count)
        .with_for_update(skip_locked=True)  # SQLite has no such clause, and has locked the whole file
    )
    ids = list(connection.execute(free).scalars())
    page = PageBuilder(count)
    taken: list[str] = []
    for start in range(0, len(ids), FETCH_ROWS):
        chunk = ids[start : start + FETCH_ROWS]
        letters = sorted(map(from_row, connection.execute(select_letters(chunk))), key=lambda letter: letter.id)
        if gone := set(chunk) - {letter.id for letter in letters}:
            mark_copied(connection, copy, list(gone))
        added = [letter.id for letter in letters if page.add(letter)]
        taken += added
        if len(added) < len(letters):
            break
    _lease(connection, copy, taken, now + int(lease * 1e6))
    return page.page(more=False).letters


def mark_copied(connection: Connection, copy: str, ids: Sequence[str]) -> None:
    """Remove letters that a copy has."""
    connection.execute(delete(COPIES).where(COPIES.c.copy == copy, among(COPIES.c.letter_id, ids)))


def postpone_uncopied(connection: Connection, copy: str, ids: Sequence[str], seconds: float) -> None:
    """Let the lease of letters end in some seconds."""
    _lease(connection, copy, ids, clock(connection) + int(seconds * 1e6))


def count_uncopied(connection: Connection) -> Mapping[str, int]:
    """Count the letters that each copy needs."""
    rows = connection.execute(select(COPIES.c.copy, func.count()).group_by(COPIES.c.copy))
    return {copy: number for copy, number in rows}  # noqa: C416 - a row is no tuple for type checkers


def _lease(connection: Connection, copy: str, ids: Sequence[str], until: int) -> None:
    matches = and_(COPIES.c.copy == copy, among(COPIES.c.letter_id, ids))
    connection.execute(update(COPIES).where(matches).values(leased_until=until))
