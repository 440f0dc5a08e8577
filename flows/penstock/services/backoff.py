"""How long to wait before the next attempt."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential backoff with full jitter: before attempt n + 1, between 0 and `first * factor ** (n - 1)` seconds.

    Full jitter keeps callers that failed together from coming back together (Marc Brooker, "Exponential Backoff
    And Jitter", AWS Architecture Blog, 2015).
    """

    first: float = 0.05
    """Seconds at most before the second attempt; 0 means no wait at all."""
    factor: float = 2.0
    cap: float = 10.0
    """Seconds at most before any attempt; also what a service's `Retry-After` is cut to."""

    def __post_init__(self) -> None:
        if self.first < 0 or self.factor < 1 or self.cap < 0:
            raise ValueError(f"a backoff needs first ≥ 0, factor ≥ 1 and cap ≥ 0, got {self}")

    def seconds(self, attempt: int, chance: random.Random, asked: float | None = None) -> float:
        """The wait after attempt number `attempt` failed; never less than `asked` for, within the cap."""
        try:
            ceiling = min(self.cap, self.first * self.factor ** (attempt - 1)) if self.first else 0.0
        except OverflowError:
            ceiling = self.cap
        wait = chance.uniform(0, ceiling) if ceiling else 0.0
        return wait if asked is None else min(max(wait, asked), self.cap)


NONE = Backoff(first=0.0)
"""The next attempt at once."""
