"""What became of all runs that a stop took down."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from msgspec import Struct

from penstock.runtime.summary import Summary


class Report(Struct, frozen=True):
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
    def of(cls, summaries: Iterable[Summary]) -> Report:
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
