"""Fingerprints of failures: letters with the same flow, step, error type and message pattern form a group."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from hashlib import blake2b

VERSION = 1
"""The version of the fingerprint, the first part of every group id. It changes when the pattern of a message would."""

PATTERN_LIMIT = 2000
"""Characters of a message that are considered, and the maximum length of a pattern."""

CACHED = 1024
"""Messages whose patterns and fingerprints are kept: most failures repeat the same few messages."""

GROUP_LIMIT = 1000
"""Maximum groups of one flow, step and error type. Letters with further messages form one group together."""

OTHER = "(other messages)"
"""The pattern of that group."""

RELOAD_SECONDS = 10.0
"""How often the groups are read again while the limit is reached: some may have been deleted."""

# Each alternative begins where a token begins, and gives no characters back (`*+`), so the time is linear in the length
# of the message. An apostrophe in a word, as in "can't", does not begin a quoted text.
_VARIABLE = re.compile(
    r"""
      (?P<quoted> "[^"]*" | `[^`]*` | “[^“”]*” | «[^«»]*» | (?<!\w)'[^']*'(?!\w) )
    | (?<![\w-])[^\W\d]*+(?:-++[^\W\d]*+)*+\d[\w-]*+  # numbers, and words with a digit: UUIDs, order-17, 2030-01-31T12
    | (?<![\w-])[a-fA-F]{8,}+(?![\w-])  # hexadecimal ids without a digit
    | (?<![\w+/=])[\w+/=]{40,}+  # keys and other long tokens
    """,
    re.VERBOSE,
)

_NUMBERS = re.compile(r"[-+]?#(?:[.,:;/+-]*+[ ]?[-+]?#)*+")
"""Several numbers in a row, such as the parts of a time, an address or a list: any count of them is one."""


def fingerprint(flow: str, step: str, type: str, message: str) -> str:
    """Return the id of the group of a failure: the version, a dash and a hash, such as `1-5f0c6f6d1a2b`."""
    return _fingerprint(flow, step, type, message[:PATTERN_LIMIT])


def fingerprints(
    flows: Sequence[str], steps: Sequence[str], types: Sequence[str], messages: Sequence[str]
) -> Iterator[str]:
    """Return the fingerprint of each failure. Repeated ones take 0.2 µs."""
    if max(map(len, messages), default=0) > PATTERN_LIMIT:
        messages = [message[:PATTERN_LIMIT] for message in messages]
    return map(_fingerprint, flows, steps, types, messages)


def other_group(flow: str, step: str, type: str) -> str:
    """Return the id of the group of all messages beyond `GROUP_LIMIT`."""
    return _fingerprint(flow, step, type, OTHER)


def pattern_in(group: str, flow: str, step: str, type: str, message: str) -> str:
    """Return the pattern of a group that has a letter with these fields."""
    return OTHER if group == other_group(flow, step, type) else pattern_of(message)


class KnownGroups:
    """The groups of a store, as far as one process knows them, and the limit of their number.

    Groups that other processes add are unknown until the store reads them again, so several processes may exceed the
    limit by what each of them adds meanwhile.
    """

    def __init__(self) -> None:
        self._ids: set[str] = set()
        self._numbers: Counter[tuple[str, str, str]] = Counter()
        self._is_full = False
        self._read_at = 0.0

    @property
    def outdated(self) -> bool:
        """Whether the store should read its groups again."""
        return self._is_full and time.monotonic() - self._read_at >= RELOAD_SECONDS

    def replace(self, groups: Iterable[Sequence[str]]) -> None:
        """Take over the groups of the store: the id, flow, step and type of each."""
        self._ids, self._numbers = set(), Counter()
        for id, flow, step, type in groups:
            self._ids.add(id)
            self._numbers[flow, step, type] += 1
        self._is_full, self._read_at = False, time.monotonic()

    def assign(
        self, flows: Sequence[str], steps: Sequence[str], types: Sequence[str], messages: Sequence[str]
    ) -> list[str]:
        """Return the id of the group of each failure, and know these groups from now on."""
        ids = list(fingerprints(flows, steps, types, messages))
        if self._ids.issuperset(ids):
            return ids
        for place, id in enumerate(ids):
            if id in self._ids:
                continue
            key = flows[place], steps[place], types[place]
            if self._numbers[key] >= GROUP_LIMIT:
                self._is_full = True
                ids[place] = other_group(*key)
            else:
                self._ids.add(id)
                self._numbers[key] += 1
        return ids


def pattern_of(message: str) -> str:
    """Return a message without what differs between failures of one cause: numbers and ids (`#`), quoted text (`"…"`).

    Only the first `PATTERN_LIMIT` characters count. White space is collapsed.
    """
    return _pattern(message[:PATTERN_LIMIT])


@lru_cache(CACHED)
def _pattern(message: str) -> str:
    text = _VARIABLE.sub(_placeholder, " ".join(message.split()))
    return _NUMBERS.sub("#", text)[:PATTERN_LIMIT]


def _placeholder(match: re.Match[str]) -> str:
    return '"…"' if match.lastgroup else "#"


@lru_cache(CACHED)
def _fingerprint(flow: str, step: str, type: str, message: str) -> str:
    text = "\0".join((flow, step, type, _pattern(message)))
    return f"{VERSION}-{blake2b(text.encode('utf-8', 'surrogatepass'), digest_size=6).hexdigest()}"
