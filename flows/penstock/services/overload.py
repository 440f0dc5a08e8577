"""Measure the calls of a service, to tell whether it is overloaded. Pure: no I/O, no tasks.

Overload is recognized as in TCP Vegas and in Netflix' concurrency-limits: by the latency, compared with that of the
service without overload, and by failures. Only a *rise* counts, because a service may reject a third of its elements by
design:

- Rejections (429, 503) are overload if their share exceeds the usual share.
- Timeouts are overload if the share of the time that they took exceeds the usual one: a call that hangs fills a place.
- All other errors are responses like any other.
"""

from __future__ import annotations

import math

from msgspec import Struct

MIN_SAMPLES = 16
MAX_SAMPLES = 256
"""Calls that are measured: so many that a verdict is clear despite random errors."""

MANY_TIMEOUTS = 0.2
MOST_TIMEOUTS = 0.5
"""Shares of the calls. If most of them time out, that is never the usual state of the service."""

TOLERANCE = 1.35
"""How many times the baseline the latency may be."""

MARGIN = 0.1
"""How much the share of failures may exceed the usual share, beside its random error."""

IMPROVED = 0.8
"""A latency improved if it is below this part of what it was; the share of successes if above the reciprocal."""

INSTANT = 1e-4
"""Seconds. Latencies below this are treated as equal."""


class Measurement(Struct, frozen=True):
    """The latency of calls, and the share of them that failed because the service was overloaded."""

    latency: float
    """Logarithm of the geometric mean in seconds: a few slow calls among many do not dominate it."""
    error: float
    """Standard error of it."""
    failed: float
    """Share of the calls that were rejected, or half the share of the time that timeouts took: the larger one."""
    timed_out: float
    """Share of the calls that timed out."""
    calls: int

    @property
    def failed_error(self) -> float:
        """Two standard errors of the share."""
        return 2 * math.sqrt(self.failed * (1 - self.failed) / self.calls)

    def is_clear(self, baseline: Measurement | None) -> bool:
        """Whether more calls would not change the verdict; without a baseline, whether this can be one."""
        if self.timed_out > MANY_TIMEOUTS:
            return True
        if baseline is None:
            return self.error <= 0.15
        excess = self._excess(baseline)
        return excess >= 3 * self.error if excess > 0 else -excess >= 2 * self.error

    def is_overload(self, baseline: Measurement) -> bool:
        """Whether the service is overloaded."""
        tolerated = baseline.failed + max(baseline.failed_error, self.failed_error) + MARGIN
        return self._excess(baseline) > 2 * self.error or self.failed > tolerated

    def improves_on(self, before: Measurement) -> bool:
        """Whether the service is less overloaded than it was."""
        faster = self.latency - before.latency < math.log(IMPROVED)
        return faster or (1 - self.failed) * IMPROVED > 1 - before.failed

    def first_baseline(self) -> Measurement:
        """Return the baseline that this is as the first measurement: rather too high, because it can be lowered."""
        return Measurement(self.latency + self.error, self.error, self.failed, self.timed_out, self.calls)

    def lower(self, baseline: Measurement) -> Measurement:
        """Return the baseline, a quarter nearer to this measurement as far as that is certainly lower."""
        latency = min(0.0, self.latency + 3 * self.error - baseline.latency)
        failed = min(0.0, self.failed + self.failed_error - baseline.failed)
        if not latency and not failed:
            return baseline
        return Measurement(
            baseline.latency + latency / 4,
            baseline.error,
            baseline.failed + failed / 4,
            baseline.timed_out,
            baseline.calls,
        )

    def _excess(self, baseline: Measurement) -> float:
        """Return by how much the logarithm of the latency exceeds what is tolerated."""
        return self.latency - baseline.latency - math.log(TOLERANCE)


class Samples:
    """Calls that ended, as sums."""

    __slots__ = ("_log_sum", "_rejected", "_seconds", "_square_sum", "_timed_out", "_timed_out_seconds", "calls")

    def __init__(self) -> None:
        self.calls = 0
        self._rejected = 0
        self._timed_out = 0
        self._seconds = 0.0
        self._timed_out_seconds = 0.0
        self._log_sum = 0.0
        self._square_sum = 0.0

    def add(self, seconds: float, *, rejected: bool, timed_out: bool) -> None:
        """Add a call that ended after some seconds."""
        seconds = max(seconds, INSTANT)
        log = math.log(seconds)
        self.calls += 1
        self._seconds += seconds
        self._log_sum += log
        self._square_sum += log * log
        if rejected:
            self._rejected += 1
        elif timed_out:
            self._timed_out += 1
            self._timed_out_seconds += seconds

    def measurement(self) -> Measurement:
        """Return what the calls say. There must be one at least."""
        mean = self._log_sum / self.calls
        variance = max(0.0, self._square_sum / self.calls - mean * mean)
        lost = 0.0
        if self._timed_out > 9:  # less three standard errors: a few timeouts prove nothing
            lost = self._timed_out_seconds / self._seconds * (1 - 3 / math.sqrt(self._timed_out)) / 2
        return Measurement(
            latency=mean,
            error=math.sqrt(variance / self.calls),
            failed=max(self._rejected / self.calls, lost),
            timed_out=self._timed_out / self.calls,
            calls=self.calls,
        )
