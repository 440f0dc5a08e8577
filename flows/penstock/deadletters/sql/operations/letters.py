"""Adds letters, and changes and deletes them by a query or by their ids."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, bindparam, delete, func, insert, select, update

from penstock.deadletters.dead_letter import DeadLetter
from penstock.deadletters.dead_letter_queue import AuditAction, Requester
from penstock.deadletters.sql import dialect
from penstock.deadletters.sql.dialect import among, clock
from penstock.deadletters.sql.grouping import FLOW, GROUP_ID, ID, MESSAGE, STEP, TYPE, changes_of
from penstock.deadletters.sql.operations import group_limit
from penstock.deadletters.sql.operations.audit import Progress, record, record_progress
from penstock.deadletters.sql.operations.counts import Moves, add_letters
from penstock.deadletters.sql.operations.leases import release_expired
from penstock.deadletters.sql.queries import query_json, selection
from penstock.deadletters.sql.rows import COLUMNS, Columns, to_columns
from penstock.deadletters.sql.table import ATTEMPTS, COPIES, EDITS, LETTERS
from penstock.deadletters.store import DeadLetterQuery

CHANGE_LETTERS = 2000
"""Letters changed by one transaction. Between two of them, the writer can commit."""

GROUPED = (FLOW, STEP, TYPE, MESSAGE)
"""The columns that determine the group of a letter."""

UNCLAIMED = ("waiting", "resolved", "parked")


def add(connection: Connection, batches: Sequence[Columns], copies: Sequence[str] = ()) -> Mapping[str, int]:
    """Store letters, count them in their groups, and put them into the outbox; returns how many are new by state."""
    added: list[Columns] = []
    for columns in batches:
        if columns:
            columns[GROUP_ID] = group_limit.assign(connection, *(columns[place] for place in GROUPED))
        if new := _insert_new(connection, columns):
            added.append(new)
    changes = changes_of(added)
    add_letters(connection, changes)
    outbox = [{"copy": copy, "letter_id": id} for columns in added for copy in copies for id in columns[ID]]
    if outbox:
        connection.execute(insert(COPIES), outbox)
    counts: Counter[str] = Counter()
    for change in changes:
        counts.update(change.counts)
    return counts


def _insert_new(connection: Connection, columns: Columns) -> Columns | None:
    """Insert letters; returns those that are new, or None."""
    if not columns:
        return None
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in zip(*columns, strict=True)]
    statement = dialect.insert(connection, LETTERS).on_conflict_do_nothing().returning(LETTERS.c.id)
    new = set(connection.execute(statement, rows).scalars())
    if len(new) == len(rows):
        return columns
    places = {id: at for at, id in enumerate(columns[ID]) if id in new}.values()  # an id that comes twice counts once
    return [[column[at] for at in places] for column in columns] if new else None


def import_letters(
    connection: Connection, letters: Sequence[DeadLetter], requester: Requester, copies: Sequence[str] = ()
) -> int:
    """Store letters whose ids are new; returns how many. Claimed ones wait, because their jobs are elsewhere."""
    columns = to_columns(letters)
    if columns:
        place = COLUMNS.index("state")
        columns[place] = ["waiting" if state == "claimed" else state for state in columns[place]]
    count = sum(add(connection, [columns], copies).values()) if columns else 0
    record(connection, "import", requester, "{}", count=count, outcome=f"skipped {len(letters) - count}")
    return count


def update_state(connection: Connection, ids: Sequence[str], state: str) -> int:
    """Set the state of letters that are not claimed; returns how many."""
    unclaimed = _affected(among(LETTERS.c.id, ids), LETTERS.c.state != "claimed")
    rows = connection.execute(unclaimed.with_for_update()).all()
    _set_state(connection, rows, state)
    return len(rows)


def mark(
    connection: Connection,
    query: DeadLetterQuery,
    state: Literal["waiting", "parked"],
    requester: Requester,
    progress: Progress,
) -> Progress:
    """Park some waiting letters, or make some parked letters wait."""
    release_expired(connection)
    before = "parked" if state == "waiting" else "waiting"
    rows = connection.execute(_next(connection, query, [before])).all()
    _set_state(connection, rows, state)
    now = Progress(progress.count + len(rows), done=len(rows) < CHANGE_LETTERS)
    action: AuditAction = "unpark" if state == "waiting" else "park"
    record_progress(connection, action, requester, query_json(query), progress, now)
    return now


def purge(
    connection: Connection, query: DeadLetterQuery, requester: Requester, copies: Sequence[str], progress: Progress
) -> Progress:
    """Delete some letters that are not claimed, with their histories."""
    release_expired(connection)
    now = delete_letters(connection, query, progress, copies)
    outcome = f"done, {now.uncopied} before they were copied" if now.uncopied else "done"
    record_progress(connection, "purge", requester, query_json(query), progress, now, outcome=outcome)
    return now


def delete_letters(
    connection: Connection, query: DeadLetterQuery, progress: Progress, copies: Sequence[str] = ()
) -> Progress:
    """Delete some letters that are not claimed; counts those that one of some copies does not have yet."""
    rows = connection.execute(_next(connection, query, UNCLAIMED)).all()
    uncopied = 0
    if copies and rows:
        needed = select(LETTERS.c.id).where(among(LETTERS.c.id, [row.id for row in rows]), is_needed(copies))
        uncopied = len(connection.execute(needed).all())
    remove(connection, rows)
    return Progress(progress.count + len(rows), done=len(rows) < CHANGE_LETTERS, uncopied=progress.uncopied + uncopied)


def is_needed(copies: Sequence[str]) -> ColumnElement[bool]:
    """Return the condition that one of some copies does not have a letter yet."""
    needed = select(COPIES.c.letter_id).where(COPIES.c.letter_id == LETTERS.c.id, among(COPIES.c.copy, copies))
    return needed.correlate(LETTERS).exists()


def remove(connection: Connection, rows: Sequence[Any]) -> None:
    """Delete letters (rows of their id, group and state) with all that belongs to them."""
    if not rows:
        return
    ids = [row.id for row in rows]
    for table in (ATTEMPTS, EDITS, COPIES):
        connection.execute(delete(table).where(among(table.c.letter_id, ids)))
    connection.execute(delete(LETTERS).where(among(LETTERS.c.id, ids)))
    moves = Moves()
    for state, same in groupby(sorted(rows, key=lambda row: row.state), key=lambda row: row.state):
        moves.move([row.group_id for row in same], state, None)
    moves.apply(connection)


def edit(
    connection: Connection,
    changes: Mapping[str, bytes],
    requester: Requester,
    query: str | None,
    expected: Mapping[str, bytes] | None,
) -> list[str]:
    """Replace the inputs of waiting or parked letters, and keep the old ones; returns the ids of those changed."""
    release_expired(connection)
    now = clock(connection)
    letters = select(LETTERS.c.id, LETTERS.c.input, LETTERS.c.header).where(
        among(LETTERS.c.id, changes), LETTERS.c.state.in_(("waiting", "parked"))
    )
    rows = connection.execute(letters.order_by(LETTERS.c.id).with_for_update()).all()
    if expected is not None:
        rows = [row for row in rows if row.input == expected.get(row.id)]
    ids = [row.id for row in rows]
    last = select(EDITS.c.letter_id, func.max(EDITS.c.number)).where(among(EDITS.c.letter_id, ids))
    numbers = {row[0]: row[1] for row in connection.execute(last.group_by(EDITS.c.letter_id))}
    if rows:
        connection.execute(
            insert(EDITS),
            [
                {
                    "letter_id": row.id,
                    "number": numbers.get(row.id, 0) + 1,
                    "at": now,
                    "requester": requester.name,
                    "reason": requester.reason,
                    "input": row.input,
                    "header": row.header,
                }
                for row in rows
            ],
        )
        connection.execute(
            _EDIT, [{"letter": id, "new_input": changes[id], "new_size": len(changes[id])} for id in ids]
        )
    record(connection, "edit", requester, query or json.dumps({"ids": list(changes)}), count=len(rows))
    return ids


_EDIT = (
    update(LETTERS)
    .where(LETTERS.c.id == bindparam("letter"))
    .values(input=bindparam("new_input"), input_size=bindparam("new_size"), header=None)
)


def _affected(*conditions: Any) -> Any:
    return select(LETTERS.c.id, LETTERS.c.group_id, LETTERS.c.state).where(*conditions)


def _next(connection: Connection, query: DeadLetterQuery, states: Sequence[str]) -> Any:
    """Select the next letters to change. They no longer match when they were changed, so no cursor is needed."""
    statement = _affected(*selection(connection, query, states)).limit(CHANGE_LETTERS)
    return statement.with_for_update(skip_locked=True)


def _set_state(connection: Connection, rows: Sequence[Any], state: str) -> None:
    changed = [row for row in rows if row.state != state]
    if not changed:
        return
    ids = [row.id for row in changed]
    connection.execute(
        update(LETTERS).where(among(LETTERS.c.id, ids)).values(state=state, changed_at=clock(connection))
    )
    moves = Moves()
    for row in changed:
        moves.move([row.group_id], row.state, state)
    moves.apply(connection)
