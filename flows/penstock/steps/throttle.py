"""Limit the rate of elements."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from penstock.core.context import RunContext
from penstock.core.element import Element, Operator
from penstock.core.operators import Downstream, async_operator
from penstock.steps.step import Step, check_count


@dataclass(frozen=True)
class Throttle(Step):
    """Limit the rate, in elements per second, with up to `burst` at once after a pause.

    A token bucket: it fills with `rate` tokens per second up to `burst`, and an element takes one. Timers are accurate
    to about a millisecond, so a rate of more than some hundred per second needs a larger `burst`.

    **Accepts** elements. **Backpressures when** they come faster than the rate: they wait, within the window, so the
    source slows to the rate. **Emits** the same elements in the same order. **Completes when** its input completes and
    no element waits.

    >>> step = Throttle(100, burst=10)
    """

    rate: float
    burst: int = field(default=1, kw_only=True)

    kind = "throttle"
    is_timed = False
    can_fail = False

    def __post_init__(self) -> None:
        if not self.rate > 0:
            raise ValueError(f"rate: expected a number of elements per second > 0, got {self.rate!r}")
        check_count("burst", self.burst)
        super().__post_init__()

    def operator(self) -> Operator[Any, Any]:
        return async_operator(self.name, partial(TokenBucket, self.rate, self.burst))

    def summary(self) -> tuple[str, ...]:
        return (f"{self.rate:g}/s", *((f"burst {self.burst}",) if self.burst > 1 else ()))


class TokenBucket:
    """The tokens of one run, and the elements that wait for one."""

    def __init__(self, rate: float, burst: int, observer: Downstream, context: RunContext) -> None:
        self._rate = rate
        self._burst = burst
        self._observer = observer
        self._context = context
        self._tokens = float(burst)
        self._filled = context.loop.time()
        self._waiting: deque[Element[Any]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._ended = False
        context.on_close(self._close)

    def on_next(self, elements: list[Element[Any]]) -> None:
        """Forward elements for which there is a token, and those that have an outcome already."""
        passing = [element for element in elements if element.outcome is not None]
        self._waiting.extend(element for element in elements if element.outcome is None)
        if passing:
            self._observer.on_next(passing)
        if self._timer is None:
            self._let_through()

    def on_completed(self) -> None:
        """Complete when no element waits."""
        self._ended = True
        if not self._waiting:
            self._observer.on_completed()

    def _let_through(self) -> None:
        self._timer = None
        now = self._context.loop.time()
        self._tokens = min(self._burst, self._tokens + (now - self._filled) * self._rate)
        self._filled = now
        # Tolerate clock rounding, so that a timer that fires early does not wait again.
        count = min(len(self._waiting), int(self._tokens + 1e-6))
        self._tokens -= count
        through = [self._waiting.popleft() for _ in range(count)]
        if self._waiting:
            self._timer = self._context.loop.call_later((1 - self._tokens) / self._rate, self._let_through)
        if through:
            self._context.emit(self._observer, through)
        if self._ended and not self._waiting:
            self._context.complete(self._observer)

    def _close(self) -> list[asyncio.Future[Any]]:
        if self._timer is not None:
            self._timer.cancel()
        return []
