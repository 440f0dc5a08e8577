"""Find out whether a letter meets the conditions of a query, for stores that do not use SQL."""

from __future__ import annotations

from penstock.deadletters.dead_letter import DeadLetter
from penstock.deadletters.store import DeadLetterQuery
from penstock.support.json_encoding import encode_json


def matches(letter: DeadLetter, query: DeadLetterQuery) -> bool:
    """Return whether a letter meets all conditions of a query."""
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
        )
    ) and (query.key is None or _is_key(query.key, letter.key))


def _is_key(expected: str | float, key: str | float | None) -> bool:
    """Compare keys. A text equals a number that is written so, too, as in the SQL stores."""
    encoded = encode_json(key).decode()
    return encoded == encode_json(expected).decode() or (isinstance(expected, str) and encoded == expected)
