"""How often a call is tried, and what a failed attempt comes to."""

from __future__ import annotations

import random
from collections.abc import Callable
from enum import Enum

from penstock.awaitables import refuse_awaitable
from penstock.errors import TimedOut
from penstock.services.backoff import Backoff
from penstock.services.lane import Again, Failed, Job, Lane


class At(Enum):
    """When another attempt is made."""

    ONCE = "by the same caller"
    ANOTHER_TIME = "after a wait, or never because its run left"


ONCE, ANOTHER_TIME = At
# By names of their own: looking one up in its class costs fifteen times as much on Python 3.11.


def worth_another(error: BaseException) -> bool:
    """Whether another attempt may help: yes, unless the error says that it is not `retryable`."""
    return bool(getattr(error, "retryable", True))


class Tries:
    """The attempts that a service makes, counted."""

    def __init__(
        self, most: int, backoff: Backoff, retry_on: Callable[[BaseException], bool], chance: random.Random
    ) -> None:
        self._most = most
        self._backoff = backoff
        self._retry_on = retry_on
        self._chance = chance
        self.errors = 0
        self.timeouts = 0
        self.retries = 0

    def _wants_another(self, error: Exception) -> bool:
        verdict: object = self._retry_on(error)
        if verdict and verdict is not True:
            refuse_awaitable(verdict, "retry_on")
        return bool(verdict)

    def after(self, lane: Lane, job: Job | Again, attempt: int, error: Exception) -> Failed | At:
        """What follows a failed attempt. A wait holds no place; an attempt that need not wait is made at once."""
        if isinstance(error, TimedOut):
            self.timeouts += 1
        else:
            self.errors += 1
        try:
            if attempt >= self._most or not self._wants_another(error):
                lane.failed += 1
                # Nobody shows it, and it keeps the frames of the call alive, which cost a failed element 2.7 of 13 µs.
                error.__traceback__ = None
                return Failed(error, attempt)
            asked: float | None = getattr(error, "retry_after", None)
            at_once = asked is None and not self._backoff.first
            seconds = 0.0 if at_once else self._backoff.seconds(attempt, self._chance, asked)
        except Exception as broken:  # a bug in retry_on or in an error must not take the caller with it
            broken.__cause__ = error
            lane.failed += 1
            return Failed(broken, attempt)
        self.retries += 1
        if seconds <= 0 and not lane.closed:
            return ONCE
        lane.again(Again(job.element if isinstance(job, Again) else job, attempt + 1), seconds)
        return ANOTHER_TIME
