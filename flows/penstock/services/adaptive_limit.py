"""Adapt the limit of calls in flight to what a service can handle. The limiter is pure: times are arguments.

The limit grows while it is used, and shrinks by a factor when the service is overloaded, as in TCP (Jacobson,
"Congestion Avoidance and Control", 1988). Then it returns to just below the limit that was too high, and stays there
for ten times as long as the overload lasted before it grows further, by one in each round trip: a service that
collapses under one call too many is overloaded for a tenth of the time.

The limit must not collapse because of something that a lower limit does not prevent, such as a service that has become
slower. If neither latency nor failures improved when the limit was halved, the limit was not the cause: what is
measured then becomes the baseline, and the limit grows again. What counts as overload: see `overload`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from penstock.services.overload import MANY_TIMEOUTS, MAX_SAMPLES, MIN_SAMPLES, MOST_TIMEOUTS, Measurement, Samples

DECREASE = 0.7
"""Factor of the limit after a round trip with overload."""

INCREASE = 1.5
"""Factor of the limit after a round trip without, unless the limit is near the last one that was too high."""

NEAR = 0.95, 1.1
"""Factors of the last limit that was too high. Between them the limit grows by one."""

HOLD = 10
"""At the lower one the limit is held for so many times the duration of the overload."""

MAX_HOLD = 30.0
"""Maximum seconds for that."""

REJECTIONS = 429, 503
"""Statuses of responses with which a service rejects calls because there are too many."""

_CLOCK_ERROR = 1e-6
"""Seconds by which timers may be early."""


@dataclass(frozen=True, slots=True)
class AdaptiveLimit:
    """A limit of calls in flight that adapts to what the service can handle; for `Service(max_in_flight=…)`.

    The limit starts at `min`. It grows while it is used, and shrinks when latency rises, calls time out, or more calls
    than usual are rejected with 429 or 503. Use `attempts` of at least 2: the limit is found by exceeding it.

    >>> service = Service.http("pricing", "http://prices/{orderId}", max_in_flight=AdaptiveLimit(max=100), attempts=3)
    """

    min: int = 4
    """The limit at first, and the lowest."""
    max: int = 256
    """The highest limit."""

    def __post_init__(self) -> None:
        for option, number in (("min", self.min), ("max", self.max)):
            if number < 1 or number % 1:
                raise ValueError(f"max_in_flight: {option}: expected an integer >= 1, got {number}")
        if self.max < self.min:
            raise ValueError(f"max_in_flight: max: expected an integer >= {self.min} (min), got {self.max}")


class AdaptiveLimiter:
    """Decides how many calls of a service may be in flight.

    A *round trip* lasts until nine tenths of the calls that were in flight at its beginning have ended. The calls that
    end in one or several round trips are measured. After a change of the limit, one or two round trips are not: in the
    first the calls end that began before it, or that began all at once, of which the shortest end first.
    """

    __slots__ = (
        "_baseline",
        "_ceiling",
        "_first_round",
        "_good",
        "_hold_until",
        "_limit",
        "_measured_round",
        "_options",
        "_overload",
        "_overloaded_since",
        "_peak",
        "_remaining",
        "_round",
        "_samples",
        "_since",
        "in_flight",
        "limit",
        "on_growth",
    )

    def __init__(self, options: AdaptiveLimit) -> None:
        self._options = options
        self.on_growth: Callable[[], None] | None = None
        """Called when more calls may be in flight than before."""
        self._round = 0
        self.reset()

    def reset(self) -> None:
        """Forget all calls and measurements. Required when another clock is used."""
        self.in_flight = 0
        self.limit: int = self._options.min
        """How many calls may be in flight now."""
        self._limit = float(self.limit)
        self._round += 1
        self._first_round = self._round
        """Calls that began in earlier round trips are forgotten."""
        self._measured_round = self._round
        """The first round trip in which calls are measured."""
        self._remaining = 0
        """The calls that have to end before the round trip is over."""
        self._samples = Samples()
        self._since = 0.0
        """When the first one of them began."""
        self._peak = 0
        """Maximum of calls in flight meanwhile."""
        self._baseline: Measurement | None = None
        """What is measured while the service is not overloaded."""
        self._overload: tuple[float, Measurement] | None = None
        """While it is: the limit and the measurement when that began, or when the limit was halved last."""
        self._overloaded_since = 0.0
        self._ceiling: float | None = None
        """The lowest limit that was too high in the last overload, as far as that is known."""
        self._good = 0.0
        """The last limit that was used and not too high."""
        self._hold_until = 0.0

    def begin(self) -> int:
        """Count a call that begins. Return the number of the round trip, an argument of `end`."""
        self.in_flight += 1
        if self.in_flight > self._peak:
            self._peak = self.in_flight
        return self._round

    def end(
        self, round_trip: int, began: float, now: float, *, rejected: bool = False, timed_out: bool = False
    ) -> None:
        """Count a call that ended: with a response, an error or a timeout."""
        self.cancel(round_trip)
        if self._round >= self._measured_round and round_trip >= self._first_round:
            if not self._samples.calls:
                self._since = began
            self._samples.add(now - began, rejected=rejected, timed_out=timed_out)
        if self._remaining <= 0:
            self._end_round(now)

    def cancel(self, round_trip: int) -> None:
        """Count a call that was cancelled. It tells nothing about the service."""
        if round_trip >= self._first_round:
            self.in_flight -= 1
            if round_trip != self._round:
                self._remaining -= 1

    def _end_round(self, now: float) -> None:
        self._round += 1
        self._remaining = self.in_flight - max(1, self.in_flight // 10)
        calls = self._samples.calls
        if calls < max(MIN_SAMPLES, self.limit):
            return
        measurement = self._samples.measurement()
        if calls < MAX_SAMPLES and not measurement.is_clear(self._baseline):
            return
        self._judge(measurement, now)
        self._samples = Samples()
        self._peak = self.in_flight

    def _judge(self, measurement: Measurement, now: float) -> None:
        """Change the limit, or the baseline."""
        if self._baseline is None:
            self._baseline = measurement.first_baseline()
        if self._peak * 2 < self.limit:
            return  # the limit has no part in what was measured

        if not measurement.is_overload(self._baseline):
            if self._overload is not None:
                self._overload = None
                self._hold_until = now + min(HOLD * (now - self._overloaded_since), MAX_HOLD)
            self._baseline = measurement.lower(self._baseline)
            if self._peak >= self.limit:
                self._good = self._limit
                self._grow(now)
        elif self._overload is None:
            self._overload, self._overloaded_since = (self._limit, measurement), self._since
            self._shrink(measurement)
        elif self._limit > self._overload[0] / 2 and self.limit > self._options.min:
            self._shrink(measurement)
        elif measurement.timed_out > MOST_TIMEOUTS or measurement.improves_on(self._overload[1]):
            self._overload = self._limit, measurement
            self._shrink(measurement)
        else:
            self._baseline, self._overload, self._ceiling = measurement, None, None

    def _grow(self, now: float) -> None:
        limit, ceiling, before = self._limit, self._ceiling, self.limit
        if ceiling is None or limit > ceiling * NEAR[1]:
            self._ceiling = None
            limit *= INCREASE
        elif limit < ceiling * NEAR[0]:
            limit = min(limit * INCREASE, ceiling * NEAR[0])
        elif now >= self._hold_until:
            limit += 1
        self._set_limit(limit)
        if self.limit > before:
            self._measured_round = self._round + 1
            if self.on_growth is not None:
                self.on_growth()

    def _shrink(self, measurement: Measurement) -> None:
        self._ceiling = (self._good + self._limit) / 2 if self._good < self._limit else self._limit
        self._measured_round = self._round + 2  # calls that began in the first one waited behind those of before
        # As TCP after a retransmission timeout: round trips are as long as the timeout now, so there is no time for
        # many small steps.
        self._set_limit(self._options.min if measurement.timed_out > MANY_TIMEOUTS else self._limit * DECREASE)

    def _set_limit(self, limit: float) -> None:
        self._limit = min(max(limit, self._options.min), self._options.max)
        self.limit = int(self._limit)


def measured(
    function: Callable[[Any], Awaitable[Any]], limiter: AdaptiveLimiter, timeout: float
) -> Callable[[Any], Awaitable[Any]]:
    """Return the function of a service so that the limiter learns of its calls.

    Services without an adaptive limit do not pay for that. A call that was cancelled after its timeout has timed out.
    """

    async def call(value: Any) -> Any:
        clock = asyncio.get_running_loop().time
        round_trip, began = limiter.begin(), clock()
        try:
            response = await function(value)
        except asyncio.CancelledError:
            now = clock()
            if now - began < timeout - _CLOCK_ERROR:
                limiter.cancel(round_trip)
            else:
                limiter.end(round_trip, began, now, timed_out=True)
            raise
        except Exception as error:
            rejected = getattr(error, "status", None) in REJECTIONS
            limiter.end(round_trip, began, clock(), rejected=rejected, timed_out=isinstance(error, TimeoutError))
            raise
        except BaseException:
            limiter.cancel(round_trip)
            raise
        limiter.end(round_trip, began, clock())
        return response

    return call
