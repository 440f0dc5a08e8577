"""The progress of a run, as one line on a terminal that is drawn again and again, and its summary at the end."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, TextIO

from penstock.results import EndRecord

PAUSE = 0.25
"""Seconds between two drawings."""

RECENT = 20
"""Drawings that the rate is taken over: 5 seconds."""


class ProgressSnapshot(NamedTuple):
    """How a run stands."""

    received: int
    ok: int
    failed: int
    filtered: int
    in_flight: int
    share: float | None
    """How much of the input was read, from 0 to 1, where that is known."""


class Progress:
    """Draws how a run stands. Asks `look`, and never holds the run up."""

    def __init__(self, name: str, look: Callable[[], ProgressSnapshot], stream: TextIO) -> None:
        self._name = name
        self._look = look
        self._stream = stream
        self._loop = asyncio.get_running_loop()
        self._begun = self._loop.time()
        self._recent: deque[tuple[float, int]] = deque(maxlen=RECENT)

    async def draw(self) -> None:
        """Draw until cancelled, then leave an empty line behind."""
        try:
            while True:
                standing = self._look()
                now = self._loop.time()
                self._recent.append((now, standing.received - standing.in_flight))
                text = progress_line(self._name, standing, self._rate(), now - self._begun)
                self._put(f"\r{text[: self._width()]}\x1b[K")
                await asyncio.sleep(PAUSE)
        finally:
            self._put("\r\x1b[K")

    def _rate(self) -> float:
        (first, before), (last, after) = self._recent[0], self._recent[-1]
        return (after - before) / (last - first) if last > first else 0.0

    def _width(self) -> int:
        try:
            return os.get_terminal_size(self._stream.fileno()).columns - 1 or 79
        except (OSError, ValueError):
            return 79

    def _put(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError:  # the terminal is gone; the run goes on
            pass


def progress_line(name: str, standing: ProgressSnapshot, rate: float, seconds: float) -> str:
    """How a run stands, in one line."""
    share = "" if standing.share is None else f"{standing.share:4.0%}  "
    filtered = f"  {standing.filtered:,} filtered" if standing.filtered else ""
    return (
        f"{name}  {share}{standing.received:,} received  {standing.ok:,} ok  {standing.failed:,} failed{filtered}  "
        f"{standing.in_flight:,} in flight  {rate:,.0f}/s  {clock(seconds)}"
    )


def summary_line(name: str, end: EndRecord) -> str:
    """What became of a run, in one line."""
    parts = [f"{end.received:,} received", f"{end.ok:,} ok", f"{end.failed:,} failed"]
    parts += [f"{end.filtered:,} filtered"] if end.filtered else []
    parts += [f"{end.cancelled:,} cancelled"] if end.cancelled else []
    rate = f" ({end.received / end.seconds:,.0f}/s)" if end.seconds else ""
    return f"{name}: {end.reason}: {', '.join(parts)} in {clock(end.seconds)}{rate}"


def clock(seconds: float) -> str:
    """A time for people: 0.31 s, 12 s, 4:05, 1:04:05."""
    if seconds < 60:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
