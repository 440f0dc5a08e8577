"""The progress of a run, redrawn as one line on a terminal, and the summary line at its end."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, TextIO

from penstock.results import EndRecord

PAUSE = 0.25
"""Seconds between two redraws."""

RECENT = 20
"""Redraws over which the rate is computed: 5 seconds."""


class ProgressSnapshot(NamedTuple):
    """The counters of a run at one moment."""

    received: int
    ok: int
    failed: int
    filtered: int
    in_flight: int
    fraction_read: float | None
    """How much of the input was read, from 0 to 1, if that is known."""
    awaited_service: str | None = None
    """A service that is down, for which elements wait."""


class Progress:
    """Draws the progress of a run, without blocking it. Calls `snapshot` before each redraw."""

    def __init__(self, name: str, snapshot: Callable[[], ProgressSnapshot], stream: TextIO) -> None:
        self._name = name
        self._snapshot = snapshot
        self._stream = stream
        self._loop = asyncio.get_running_loop()
        self._started = self._loop.time()
        self._recent: deque[tuple[float, int]] = deque(maxlen=RECENT)

    async def draw(self) -> None:
        """Draw until cancelled, then leave an empty line."""
        try:
            while True:
                progress = self._snapshot()
                now = self._loop.time()
                self._recent.append((now, progress.received - progress.in_flight))
                text = progress_line(self._name, progress, self._rate(), now - self._started)
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
        except OSError:  # the terminal was closed; the run continues
            pass


def progress_line(name: str, progress: ProgressSnapshot, rate: float, seconds: float) -> str:
    """Format the progress of a run as one line."""
    fraction = "" if progress.fraction_read is None else f"{progress.fraction_read:4.0%}  "
    filtered = f"  {progress.filtered:,} filtered" if progress.filtered else ""
    waits = f", waiting for {progress.awaited_service}" if progress.awaited_service else ""
    return (
        f"{name}  {fraction}{progress.received:,} received  {progress.ok:,} ok  {progress.failed:,} failed{filtered}  "
        f"{progress.in_flight:,} in flight{waits}  {rate:,.0f}/s  {clock(seconds)}"
    )


def summary_line(name: str, end: EndRecord) -> str:
    """Format the result of a run as one line."""
    parts = [f"{end.received:,} received", f"{end.ok:,} ok", f"{end.failed:,} failed"]
    parts += [f"{end.filtered:,} filtered"] if end.filtered else []
    parts += [f"{end.cancelled:,} cancelled"] if end.cancelled else []
    rate = f" ({end.received / end.seconds:,.0f}/s)" if end.seconds else ""
    return f"{name}: {end.reason}: {', '.join(parts)} in {clock(end.seconds)}{rate}"


def clock(seconds: float) -> str:
    """Format a duration: 0.31 s, 12 s, 4:05, 1:04:05."""
    if seconds < 60:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
