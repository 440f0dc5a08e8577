"""Ids of runs and letters, which sort by the time at which they were made; and that time."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from random import Random
from uuid import UUID

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)

CLOCK_SLACK = timedelta(minutes=1)
"""How far the clock may have been set back between a letter's time and its id, in letters of older versions."""

getrandbits = Random().getrandbits  # noqa: S311 - ids tell things apart, they keep no secret


class UuidGenerator:
    """Makes UUIDs of version 7 that grow, also within a millisecond (RFC 9562, sections 5.7 and 6.2, method 2).

    48 bits of milliseconds, then 74 bits of chance, to which a smaller chance is added while the millisecond lasts. The
    last 48 bits are counted by themselves, because writing only their digits anew halves the time of an id.
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
            self._begin(getrandbits(25))  # the highest bit is left for what is added
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
"""So many new ids, each larger than all that this process made before, and none older than the time `at`."""


def new_id() -> str:
    """A new id, larger than all that this process made before."""
    return new_ids(1)[0]


def id_of(text: str) -> str:
    """The id that a text names, as stores compare it; raises `ValueError` for one that is none."""
    try:
        return str(UUID(text))
    except ValueError:
        raise ValueError(f"no id of a dead letter: {text!r}") from None


def id_at(time: datetime, *, slack: timedelta = timedelta()) -> str:
    """A text that sorts before all ids that are made at a time, less some slack, or later; and after all others."""
    milliseconds = max(0, (time - _EPOCH - slack) // _MILLISECOND)  # the time itself may be the first that there is
    digits = f"{milliseconds:012x}"
    return f"{digits[:8]}-{digits[8:]}"


def now() -> datetime:
    """The time, in UTC, of the same clock that ids are made with."""
    return _EPOCH + timedelta(microseconds=time.time_ns() // 1000)
