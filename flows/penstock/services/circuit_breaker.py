"""A circuit breaker that holds calls instead of failing them. Pure: no I/O, no tasks; times and jitter are arguments.

    closed     → open        enough failures in a row, or a failure rate
    open       → half_open   after a wait that grows with each opening
    half_open  → closed      probes succeeded; the limit of calls in flight then grows with each success
    half_open  → open        the probes failed

Which failures are in a row: see `CircuitBreaker`.
"""

from __future__ import annotations

import math
import random
from bisect import insort
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

from msgspec import Struct

from penstock.errors import ServiceFault
from penstock.services.pacing import MAX_PAUSE

BreakerState: TypeAlias = Literal["closed", "open", "half_open"]

GROWTH = 1.1
"""How many times longer each further opening lasts.

After n openings a service has been down for about 10 times the next one, so its return is noticed at most a tenth of
the outage late (of 10 s, with `open`, at most 2 s); with the usual 2 it would be as long again as the outage.
"""

WINDOW = 50
"""Default of `window`."""

JITTER = 0.75
"""The shortest wait is this part of the longest."""


UNDECIDED = 0.25
"""Calls in flight for each failure in a row that started among them: more may turn out to succeed.

If a third of all calls fail at once, and the others take long, 20 of 25 fail with a probability of 1 to 10 million.
"""

MAX_ROW = 256
"""Failures in a row that are enough, however many runs use the service."""

CLOCK_ERROR = 1e-6
"""Seconds by which timers may be early, and computed times may differ."""


@dataclass(frozen=True, slots=True)
class Breaker:
    """When the calls of a service are held because it is down, and for how long.

    It opens after `failures` in a row without a success in between, or when `failure_rate` (0 to 1) of the last
    `window` calls failed. Timeouts, connection errors, the statuses 408, 429 and 5xx, and the exception classes in
    `errors` count as failures, if `retry_on` of the service accepts them. While it is open, calls wait: nothing fails.
    After `open` seconds, each further time longer up to `max_open`, at most `probes` calls are made. If they fail, it
    opens again. A call that has waited for `max_open_wait` seconds fails with `ServiceUnavailable`.

    >>> breaker = Breaker(failures=20, open=1.0, max_open=60.0)
    """

    failures: int | None = None
    """Failures in a row (20, if there is no `failure_rate`)."""
    failure_rate: float | None = None
    window: int = WINDOW
    """Calls of which `failure_rate` is a part. At least as many as are in flight."""
    open: float = 1.0
    """Maximum seconds of the first opening; at least three quarters of it."""
    max_open: float = 60.0
    """Maximum seconds of any opening, unless `Retry-After` of a response asks for more."""
    max_open_wait: float = 300.0
    """Seconds after which a call that waits fails."""
    probes: int = 3
    errors: tuple[type[Exception], ...] = ()
    """Further exceptions that mean that the service is down, such as `OperationalError` of a database."""

    def __post_init__(self) -> None:
        if self.failures is not None and self.failure_rate is not None:
            raise ValueError("breaker: failures and failure_rate exclude each other: remove one")
        if self.failure_rate is None and self.window != WINDOW:
            raise ValueError("breaker: window is for failure_rate: add failure_rate, or remove window")
        if self.failures is None and self.failure_rate is None:
            object.__setattr__(self, "failures", 20)
        for option, number in (("failures", self.failures), ("window", self.window), ("probes", self.probes)):
            if number is not None and (number < 1 or number % 1):
                raise ValueError(f"breaker: {option}: expected an integer >= 1, got {number}")
        if self.failure_rate is not None and not 0 < self.failure_rate <= 1:
            raise ValueError(f"breaker: failure_rate: expected a number > 0 and <= 1, got {self.failure_rate}")
        for option, seconds in (("open", self.open), ("max_open_wait", self.max_open_wait)):
            if not 0 < seconds < math.inf:
                raise ValueError(f"breaker: {option}: expected a number of seconds > 0, got {seconds!r}")
        if not self.open <= self.max_open < math.inf:
            raise ValueError(
                f"breaker: max_open: expected a number of seconds >= {self.open:g} (open), got {self.max_open!r}"
            )
        for error in cast("tuple[object, ...]", self.errors):
            if not (isinstance(error, type) and issubclass(error, Exception)):
                raise TypeError(f"breaker: errors: expected exception classes, got {error!r}")

    def fault_of(self, error: Exception) -> ServiceFault | None:
        """Return what an error says about the service; None if it concerns one element, or the call itself."""
        fault = getattr(error, "service_fault", None)
        if isinstance(fault, ServiceFault):
            return fault
        if isinstance(error, ConnectionError):
            return ServiceFault.UNREACHABLE
        if isinstance(error, TimeoutError):
            return ServiceFault.TIMED_OUT
        return ServiceFault.REJECTED if self.errors and isinstance(error, self.errors) else None


DEFAULT_BREAKER = Breaker()
"""The breaker of a service that has no other."""


class FailedAttempt(Struct, frozen=True):
    """An attempt that failed because of the service."""

    fault: ServiceFault
    at_once: int
    """How many calls failed one after another, with this one, without waiting; 0 if it has waited."""
    attempt: int
    started_at: float
    successes: int
    """Attempts that succeeded so far."""
    success_started_at: float
    """When the latest of the calls that succeeded started."""
    runs: int
    """How many runs use the service."""
    retry_after: float | None = None


class CircuitBreaker:
    """Decides how many calls to one service may be in flight.

    FAILURES IN A ROW are those of calls that *started* one after another. The order in which calls end proves nothing:
    of 256 calls that start together, the 85 that fail may all take longer than the others, or less time, and while a
    server shuts down it refuses new calls and still answers old ones. So a failure counts if its call started after
    all those that have succeeded, and enough of them count if few calls that started in between are undecided. Several
    runs are served in turn, so with many of them 1 failure of each does not make a row, but 2 do. Attempts after the
    first do not count: at the end of a stream all are repetitions of what fails for its own reasons.

    `in_flight` returns how many of the calls in flight started between two times, or at one of them.
    """

    __slots__ = (
        "_failures",
        "_in_flight",
        "_level",
        "_max_in_flight",
        "_open_seconds",
        "_opened_at",
        "_options",
        "_probes",
        "_probes_failed",
        "_probes_succeeded",
        "_rng",
        "_row",
        "_runs",
        "_since",
        "_started",
        "failures",
        "last_open_seconds",
        "limit",
        "open_until",
        "opened",
        "state",
    )

    def __init__(
        self, options: Breaker, max_in_flight: int, rng: random.Random, in_flight: Callable[[float, float], int]
    ) -> None:
        self._options = options
        self._max_in_flight = max_in_flight
        self._rng = rng
        self._in_flight = in_flight
        self._probes = min(options.probes, max_in_flight)
        self.opened = 0
        """How often it opened, without the times when it opened again after probes."""
        self._open_seconds = 0.0
        self.last_open_seconds = 0.0
        """How long it was not closed the last time."""
        self.failures = 0
        """How many failures opened it the last time."""
        self._started: deque[float] = deque()
        """When the calls started that failed in a row, in order. At most 4 times as many as may be in flight."""
        self._failures: deque[int] = deque()
        """With a failure rate: the numbers of the calls that failed."""
        self.reset()

    def reset(self) -> None:
        """Close, and forget failures. Required when another clock is used: it does not count the time until then."""
        self.state: BreakerState = "closed"
        self.limit = self._max_in_flight
        """How many of the calls that started since `counted_since` may be in flight now."""
        self.open_until = 0.0
        self._since = -math.inf
        self._opened_at = 0.0
        self._level = 0
        """How often it opened since calls were last made without a limit."""
        self._row = 0
        """With a failure rate: how many calls have failed."""
        self._runs = 0
        """How many runs used the service since the first failure in the row: they may have ended by now."""
        self._probes_failed = self._probes_succeeded = 0
        self._failures.clear()
        self._started.clear()

    @property
    def is_limiting(self) -> bool:
        """Whether fewer calls may be in flight than usual, and responses have to be recorded."""
        return self.state != "closed" or self.limit < self._max_in_flight

    @property
    def counted_since(self) -> float:
        """The calls that started before this time do not count against `limit`: they may hang until their timeout."""
        return self._since

    def is_open(self, now: float) -> bool:
        """Return whether calls are held. False as soon as a probe may be made."""
        return self.state == "open" and now < self.open_until

    def open_seconds(self, now: float) -> float:
        """Return the seconds until `now` in which it was not closed."""
        return self._open_seconds + (0.0 if self.state == "closed" else now - self._opened_at)

    def next_probe_seconds(self, now: float) -> float | None:
        """Return the seconds until the next probe; None if it is not open."""
        return max(0.0, self.open_until - now) if self.state == "open" else None

    def record_failure(self, failed: FailedAttempt, now: float) -> bool:
        """Count an attempt that failed. Return whether the breaker opened, or opened again."""
        match self.state:
            case "open":  # a call that started before
                if failed.retry_after is not None:
                    self.open_until = max(self.open_until, now + min(failed.retry_after, MAX_PAUSE))
                return False
            case "half_open":
                if failed.started_at < self._since - CLOCK_ERROR and not failed.at_once:
                    return False
                self._probes_failed += 1
                self.limit = self._probes_left
                if self._probes_failed < self._probes * self._rate - 1e-9:
                    return False
            case "closed":
                if failed.attempt > 1 or not self._is_down(failed):
                    return False
                self.opened += 1
                self.failures = len(self._failures) or max(len(self._started), failed.at_once)
                self._opened_at = now
        self._open(failed.retry_after, now)
        return True

    def record_responses(self, count: int, now: float) -> bool:
        """Count calls to which the service responded, while `is_limiting`. Return whether the breaker closed."""
        match self.state:
            case "open":  # calls that started before
                return False
            case "half_open":
                self._probes_succeeded += count
                self.limit = self._probes_left
                if self._probes_succeeded <= self._probes * (1 - self._rate) + 1e-9:
                    return False
                self.state = "closed"
                self.last_open_seconds = now - self._opened_at
                self._open_seconds += self.last_open_seconds
                self.limit = self._probes
                closed = True
            case "closed":
                self.limit = min(self.limit + count, self._max_in_flight)
                closed = False
        if not self.is_limiting:
            self._level = 0
        return closed

    def ramp_up(self, now: float) -> None:
        """Allow few calls, and more with each success, after a pause that the service asked for."""
        if self.state == "closed":
            self.limit = self._probes
            self._since = now

    def begin_probes(self, now: float) -> bool:
        """Become half open if it is time. Return whether it did."""
        if self.state != "open" or now < self.open_until - CLOCK_ERROR:
            return False
        self.state = "half_open"
        self._since = now
        self._probes_failed = self._probes_succeeded = 0
        self.limit = self._probes_left
        return True

    def _is_down(self, failed: FailedAttempt) -> bool:
        """Count a failure while closed. Return whether there are enough now."""
        options = self._options
        if options.failure_rate is not None:
            return self._is_rate_exceeded(failed, options.failure_rate)
        row = self._started
        while row and row[0] <= failed.success_started_at:
            row.popleft()
        self._runs = max(self._runs, failed.runs) if row else failed.runs
        needed = max(options.failures or 1, min(2 * self._runs, MAX_ROW) if self._runs > 1 else 1)
        if failed.at_once >= needed:
            return True
        if failed.started_at <= failed.success_started_at:
            return False
        if row and failed.started_at < row[-1]:
            insort(row, failed.started_at)
        else:
            row.append(failed.started_at)
        if len(row) < needed:
            return False
        undecided = self._in_flight(row[0], row[-1]) - 1  # without this one
        return undecided <= len(row) * UNDECIDED

    def _is_rate_exceeded(self, failed: FailedAttempt, rate: float) -> bool:
        """Count a failure among the last calls: those that succeeded, and those that failed for a reason that counts.

        The window is at least as large as the number of calls in flight, or the slowest of calls that started together
        would be all of it.
        """
        failures = self._failures
        self._row += 1
        number = failed.successes + self._row
        failures.append(number)
        window = max(self._options.window, min(self._in_flight(-math.inf, math.inf), self._max_in_flight))
        while failures[0] <= number - window:
            failures.popleft()
        return number >= window and len(failures) >= rate * window - 1e-9

    def _open(self, retry_after: float | None, now: float) -> None:
        options = self._options
        longest = min(options.max_open, options.open * GROWTH ** min(self._level, 100))
        seconds = longest * self._rng.uniform(JITTER, 1.0)
        if retry_after is not None:
            seconds = max(seconds, min(retry_after, MAX_PAUSE))
        self._level += 1
        self.state = "open"
        self.open_until = now + seconds
        self.limit = 0
        self._row = 0
        self._failures.clear()
        self._started.clear()

    @property
    def _probes_left(self) -> int:
        return max(0, self._probes - self._probes_succeeded - self._probes_failed)

    @property
    def _rate(self) -> float:
        """The part of the probes that must fail for it to open again."""
        return self._options.failure_rate or 1.0
