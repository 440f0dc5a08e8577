"""Computes the groups of new letters, and how these groups change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from msgspec import Struct

from penstock.deadletters.groups import KnownGroups, pattern_in
from penstock.deadletters.sql.rows import COLUMNS, Columns
from penstock.deadletters.store import STATES

ID, FLOW, STEP, TYPE, MESSAGE, STATE, FAILED_AT, REVISION, GROUP_ID = map(
    COLUMNS.index, ("id", "flow", "step", "type", "message", "state", "failed_at", "revision", "group_id")
)


class GroupChange(Struct):
    """New letters of one group: the columns of the table of groups, and the numbers by state."""

    id: str
    flow: str
    step: str
    type: str
    pattern: str
    first_seen: int
    last_seen: int
    first_revision: int | None
    counts: dict[str, int]

    def row(self) -> tuple[object, ...]:
        """Return the values of a row, in the order of the columns."""
        counts = (self.counts.get(state, 0) for state in STATES)
        return (
            *(self.id, self.flow, self.step, self.type, self.pattern),
            *(self.first_seen, self.last_seen, self.first_revision),
            *counts,
        )

    def add(self, other: GroupChange) -> None:
        """Add the letters of another change of the same group."""
        if other.first_seen < self.first_seen:
            self.first_seen, self.first_revision = other.first_seen, other.first_revision
        self.last_seen = max(self.last_seen, other.last_seen)
        for state, count in other.counts.items():
            self.counts[state] = self.counts.get(state, 0) + count


def assign_groups(columns: Columns, known: KnownGroups) -> None:
    """Set the groups of new letters."""
    columns[GROUP_ID] = known.assign(columns[FLOW], columns[STEP], columns[TYPE], columns[MESSAGE])


def changes_of(batches: Iterable[Columns]) -> list[GroupChange]:
    """Return how letters that are all new change their groups, in the order of the groups' ids.

    All processes change groups in that order, so that none of them waits for another in a circle.
    """
    changes: dict[str, GroupChange] = {}
    for columns in batches:
        for change in _changes(columns):
            if (known := changes.setdefault(change.id, change)) is not change:
                known.add(change)
    return sorted(changes.values(), key=lambda change: change.id)


def _changes(columns: Columns) -> Iterable[GroupChange]:
    groups, times = columns[GROUP_ID], columns[FAILED_AT]
    if not groups:
        return ()
    first = dict(zip(reversed(groups), range(len(groups) - 1, -1, -1), strict=True))
    changes = {
        id: GroupChange(
            *_description(id, columns[FLOW][at], columns[STEP][at], columns[TYPE][at], columns[MESSAGE][at]),
            *(times[at], times[at], columns[REVISION][at]),
            {},
        )
        for id, at in first.items()
    }
    states = columns[STATE]
    if len(changes) == 1 and states.count(states[0]) == len(states):
        changes[groups[0]].counts[states[0]] = len(states)
    else:
        for (id, state), count in Counter(zip(groups, states, strict=True)).items():
            changes[id].counts[state] = count
    if times.count(times[0]) != len(times):  # letters that failed together have one time
        _widen(changes, groups, times, columns[REVISION])
    return changes.values()


def _description(id: str, flow: str, step: str, type: str, message: str) -> tuple[str, str, str, str, str]:
    return id, flow, step, type, pattern_in(id, flow, step, type, message)


def _widen(
    changes: dict[str, GroupChange], groups: Sequence[str], times: Sequence[int], revisions: Sequence[int | None]
) -> None:
    for id, time, revision in zip(groups, times, revisions, strict=True):
        change = changes[id]
        if time < change.first_seen:
            change.first_seen, change.first_revision = time, revision
        elif time > change.last_seen:
            change.last_seen = time
