"""Decide when failed calls are repeated, and at which rate calls are made. Pure: no I/O, no tasks, no counters."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from msgspec import Struct

from penstock.support.tasks import reject_awaitable


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential backoff with full jitter: before attempt n + 1, between 0 and `first * factor ** (n - 1)` seconds.

    Full jitter keeps clients that failed together from retrying together (Marc Brooker, "Exponential Backoff And
    Jitter", AWS Architecture Blog, 2015).
    """

    first: float = 0.05
    """Maximum seconds before the second attempt; 0 retries without a wait."""
    factor: float = 2.0
    cap: float = 10.0
    """Maximum seconds before any attempt. A longer `Retry-After` of a service is reduced to it."""

    def __post_init__(self) -> None:
        if self.first < 0 or self.factor < 1 or self.cap < 0:
            raise ValueError(f"backoff: expected first >= 0, factor >= 1 and cap >= 0, got {self}")

    def seconds(self, attempt: int, rng: random.Random, retry_after: float | None = None) -> float:
        """Return the seconds to wait after attempt number `attempt` failed: at least `retry_after`, at most the cap."""
        try:
            ceiling = min(self.cap, self.first * self.factor ** (attempt - 1)) if self.first else 0.0
        except OverflowError:
            ceiling = self.cap
        wait = rng.uniform(0, ceiling) if ceiling else 0.0
        return wait if retry_after is None else min(max(wait, retry_after), self.cap)


NONE = Backoff(first=0.0)
"""Retry without a wait."""


class RetryIn(Struct, frozen=True):
    """Make another attempt."""

    seconds: float
    """Seconds to wait before it; 0 for no wait."""


class GiveUp(Struct, frozen=True, eq=False):
    """Make no further attempt: the call has failed."""

    error: Exception
    """The error of the call, or the error that `retry_on` raised while it examined that one."""


Decision: TypeAlias = RetryIn | GiveUp

_RETRY_NOW = RetryIn(0.0)


def is_retryable(error: BaseException) -> bool:
    """Return whether another attempt may succeed: True, unless the error has `retryable = False`."""
    return bool(getattr(error, "retryable", True))


class RetryPolicy:
    """How often a call is attempted, for which errors, and how long to wait between attempts.

    `max_attempts` includes the first attempt. `rng` provides the jitter.
    """

    __slots__ = ("_backoff", "_max_attempts", "_retry_on", "_rng")

    def __init__(
        self, max_attempts: int, backoff: Backoff, retry_on: Callable[[BaseException], bool], rng: random.Random
    ) -> None:
        self._max_attempts = max_attempts
        self._backoff = backoff
        self._retry_on = retry_on
        self._rng = rng

    def is_retryable(self, error: Exception) -> bool:
        """Return whether `retry_on` accepts an error; False if it fails."""
        try:
            return bool(self._retry_on(error))
        except Exception:  # `decide` reports it
            return False

    def decide(self, attempt: int, error: Exception) -> Decision:
        """Decide what follows attempt number `attempt` (from 1), which raised `error`."""
        try:
            if attempt >= self._max_attempts:
                return GiveUp(error)
            retryable: object = self._retry_on(error)
            if not retryable:
                return GiveUp(error)
            if retryable is not True:
                reject_awaitable(retryable, "retry_on")
            retry_after: float | None = getattr(error, "retry_after", None)
            if retry_after is None and not self._backoff.first:
                return _RETRY_NOW
            return RetryIn(self._backoff.seconds(attempt, self._rng, retry_after))
        except Exception as bug:  # of `retry_on` or of the error class: it must not end the task that makes calls
            bug.__cause__ = error
            return GiveUp(bug)


class RateLimiter:
    """Spaces calls evenly, `rate` of them per second. After a pause the first call is due at once, without a burst."""

    __slots__ = ("_interval", "_next", "_reserve_shared")

    def __init__(self, rate: float) -> None:
        self._interval = 1.0 / rate
        self._reserve_shared: Callable[[float, float], float] | None = None
        self.reset()

    def share(self, reserve: Callable[[float, float], float]) -> None:
        """Let `reserve` find the time slots from now on, which all processes of a service share.

        It is called with the seconds between two slots and with the time, and returns what `reserve` returns.
        """
        self._reserve_shared = reserve

    def reset(self) -> None:
        """Forget earlier calls. Required when another clock is used."""
        self._next = float("-inf")

    def reserve(self, now: float) -> float:
        """Reserve the next free time slot. Return the seconds until it begins."""
        if self._reserve_shared is not None:
            return self._reserve_shared(self._interval, now)
        slot = max(now, self._next)
        self._next = slot + self._interval
        return slot - now
