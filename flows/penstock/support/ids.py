"""Generate ids of runs and letters, which sort by creation time (UUIDv7), and read the clock that they use."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from random import Random
from uuid import UUID

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)

CLOCK_SLACK = timedelta(minutes=1)
"""How far the clock may have been set back between the time of a letter and its id, in letters of older versions."""

getrandbits = Random().getrandbits  # noqa: S311 - ids must be unique, not secret


class UuidGenerator:
    """Generates UUIDs of version 7 that increase, also within a millisecond (RFC 9562, sections 5.7 and 6.2, method 2).

    48 bits of milliseconds, then 74 random bits, to which smaller random numbers are added within the millisecond. The
    last 48 bits are counted separately, because formatting only these digits halves the time of an id.
    """

    def __init__(self) -> None:
        self._milliseconds = 0
        self._middle = 0
        self._head = ""
        self._tail = 0

    def __call__(self, count: int, at: datetime | None = None) -> list[str]:
        milliseconds = time.time_ns() // 1_000_000 if at is None else (at - _EPOCH) // _MILLISECOND
        if milliseconds > self._milliseconds:
            self._milliseconds = milliseconds
            self._begin(getrandbits(25))  # the highest bit is reserved for additions
        ids: list[str] = []
        for _ in range(count):
            self._tail += getrandbits(32) + 1
            if self._tail >> 48:
                self._begin(self._middle + 1)
            ids.append(f"{self._head}{self._tail:012x}")
        return ids

    def _begin(self, middle: int) -> None:
        digits = f"{self._milliseconds:012x}"
        self._middle = middle
        self._head = f"{digits[:8]}-{digits[8:]}-7{middle >> 14:03x}-{0x8000 | middle & 0x3FFF:04x}-"
        self._tail = getrandbits(47)


new_ids = UuidGenerator()
"""Generate ids, each larger than all earlier ones of this process, and none older than the time `at`."""


def new_id() -> str:
    """Generate an id, larger than all earlier ones of this process."""
    return new_ids(1)[0]


def id_of(text: str) -> str:
    """Return an id in the form in which stores compare it. Raises `ValueError` for an invalid one."""
    try:
        return str(UUID(text))
    except ValueError:
        raise ValueError(f"invalid id of a dead letter: {text!r}") from None


def id_at(time: datetime, *, slack: timedelta = timedelta()) -> str:
    """Return a text that sorts before all ids created at a time minus `slack`, or later, and after all earlier ids."""
    milliseconds = max(0, (time - _EPOCH - slack) // _MILLISECOND)  # the time may be the earliest possible one
    digits = f"{milliseconds:012x}"
    return f"{digits[:8]}-{digits[8:]}"


def now() -> datetime:
    """Return the time in UTC, from the clock that ids use."""
    return _EPOCH + timedelta(microseconds=time.time_ns() // 1000)
