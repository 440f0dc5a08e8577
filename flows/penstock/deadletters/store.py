"""What a dead-letter store has to be able to do."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Protocol

from msgspec import Struct

from penstock.deadletters.letter import Letter
from penstock.errors import FlowError, StoreError

SQLITE = "sqlite:///"
"""What the URL of a file begins with."""

STATES = ("waiting", "parked")
"""The states that a letter can be in."""

PAGE = 100
"""Letters on one page unless told otherwise."""

PAGE_LIMIT = 1000
"""Letters on one page at most."""


PAGE_BYTES = 4 * 1024 * 1024
"""A page whose letters hold more bytes than this, in their inputs and what was found, takes no further one.

It is read, sent and shown in one piece, and letters may be as large as an input may be.
"""


class Filter(Struct, frozen=True, kw_only=True):
    """Which letters are meant; a field that is None lets all through."""

    flow: str | None = None
    run: str | None = None
    step: str | None = None
    type: str | None = None
    state: str | None = None
    since: datetime | None = None
    """Failed at this time or later."""
    until: datetime | None = None
    """Failed before this time."""
    min_seq: int | None = None
    """Letters of elements with this number or a higher one; not available to `of`."""

    @classmethod
    def of(cls, texts: Mapping[str, str]) -> Filter:
        """The filter that texts ask for, by the names of the fields; raises `ValueError` for a
        state that does not exist and for a time that is none.

        Times are written as ISO 8601 has them, in UTC unless they name another zone.
        """
        if (state := texts.get("state", STATES[0])) not in STATES:
            raise ValueError(f"state: expected one of {', '.join(STATES)}, got {state!r}")
        return cls(
            flow=texts.get("flow"),
            run=texts.get("run"),
            step=texts.get("step"),
            type=texts.get("type"),
            state=texts.get("state"),
            since=_time(texts, "since"),
            until=_time(texts, "until"),
        )


class Page(Struct, frozen=True):
    """Some letters, oldest first, and where the next page begins.

    There may be fewer than were asked for and more behind them: large letters fill a page too (`PAGE_BYTES`).
    """

    letters: list[Letter]
    next: str | None = None
    """The id to give as `after` for the next page; None on the last one."""


UNUSABLE_SECONDS = 30.0
"""For so long a store may fail before it counts as unusable: a lock or a full disk often passes."""


class Problem(Struct, frozen=True):
    """Why a store cannot store letters at present."""

    error: StoreError
    since: float
    """Of the monotonic clock: when the first of these failures was."""

    @property
    def lasting(self) -> bool:
        """Whether the store is unusable: until it is repaired, or for `UNUSABLE_SECONDS` by now."""
        return self.error.permanent or time.monotonic() - self.since >= UNUSABLE_SECONDS


class Store(Protocol):
    """Where dead letters wait. One store serves all runs of a process.

    Every method may raise `StoreError`, and then has changed nothing; only after `WriterEnded` this is not known.
    """

    url: str
    patience: float
    """Seconds that one `add` may take before its caller may give it up."""

    @property
    def commits(self) -> int:
        """Commits so far."""
        ...

    @property
    def commit_seconds(self) -> float:
        """Time spent in them."""
        ...

    @property
    def restarts(self) -> int:
        """How often whoever writes them ended before its time and was started again."""
        ...

    async def open(self) -> None:
        """Get ready: connect, create or check the schema. Each who uses the store calls it before anything else."""
        ...

    def add(self, letters: Sequence[Letter]) -> Awaitable[None]:
        """Store letters durably, all or none; a letter whose id is stored already is passed over.

        When this returns, they survive a crash of the process and, where the store can promise it, of the machine.
        Cancelling the caller does not undo it.
        """
        ...

    async def get(self, id: str) -> Letter | None:
        """One letter, or None."""
        ...

    async def page(self, filter: Filter, *, after: str | None = None, limit: int = PAGE) -> Page:
        """Letters in the order of their ids, beginning after one of them.

        As many as `limit`, or as fill a page (`PAGE_BYTES`), at least one; who wants all of them follows `next`.
        """
        ...

    def counts(self) -> Mapping[str, int]:
        """How many letters there are in each state, as far as this process knows. Never waits."""
        ...

    def problem(self) -> Problem | None:
        """Why letters cannot be stored, as far as this process knows; None if they can. Never waits."""
        ...

    async def aclose(self) -> None:
        """Each who opened the store calls it in the end; with the last, finish what was begun and let go of all."""
        ...


def _time(texts: Mapping[str, str], name: str) -> datetime | None:
    text = texts.get(name)
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{name} has to be a time like 2030-01-31T12:00:00Z, got {text!r}") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def check_file(where: str, url: str) -> None:
    """Raise `FlowError` unless the place that a URL stands for is a file of SQLite."""
    if not where.startswith(SQLITE) or where in (SQLITE, f"{SQLITE}:memory:"):
        raise FlowError(f"{url!r} names no file; use sqlite:///FILE, or memory: to keep letters in memory")
