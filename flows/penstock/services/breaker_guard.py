"""Applies the circuit breaker of a service: counts failures, holds waiting calls, starts probes, ends long waits."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection
from typing import Protocol

from penstock.errors import CallCancelled, CallTimeout, InvalidItem, ServiceFault, ServiceUnavailable, describe
from penstock.services.call_queue import CallCounts, CallQueue
from penstock.services.circuit_breaker import CLOCK_ERROR, Breaker, CircuitBreaker, FailedAttempt
from penstock.services.retry import RetryPolicy
from penstock.support.logger import get_logger

log = get_logger()


class Attempt(Protocol):
    """An attempt that has failed."""

    @property
    def started_at(self) -> float:
        """When it started. One that timed out may have started earlier."""
        ...


class BreakerGuard:
    """The circuit breaker of a service on an event loop.

    `queues` are those that are open; without one there is no timer. `in_flight` returns how many of the calls in flight
    started between two times. `on_change` is called when more or fewer calls may be in flight than before.
    """

    __slots__ = (
        "_clock",
        "_counts",
        "_loop",
        "_on_change",
        "_options",
        "_queues",
        "_retry",
        "_service",
        "_timer",
        "circuit",
    )

    def __init__(
        self,
        service: str,
        options: Breaker,
        retry: RetryPolicy,
        counts: CallCounts,
        queues: Collection[CallQueue],
        *,
        max_in_flight: int,
        in_flight: Callable[[float, float], int],
        on_change: Callable[[], None],
        rng: random.Random,
    ) -> None:
        self.circuit = CircuitBreaker(options, max_in_flight, rng, in_flight)
        self._service = service
        self._options = options
        self._retry = retry
        self._counts = counts
        self._queues = queues
        self._on_change = on_change
        self._loop: asyncio.AbstractEventLoop | None = None
        self._clock: Callable[[], float] = lambda: 0.0
        self._timer: asyncio.TimerHandle | None = None

    def bind_loop(self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float]) -> None:
        """Use another event loop. The service is tried there: the times of the other clock have no meaning."""
        self._loop, self._clock, self._timer = loop, clock, None
        self._counts.ok_started_at = float("-inf")
        self.circuit.reset()

    def add_queue(self, queue: CallQueue) -> None:
        """Hold the calls of a queue that opens while the breaker is open, and time the next probe."""
        if self.circuit.state != "closed":
            queue.hold(self._clock())
            self._set_timer()

    def stop(self) -> None:
        """Stop the timer. Required when no queue is open."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def attempt_failed(self, task: Attempt, attempt: int, error: Exception, *, at_once: int) -> None:
        """Count an attempt that failed; `at_once` is how many calls did so in a row without waiting."""
        circuit, now = self.circuit, self._clock()
        fault = self._fault_of(error)
        if fault is None:
            if circuit.is_limiting and not isinstance(error, (InvalidItem, CallCancelled)):
                self.record_responses(1, now)
            return
        opened = circuit.opened
        changed = circuit.record_failure(
            FailedAttempt(
                fault=fault,
                at_once=at_once,
                attempt=attempt,
                started_at=now - error.seconds if isinstance(error, CallTimeout) else task.started_at,
                successes=self._counts.ok + sum(len(each.completed) - each.failed for each in self._queues),
                success_started_at=self._counts.ok_started_at,
                runs=len(self._queues),
                retry_after=_retry_after(error),
            ),
            now,
        )
        if changed:
            self._report_opened(error, now, again=circuit.opened == opened)
            self._on_change()
        if circuit.state == "open":
            self._set_timer()

    def record_responses(self, count: int, now: float) -> None:
        """Count calls to which the service responded, while the breaker limits calls."""
        if self.circuit.record_responses(count, now):
            for queue in self._queues:
                queue.hold(None)
            self.stop()
            log.info("service.breaker_closed", service=self._service, seconds=round(self.circuit.last_open_seconds, 3))
        self._on_change()

    def _fault_of(self, error: Exception) -> ServiceFault | None:
        """Return what an error says about the service, if it does, and if `retry_on` accepts it."""
        try:
            fault = self._options.fault_of(error)
        except Exception:  # of an attribute of the error, or of a metaclass of `errors`
            return None
        return fault if fault is not None and self._retry.is_retryable(error) else None

    def _report_opened(self, error: Exception, now: float, *, again: bool) -> None:
        seconds = round(self.circuit.open_until - now, 3)
        if again:
            log.info("service.breaker_reopened", service=self._service, error=describe(error), seconds=seconds)
            return
        for queue in self._queues:
            queue.hold(now)
        failures = self.circuit.failures
        log.warning(
            "service.breaker_opened", service=self._service, failures=failures, error=describe(error), seconds=seconds
        )

    def _set_timer(self) -> None:
        """Set the timer to the next probe, or to the end of the longest wait if that is earlier."""
        self.stop()
        if self.circuit.state != "open" or not self._queues or self._loop is None:
            return
        waits = [since for queue in self._queues if (since := queue.held_since()) is not None]
        oldest = min(waits, default=self._clock())  # if none waits yet, a call may from now on
        when = min(self.circuit.open_until, oldest + self._options.max_open_wait)
        self._timer = self._loop.call_at(when, self._check)

    def _check(self) -> None:
        """Start probes if it is time. Otherwise fail the calls that have waited for too long.

        Not both: after a pause of the process the service is tried first.
        """
        self._timer = None
        now = self._clock()
        if self.circuit.begin_probes(now):
            self._on_change()
            return
        longest = self._options.max_open_wait
        expired = sum(
            queue.expire_held(
                now - longest + CLOCK_ERROR, lambda since: ServiceUnavailable(self._service, round(now - since, 3))
            )
            for queue in tuple(self._queues)
        )
        if expired:
            log.warning("service.waits_expired", service=self._service, calls=expired, seconds=longest)
        self._set_timer()


def _retry_after(error: Exception) -> float | None:
    seconds = getattr(error, "retry_after", None)
    return float(seconds) if isinstance(seconds, (int, float)) and seconds > 0 else None
