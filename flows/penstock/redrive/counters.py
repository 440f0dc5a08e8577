"""Count the outcomes of redriven letters, for metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Literal

from msgspec import Struct, field

RedriveOutcome = Literal["resolved", "failed", "parked", "cancelled"]
"""`failed`: waits again. `parked`: failed, and reached the limit of redrives."""


class RedriveStatistics(Struct, frozen=True):
    """Counters of the redrives of a process."""

    letters: Mapping[tuple[str, RedriveOutcome], int] = {}
    """Letters by the flow that they were run through, and outcome."""
    running: int = 0
    """Jobs that this process works on now."""
    jobs: Mapping[str, int] = {}
    """Jobs that this process worked on until they came into a state, such as `completed`, by state."""


class RedriveCounters(Struct):
    """The counters behind `RedriveStatistics`."""

    letters: Counter[tuple[str, RedriveOutcome]] = field(default_factory=Counter[tuple[str, RedriveOutcome]])
    jobs: Counter[str] = field(default_factory=Counter[str])
