"""What became of a run: its numbers, its reason, and its end record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import UNSET, Struct

from penstock.results import EndRecord
from penstock.support.text import sanitize


class Summary(Struct, frozen=True):
    """What became of a run: `received == ok + failed + filtered + cancelled`."""

    run: str
    flow: str
    kind: str
    reason: str
    """`completed`, `draining` (took no further input), `disconnected` (the reader closed the connection), `stalled`,
    `aborted`, `failed`."""
    received: int
    ok: int
    failed: int
    filtered: int
    cancelled: int
    seconds: float
    error: str | None = None
    """What broke, when the reason is `failed`."""

    def end(self) -> EndRecord:
        """The summary as the end record of a stream."""
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

    def facts(self) -> dict[str, Any]:
        """What a log line of the run holds beside its ids."""
        return {
            name: value
            for name, value in msgspec.structs.asdict(self).items()
            if name not in ("run", "flow", "kind") and value is not None
        }


class ShutdownReport(Struct, frozen=True):
    """What became of the runs that were open when the stop began."""

    runs: int
    reasons: dict[str, int]
    received: int
    ok: int
    failed: int
    filtered: int
    cancelled: int

    @property
    def forced(self) -> bool:
        """Whether anything was cancelled, instead of being finished."""
        return self.cancelled > 0 or self.reasons.get("aborted", 0) > 0

    @classmethod
    def of(cls, summaries: Iterable[Summary]) -> ShutdownReport:
        """Several runs, added up."""
        ended = list(summaries)
        return cls(
            len(ended),
            dict(Counter(summary.reason for summary in ended)),
            *(
                sum(getattr(summary, field) for summary in ended)
                for field in ("received", "ok", "failed", "filtered", "cancelled")
            ),
        )
