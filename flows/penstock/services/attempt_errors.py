"""Decide what follows when an attempt of a call raises: another attempt now or later, or the failure of the call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import Enum
from typing import Any, Final

from penstock.errors import CallCancelled, CallTimeout
from penstock.services.breaker_guard import Attempt, BreakerGuard
from penstock.services.call_queue import (
    BEFORE_RETRY,
    DURING_CALL,
    Call,
    CallCounts,
    CallFailed,
    CallQueue,
    RetriedCall,
)
from penstock.services.pacing import Pacer
from penstock.services.retry import GiveUp, RetryPolicy

RETRY_NOW: Final = object()
"""The next attempt can be made now."""

NO_RESULT: Final = object()
"""The call has no result yet (it is retried later), or will have none (its run has ended)."""


class CancelReason(Enum):
    """Why a call was cancelled."""

    TIMED_OUT = "the call took too long"
    DEADLINE = "the deadline of the element has passed"
    RUN_ENDED = "the run has ended"


class DeadlinePassed(Exception):
    """The deadline of a call passes before its next attempt can start."""


class AttemptErrors:
    """Counts the attempts of a service that raise, notifies `guard` of them, and decides what follows."""

    __slots__ = ("_clock", "_counts", "_guard", "_pacer", "_retry", "_service", "_timeout")

    def __init__(
        self,
        service: str,
        timeout: float,
        retry: RetryPolicy,
        pacer: Pacer | None,
        counts: CallCounts,
        clock: Callable[[], float],
        guard: BreakerGuard | None,
    ) -> None:
        self._service = service
        self._timeout = timeout
        self._retry = retry
        self._pacer = pacer
        self._counts = counts
        self._clock = clock
        self._guard = guard

    def result(
        self,
        queue: CallQueue,
        call: Call | RetriedCall,
        made_by: Attempt,
        error: BaseException,
        reason: CancelReason | None,
        *,
        since: float,
        attempt: int = 1,
        at_once: int = 0,
        can_retry_now: bool = True,
    ) -> Any:
        """Return the result of a call that raised: `CallFailed`, `RETRY_NOW` or `NO_RESULT`.

        `reason` is why the attempt was cancelled, if it was. It began at `since`. `attempt` counts attempts that were
        made in a row, without taking the call from its queue again. `at_once` is how many calls failed in a row without
        waiting; 0 if this one has waited.
        """
        counts = self._counts
        earlier = call.attempt - 1 if type(call) is RetriedCall else 0
        if isinstance(error, DeadlinePassed):  # before the attempt
            queue.failed += 1
            return CallFailed(queue.deadline_exceeded(call), earlier + attempt - 1)
        if reason is not None:
            if queue.closed or reason is CancelReason.RUN_ENDED:
                counts.cancelled += 1
                counts.durations["cancelled"].add(self._clock() - since)
                return NO_RESULT
            if reason is CancelReason.DEADLINE:
                counts.timeouts += 1
                counts.durations["timeout"].add(self._clock() - since)
                queue.failed += 1
                return CallFailed(queue.deadline_exceeded(call, DURING_CALL), earlier + attempt)
            error = CallTimeout(self._service, self._timeout)
        elif isinstance(error, asyncio.CancelledError):
            error = CallCancelled(self._service)
        elif not isinstance(error, Exception):  # SystemExit and the like end the run, as in any other function
            counts.cancelled += 1
            counts.durations["cancelled"].add(self._clock() - since)
            queue.report_fault(error)
            return NO_RESULT

        if isinstance(error, CallTimeout):
            counts.timeouts += 1
            counts.durations["timeout"].add(self._clock() - since)
        else:
            counts.errors += 1
            if at_once:
                queue.immediate_errors += 1
            else:
                counts.durations["error"].add(self._clock() - since)
        attempt += earlier
        guard = self._guard
        if guard is not None and not queue.closed:
            guard.attempt_failed(made_by, attempt, error, at_once=at_once)
        decision = self._retry.decide(attempt, error)
        if isinstance(decision, GiveUp):
            queue.failed += 1
            final = decision.error
            if final is error:
                # The traceback is not used, and keeps the frames of the call alive: 2.7 of 13 µs per failed element.
                final.__traceback__ = None
            return CallFailed(final, attempt)
        if queue.deadlines is not None and self._clock() + decision.seconds >= call.deadline:
            queue.failed += 1
            return CallFailed(queue.deadline_exceeded(call, BEFORE_RETRY, error), attempt)
        counts.retries += 1
        pacer = self._pacer
        is_held = (pacer is not None and pacer.is_active) or (guard is not None and guard.circuit.is_limiting)
        if can_retry_now and decision.seconds <= 0 and not queue.closed and not is_held:
            return RETRY_NOW
        original = call.call if isinstance(call, RetriedCall) else call
        kept = None if queue.deadlines is None else error
        queue.retry_later(RetriedCall(original, attempt + 1, kept), decision.seconds)
        return NO_RESULT
