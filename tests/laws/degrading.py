"""Services that are overloaded beyond a number of calls in flight, and callers, in virtual time without a loop."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from typing import Protocol

SECONDS = 0.05
"""Time of a call without overload, on average."""
TIMEOUT = 2.0


class Limiter(Protocol):
    """What decides how many calls may be in flight."""

    limit: int
    in_flight: int

    def begin(self) -> int: ...

    def end(
        self, round_trip: int, began: float, now: float, *, rejected: bool = False, timed_out: bool = False
    ) -> None: ...


class FixedLimit:
    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.in_flight = 0

    def begin(self) -> int:
        self.in_flight += 1
        return 0

    def end(
        self, round_trip: int, began: float, now: float, *, rejected: bool = False, timed_out: bool = False
    ) -> None:
        self.in_flight -= 1


class Server:
    """Handles `capacity` calls at once. `respond` is given the calls that it works on, this one included."""

    def __init__(self, kind: str, capacity: int = 40, spread: str = "even", seed: int = 1) -> None:
        self.kind, self.capacity, self.spread = kind, capacity, spread
        self.seconds = SECONDS
        self.rng = random.Random(seed)
        self.busy_until: list[float] = []

    def respond(self, now: float, calls: int) -> tuple[float, str]:
        """Return after how many seconds the call ends, and how: `ok`, `rejected`, `timed_out`, `failed`."""
        excess = max(0, calls - self.capacity) / max(1, self.capacity)
        match self.kind:
            case "queues":
                return self._queue(now), "ok"
            case "slows down":
                return self._draw() * (1 + 20 * excess), "ok"
            case "rejects" if excess:
                return 0.001, "rejected"
            case "hangs" if excess:
                return TIMEOUT, "timed_out"
            case "fails a third" if self.rng.random() < 1 / 3:
                return self._draw(), "rejected"
            case "rejects a third at once" if self.rng.random() < 1 / 3:
                return 0.002, "rejected"
            case _:
                return self._draw(), "ok"

    def _draw(self) -> float:
        if self.spread == "even":
            return self.seconds * self.rng.uniform(0.8, 1.2)
        return self.rng.expovariate(1 / self.seconds)

    def _queue(self, now: float) -> float:
        while len(self.busy_until) < self.capacity:
            heapq.heappush(self.busy_until, now)
        while len(self.busy_until) > self.capacity:
            self.busy_until.remove(max(self.busy_until))
            heapq.heapify(self.busy_until)
        end = max(now, self.busy_until[0]) + self._draw()
        heapq.heapreplace(self.busy_until, end)
        return end - now


class Callers:
    """Make as many calls as the limit allows: there are always more of them."""

    def __init__(self, limiter: Limiter, server: Server) -> None:
        self.limiter, self.server = limiter, server
        self.now = 0.0
        self.counts = {"ok": 0, "rejected": 0, "timed_out": 0}
        self.mean_limit = 0.0
        self._ends: list[tuple[float, int, float, int, str]] = []
        self._calls = 0
        self._accepted = 0

    def run(self, seconds: float, *, demand: Callable[[], int] | None = None) -> float:
        """Make calls for some seconds. Return the successes a second, by which `mean_limit` is set too."""
        began, ok, area = self.now, self.counts["ok"], 0.0
        limiter = self.limiter
        while self.now < began + seconds:
            while limiter.in_flight < min(limiter.limit, demand() if demand else limiter.limit):
                round_trip = limiter.begin()
                took, how = self.server.respond(self.now, self._accepted + 1)
                self._accepted += how != "rejected"
                if took >= TIMEOUT:
                    took, how = TIMEOUT, "timed_out"
                self._calls += 1
                heapq.heappush(self._ends, (self.now + took, self._calls, self.now, round_trip, how))
            end, _, start, round_trip, how = heapq.heappop(self._ends)
            area += limiter.limit * (end - self.now)
            self.now = end
            self.counts[how] += 1
            self._accepted -= how != "rejected"
            limiter.end(round_trip, start, end, rejected=how == "rejected", timed_out=how == "timed_out")
        self.mean_limit = area / (self.now - began)
        return (self.counts["ok"] - ok) / (self.now - began)
