"""Pace the calls of a service as its responses ask: `Retry-After` and the quota of `RateLimit`. Pure: no I/O, no tasks.

A response that asks for a wait is about the client, not about one element. So all calls of the service wait, and
elements keep their credits, instead of every call being rejected once.
"""

from __future__ import annotations

import re
from collections.abc import Callable

MAX_PAUSE = 60.0
"""Maximum seconds that a service can stop its calls for at once. After that they are tried."""

_POLICY = re.compile(
    r'(?:^|,)[ \t]*("[^"]*"|[A-Za-z*][\w.*-]*)((?:[ \t]*;[ \t]*[a-z*][\w.*-]*=(?:"[^"]*"|[^;," \t]*))*)'
)
_PARAMETER = re.compile(r"([a-z]+)=(\d{1,12})(?![\w.])")


class Pacer:
    """When the next call to a service may start.

    `now` is a time of the event loop's clock. `in_flight` is kept by the function that sends the requests: the calls
    that the service may not have counted yet.
    """

    __slots__ = (
        "_paused_until",
        "_quota",
        "_renewed_at",
        "_started_wait",
        "_waited",
        "_window",
        "in_flight",
        "on_change",
    )

    def __init__(self) -> None:
        self.in_flight: int
        """Requests without a response."""
        self.on_change: Callable[[], None] | None = None
        """Called when calls may start earlier than before."""
        self._waited = 0.0
        self._window: tuple[int, float] | None = None
        """The number of calls that the service allows in so many seconds (`RateLimit-Policy`)."""
        self.reset()

    def reset(self) -> None:
        """Forget calls and what the service asked for. Required when another event loop is used."""
        self.in_flight = 0
        self._paused_until = 0.0
        self._quota: int | None = None
        """Calls that may start before the quota is renewed; None if there is no quota."""
        self._renewed_at = 0.0
        self._started_wait: float | None = None

    def paced_seconds(self, now: float) -> float:
        """Return for how many seconds calls have waited until `now`."""
        return self._waited + (0.0 if self._started_wait is None else now - self._started_wait)

    def pause(self, seconds: float, now: float) -> None:
        """Start no call for some seconds, at most `MAX_PAUSE`."""
        self._paused_until = max(self._paused_until, now + min(seconds, MAX_PAUSE))

    def limit(self, remaining: int, seconds: float, now: float, window: tuple[int, float] | None = None) -> None:
        """Start at most `remaining` calls, less those in flight, in the next `seconds`.

        `window` is the quota after that; without it one call is made, whose response tells.
        """
        before = self._quota
        self._window = window
        self._quota = max(0, remaining - self.in_flight)
        self._renewed_at = now + min(seconds, MAX_PAUSE)
        if self._quota and before == 0 and self.on_change is not None:
            self.on_change()

    def wait(self, now: float) -> float:
        """Return the seconds until the next call may start; 0 if it may start now."""
        if now < self._paused_until:
            return self._paused_until - now
        self._paused_until = 0.0
        if self._quota is None or self._quota > 0:
            return 0.0
        if now < self._renewed_at:
            return self._renewed_at - now
        if self._window is None:
            self._quota, self._renewed_at = 1, now + 1.0
        else:
            self._quota, self._renewed_at = self._window[0], now + min(self._window[1], MAX_PAUSE)
        return 0.0

    def start(self) -> None:
        """Count a call that starts."""
        if self._quota is not None:
            self._quota -= 1

    @property
    def is_active(self) -> bool:
        """Whether the service asked for anything, so that calls have to be counted."""
        return self._quota is not None or self._paused_until > 0

    @property
    def is_paused(self) -> bool:
        """Whether the service asked for a pause that was not over when `wait` was last asked."""
        return self._paused_until > 0

    def begin_wait(self, now: float) -> bool:
        """Note that calls wait. Return whether they did not wait already."""
        begins = self._started_wait is None
        if begins:
            self._started_wait = now
        return begins

    def end_wait(self, now: float) -> None:
        """Note that calls do not wait any more."""
        if self._started_wait is not None:
            self._waited += now - self._started_wait
            self._started_wait = None


def parse_rate_limit(text: str | None) -> tuple[int, float | None] | None:
    """Return the calls that remain and the seconds until there are more, of the header RateLimit; None without it.

    Of several policies the one that allows the fewest calls counts. Invalid ones are ignored, as the draft demands
    (draft-ietf-httpapi-ratelimit-headers-10).
    """
    found = [
        (parameters["r"], float(parameters["t"]) if "t" in parameters else None)
        for parameters in _policies(text)
        if "r" in parameters
    ]
    return min(found, key=lambda limit: limit[0], default=None)


def parse_rate_limit_policy(text: str | None) -> tuple[int, float] | None:
    """Return the calls in a window and its seconds, of the header RateLimit-Policy: the lowest rate of several."""
    found = [
        (parameters["q"], float(parameters["w"]))
        for parameters in _policies(text)
        if parameters.get("q", 0) > 0 and parameters.get("w", 0) > 0
    ]
    return min(found, key=lambda window: window[0] / window[1], default=None)


def _policies(text: str | None) -> list[dict[str, int]]:
    """Return the integer parameters of each item of a structured list (RFC 9651)."""
    if text is None or len(text) > 1000:
        return []
    return [
        {name: int(number) for name, number in _PARAMETER.findall(parameters)}
        for _, parameters in _POLICY.findall(text)
    ]
