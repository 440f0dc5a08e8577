"""Find out whether a letter meets the conditions of a query, for stores that do not use SQL."""

from __future__ import annotations

from penstock.deadletters.dead_letter import DeadLetter
from penstock.deadletters.store import DeadLetterQuery


def matches(letter: DeadLetter, query: DeadLetterQuery) -> bool:
    """Check a letter against all conditions of a query."""
    if query.since is not None and letter.failed_at < query.since:
        return False
    if query.until is not None and letter.failed_at >= query.until:
        return False
    if query.min_seq is not None and letter.seq < query.min_seq:
        return False
    if query.ids is not None and letter.id not in query.ids:
        return False
    return all(
        expected is None or expected == actual
        for expected, actual in (
            (query.flow, letter.flow),
            (query.run, letter.run),
            (query.step, letter.step),
            (query.type, letter.type),
            (query.state, letter.state),
            (query.group, letter.group),
            (query.key, letter.key),
        )
    )
