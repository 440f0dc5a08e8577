"""Summaries: the result of one run, and of all runs that a shutdown ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from enum import StrEnum
from typing import Any

import msgspec
from msgspec import UNSET, Struct

from penstock.results import EndRecord
from penstock.support.text import sanitize


class EndReason(StrEnum):
    """Why a run ended."""

    COMPLETED = "completed"
    DRAINING = "draining"
    """It accepted no further input."""
    DISCONNECTED = "disconnected"
    """The reader closed the connection."""
    STALLED = "stalled"
    ABORTED = "aborted"
    FAILED = "failed"

    __repr__ = str.__repr__
    """Logs as text show the repr of fields."""


class Summary(Struct, frozen=True):
    """The counters and the end of a run: `received == ok + failed + filtered + cancelled`."""

    run: str
    flow: str
    kind: str
    reason: EndReason
    received: int
    ok: int
    failed: int
    filtered: int
    cancelled: int
    seconds: float
    error: str | None = None
    """The error, if the reason is `failed`."""

    def end_record(self) -> EndRecord:
        """Return the end record of the result stream."""
        return EndRecord(
            self.reason,
            self.received,
            self.ok,
            self.failed,
            self.filtered,
            self.cancelled,
            self.seconds,
            sanitize(self.error) if self.error else UNSET,
        )

    def log_fields(self) -> dict[str, Any]:
        """Return the fields of a log line, without the ids."""
        return {
            name: value
            for name, value in msgspec.structs.asdict(self).items()
            if name not in ("run", "flow", "kind") and value is not None
        }


class ShutdownReport(Struct, frozen=True):
    """Summary of the runs ended by a shutdown."""

    runs: int
    reasons: dict[str, int]
    received: int
    ok: int
    failed: int
    filtered: int
    cancelled: int

    @property
    def forced(self) -> bool:
        """Whether elements were cancelled instead of finished."""
        return self.cancelled > 0 or self.reasons.get(EndReason.ABORTED, 0) > 0

    @classmethod
    def of(cls, summaries: Iterable[Summary]) -> ShutdownReport:
        """Add up several runs."""
        ended = list(summaries)
        return cls(
            len(ended),
            dict(Counter(summary.reason for summary in ended)),
            *(
                sum(getattr(summary, field) for summary in ended)
                for field in ("received", "ok", "failed", "filtered", "cancelled")
            ),
        )
