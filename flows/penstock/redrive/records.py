"""What the desk returns: plans, trials, changes and reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from msgspec import Struct

from penstock.deadletters.dead_letter_queue import AuditRecord


class PlannedGroup(Struct, frozen=True, kw_only=True):
    """The letters of one group that a redrive would take."""

    id: str
    flow: str
    step: str
    type: str
    pattern: str
    letters: int


class Plan(Struct, frozen=True, kw_only=True):
    """What a redrive would do."""

    letters: int
    groups: Sequence[PlannedGroup] = ()
    """The groups with the most letters first."""
    services: Mapping[str, int] = {}
    """The services that would be called, and for how many letters each."""
    kept: Mapping[str, int] = {}
    """The services whose kept results would be used instead of a call, and for how many letters each."""
    seconds: float | None = None
    """The duration at the rate; None without a rate."""
    warnings: Sequence[str] = ()


class TryResult(Struct, frozen=True, kw_only=True):
    """The outcome of one letter that was run with real services and without sinks. Nothing was changed."""

    id: str
    key: str | int | float | None = None
    outcome: Literal["ok", "failed", "filtered", "cancelled"]
    value: Any = None
    """The value at the end of the flow, if it is ok."""
    error: str | None = None
    """Step, error type and message, if it failed."""


class LogReport(Struct, frozen=True, kw_only=True):
    """The outcomes of a redrive of a log, which has no jobs."""

    total: int = 0
    resolved: int = 0
    failed: int = 0
    """Failed again and were appended again, including those that were parked then."""
    parked: int = 0
    cancelled: int = 0


class Change(Struct, frozen=True, kw_only=True):
    """The input of one letter before and after an edit."""

    id: str
    before: bytes
    after: bytes | None = None
    """None if the edit failed."""
    error: str | None = None


class EditReport(Struct, frozen=True, kw_only=True):
    """What an edit of several letters did."""

    changed: int = 0
    unchanged: int = 0
    """Letters whose input already was as the edit makes it."""
    errors: int = 0
    """Letters that could not be edited; they stay as they were."""
    samples: Sequence[Change] = ()
    """The first of these errors."""


class ImportReport(Struct, frozen=True, kw_only=True):
    """What an import did."""

    imported: int = 0
    skipped: int = 0
    """Letters that the store already had."""


class AuditPage(Struct, frozen=True):
    """Audit records, newest first, and where the next page begins."""

    records: Sequence[AuditRecord]
    next: str | None = None
    """The text to pass as `after` for the next page; None on the last page."""
