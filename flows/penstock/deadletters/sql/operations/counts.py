"""Keeps the counts of groups equal to the letters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from sqlalchemy import Connection, and_, bindparam, case, delete, select, update

from penstock.deadletters.sql.dialect import among, insert
from penstock.deadletters.sql.grouping import GroupChange
from penstock.deadletters.sql.table import GROUPS
from penstock.deadletters.store import STATES


class Moves:
    """Collects how many letters of which groups leave and enter which states."""

    def __init__(self) -> None:
        self._deltas: dict[str, Counter[str]] = {}

    def move(self, groups: Iterable[str | None], before: str | None, after: str | None) -> None:
        """Count letters whose state changes. None is the state of letters that are new, deleted or in another group."""
        for group, count in Counter(groups).items():
            if group is not None:
                deltas = self._deltas.setdefault(group, Counter())
                if before is not None:
                    deltas[before] -= count
                if after is not None:
                    deltas[after] += count

    def apply(self, connection: Connection, changes: Sequence[GroupChange] = ()) -> None:
        """Change the counts, and those of groups that get other letters. Deletes groups that have no more letters."""
        self._lock(connection, {*self._deltas, *(change.id for change in changes)})
        rows = [
            {"group": id} | {f"by_{state}": deltas[state] for state in STATES}
            for id, deltas in sorted(self._deltas.items())
            if any(deltas.values())
        ]
        if rows:
            connection.execute(_CHANGE_COUNTS, rows)
        add_letters(connection, changes)
        shrunk = [id for id, deltas in self._deltas.items() if sum(deltas.values()) < 0]
        if shrunk:
            empty = and_(*(GROUPS.c[state] == 0 for state in STATES))
            connection.execute(delete(GROUPS).where(among(GROUPS.c.id, shrunk), empty))

    def _lock(self, connection: Connection, groups: Iterable[str]) -> None:
        if connection.dialect.name != "sqlite":  # which has locked the whole file
            locked = select(GROUPS.c.id).where(among(GROUPS.c.id, groups)).order_by(GROUPS.c.id)
            connection.execute(locked.with_for_update()).all()


_CHANGE_COUNTS = (
    update(GROUPS)
    .where(GROUPS.c.id == bindparam("group"))
    .values({state: GROUPS.c[state] + bindparam(f"by_{state}") for state in STATES})
)


def add_letters(connection: Connection, changes: Sequence[GroupChange]) -> None:
    """Count new letters of groups; adds groups that are new. The changes are sorted by the ids of groups."""
    if not changes:
        return
    statement = insert(connection, GROUPS)
    new = statement.excluded
    earlier, later = new.first_seen < GROUPS.c.first_seen, new.last_seen > GROUPS.c.last_seen
    statement = statement.on_conflict_do_update(
        index_elements=[GROUPS.c.id],
        set_={
            "first_revision": case((earlier, new.first_revision), else_=GROUPS.c.first_revision),
            "first_seen": case((earlier, new.first_seen), else_=GROUPS.c.first_seen),
            "last_seen": case((later, new.last_seen), else_=GROUPS.c.last_seen),
            **{state: GROUPS.c[state] + new[state] for state in STATES},
        },
    )
    names = [column.name for column in GROUPS.columns]
    connection.execute(statement, [dict(zip(names, change.row(), strict=True)) for change in changes])
