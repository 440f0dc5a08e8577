"""No more than so many a second."""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial
from typing import Any, TypeVar

from penstock.core.context import RunContext
from penstock.core.element import Element, Operator
from penstock.core.operators import Downstream, async_operator

A = TypeVar("A")


def throttle(rate: float, *, burst: int = 1, name: str = "throttle") -> Operator[A, A]:
    """Let elements through at a rate, in elements per second, with up to `burst` at once after a pause.

    A token bucket: it fills with `rate` tokens a second up to `burst`, and an element takes one. Timers are good to a
    millisecond or so, so a rate of more than some hundred a second is reached with a larger `burst` only.

    **Takes in** elements. **Holds back** those that come faster; they wait, within the window, so the source slows to
    the rate. **Gives out** the same elements in the same order. **Ends** when its input has and none waits.

    >>> step = throttle(100, burst=10)
    """
    if not rate > 0 or burst < 1:
        raise ValueError(f"throttle needs a rate above 0 and a burst of at least 1, got {rate!r} and {burst!r}")

    return async_operator(name, partial(TokenBucket, rate, burst))


class TokenBucket:
    """The tokens of one run, and the elements that wait for them."""

    def __init__(self, rate: float, burst: int, observer: Downstream, scope: RunContext) -> None:
        self._rate = rate
        self._burst = burst
        self._observer = observer
        self._scope = scope
        self._tokens = float(burst)
        self._filled = scope.loop.time()
        self._waiting: deque[Element[Any]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._ended = False
        scope.on_close(self._close)

    def on_next(self, elements: list[Element[Any]]) -> None:
        """Let through what there are tokens for; elements that were decided before pass."""
        passing = [element for element in elements if element.outcome is not None]
        self._waiting.extend(element for element in elements if element.outcome is None)
        if passing:
            self._observer.on_next(passing)
        if self._timer is None:
            self._let_through()

    def on_completed(self) -> None:
        """No further element will come."""
        self._ended = True
        if not self._waiting:
            self._observer.on_completed()

    def _let_through(self) -> None:
        self._timer = None
        now = self._scope.loop.time()
        self._tokens = min(self._burst, self._tokens + (now - self._filled) * self._rate)
        self._filled = now
        # A hair less than a token is a token: the clock's own error must not cost a round of waiting.
        count = min(len(self._waiting), int(self._tokens + 1e-6))
        self._tokens -= count
        through = [self._waiting.popleft() for _ in range(count)]
        if self._waiting:
            self._timer = self._scope.loop.call_later((1 - self._tokens) / self._rate, self._let_through)
        if through:
            self._scope.emit(self._observer, through)
        if self._ended and not self._waiting:
            self._scope.complete(self._observer)

    def _close(self) -> list[asyncio.Future[Any]]:
        if self._timer is not None:
            self._timer.cancel()
        return []
