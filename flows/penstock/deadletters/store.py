"""The dead-letter store protocol, with its queries, pages and statistics."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Literal, Protocol

import msgspec
from msgspec import Struct

from penstock.deadletters.dead_letter import DeadLetter
from penstock.errors import StoreError
from penstock.support.json_encoding import encode_json

SQLITE = "sqlite:///"
"""The beginning of the URL of a SQLite file."""

STATES = ("waiting", "claimed", "resolved", "parked")
"""The states of a letter. A claimed letter is being redriven; when its lease expires, it can be claimed again."""

PAGE = 100
"""The default number of letters on a page."""

PAGE_LIMIT = 1000
"""The maximum number of letters on a page."""

PAGE_BYTES = 4 * 1024 * 1024
"""The size of inputs and partial results after which a page is full.

A page is read, sent and shown at once, and a letter may be as large as an input may be.
"""

UNUSABLE_SECONDS = 30.0
"""Seconds of failures after which a store counts as unusable: a lock or a full disk often passes sooner."""

GroupField = Literal["flow", "run", "step", "type", "state"]
"""A field by which letters can be counted."""


class DeadLetterQuery(Struct, frozen=True, kw_only=True):
    """Conditions that letters must meet. A field that is None is no condition."""

    flow: str | None = None
    run: str | None = None
    step: str | None = None
    type: str | None = None
    state: str | None = None
    group: str | None = None
    key: str | int | float | None = None
    ids: tuple[str, ...] | None = None
    since: datetime | None = None
    """Failed at this time or later."""
    until: datetime | None = None
    """Failed before this time."""
    min_seq: int | None = None
    """The sequence number of the element is at least this. `of` does not accept it."""

    @classmethod
    def of(cls, texts: Mapping[str, str]) -> DeadLetterQuery:
        """Parse a query from texts, by field name.

        Times are ISO 8601, in UTC unless they name a zone. A key that is a number in JSON is one, `"3"` is a text.
        Raises `ValueError` for an unknown state or an invalid time.
        """
        if (state := texts.get("state", STATES[0])) not in STATES:
            raise ValueError(f"state: expected one of {', '.join(STATES)}, got {state!r}")
        return cls(
            flow=texts.get("flow"),
            run=texts.get("run"),
            step=texts.get("step"),
            type=texts.get("type"),
            state=texts.get("state"),
            group=texts.get("group"),
            key=_parse_key(texts.get("key")),
            since=_parse_time(texts, "since"),
            until=_parse_time(texts, "until"),
        )


class Page(Struct, frozen=True):
    """Letters, oldest first, and where the next page begins.

    A page may have fewer letters than requested although more follow: large letters fill it sooner (`PAGE_BYTES`).
    """

    letters: list[DeadLetter]
    next: str | None = None
    """The id to pass as `after` for the next page; None on the last page."""


class PageBuilder:
    """Collects letters in the order of their ids until a page is full. A page holds at least one, however large."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._letters: list[DeadLetter] = []
        self._bytes = 0

    def add(self, letter: DeadLetter) -> bool:
        """Add a letter; returns False if the page is full and the letter belongs on the next one."""
        if self._letters and (len(self._letters) >= self._limit or self._bytes > PAGE_BYTES):
            return False
        self._letters.append(letter)
        results = letter.partial_results
        self._bytes += len(letter.input) + (0 if results is None else len(encode_json(results)))  # all else is short
        return True

    def page(self, *, more: bool) -> Page:
        """Return the page. `more` says whether another one follows."""
        return Page(self._letters, self._letters[-1].id if more and self._letters else None)


class Problem(Struct, frozen=True):
    """The reason why a store cannot store letters at present."""

    error: StoreError
    since: float
    """The time of the first of these failures, on the monotonic clock."""

    @property
    def lasting(self) -> bool:
        """Whether the store is unusable: until it is repaired, or because it has failed for `UNUSABLE_SECONDS`."""
        return self.error.permanent or time.monotonic() - self.since >= UNUSABLE_SECONDS


class StoreStatistics(Struct, frozen=True):
    """Counters of one store, or of several added up."""

    counts: Mapping[str, int] = {}
    """Letters in the store, by state, as far as this process knows."""
    commits: int = 0
    failures: int = 0
    """Commits that failed."""
    stored: int = 0
    """Letters stored by this process."""
    commit_seconds: float = 0.0
    """Time spent in commits, including failed ones."""
    restarts: int = 0
    """How often the process that writes letters ended unexpectedly and was replaced."""

    def __add__(self, other: StoreStatistics) -> StoreStatistics:
        return StoreStatistics(
            Counter(self.counts) + Counter(other.counts),
            self.commits + other.commits,
            self.failures + other.failures,
            self.stored + other.stored,
            self.commit_seconds + other.commit_seconds,
            self.restarts + other.restarts,
        )


class LetterWriter(Protocol):
    """Stores the letters of the failure branch of a run: a store, or a redrive job, which settles earlier letters."""

    timeout: float
    """Seconds that one `add` may take before its caller may stop waiting for it."""

    def add(self, letters: Sequence[DeadLetter]) -> Awaitable[None]:
        """Store letters durably, all or none. Cancelling the caller does not undo it. May raise `StoreError`."""
        ...


class DeadLetterStore(Protocol):
    """Stores dead letters. All runs of a process share one store.

    Every method may raise `StoreError`, and then has changed nothing. Two exceptions: after `WriterCrashed` it is
    unknown
    whether the letters were stored, and a `delete` that fails may have deleted some letters.
    """

    url: str
    timeout: float
    """Seconds that one `add` may take before its caller may stop waiting for it."""

    async def open(self) -> None:
        """Connect, and create or check the schema. Every user of the store calls it before anything else."""
        ...

    def add(self, letters: Sequence[DeadLetter]) -> Awaitable[None]:
        """Store letters durably, all or none. A letter whose id is already stored is skipped.

        When this returns, the letters survive a crash of the process and, if the store supports that, of the machine.
        Cancelling the caller does not undo it.
        """
        ...

    async def get(self, id: str) -> DeadLetter | None:
        """Return the letter with this id, or None."""
        ...

    async def page(self, query: DeadLetterQuery, *, after: str | None = None, limit: int = PAGE) -> Page:
        """Return letters in the order of their ids, starting after an id.

        A page ends at `limit` letters or at `PAGE_BYTES`, and holds at least one letter. Follow `next` to read all.
        """
        ...

    async def count(self, query: DeadLetterQuery, *, by: Sequence[GroupField] = ()) -> Mapping[tuple[str, ...], int]:
        """Count letters by the values of some fields. Without fields, the total is under the key `()`."""
        ...

    async def update(self, ids: Sequence[str], *, state: str) -> int:
        """Set the state of letters durably, all or none; returns how many of the ids exist. Claimed letters stay.

        Raises `ValueError` for an unknown state.
        """
        ...

    async def delete(self, query: DeadLetterQuery) -> int:
        """Delete letters durably; returns how many. Claimed letters stay: they belong to a redrive job."""
        ...

    def statistics(self) -> StoreStatistics:
        """Return the counters. Never waits, so changes made by other processes are counted later."""
        ...

    def problem(self) -> Problem | None:
        """Return why letters cannot be stored, as far as this process knows, or None. Never waits."""
        ...

    async def aclose(self) -> None:
        """Close the store for one of the users that opened it. The last one completes pending work and disconnects."""
        ...


def check_state(state: str) -> None:
    """Raise `ValueError` for an unknown state."""
    if state not in STATES:
        raise ValueError(f"state: expected one of {', '.join(STATES)}, got {state!r}")


def _parse_key(text: str | None) -> str | int | float | None:
    try:
        value = None if text is None else msgspec.json.decode(text, type=str | int | float)
    except (msgspec.MsgspecError, UnicodeError):
        return text
    return value


def _parse_time(texts: Mapping[str, str], name: str) -> datetime | None:
    text = texts.get(name)
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{name}: expected a time like 2030-01-31T12:00:00Z, got {text!r}") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)
