"""Standard output of several processes of one service: they write in turns."""

from __future__ import annotations

import asyncio

from penstock.sinks.siblings import STDOUT, STDOUT_WANTED, Siblings, current_siblings

POLL_SECONDS = 0.005
"""Seconds between two attempts to get the turn. A thread that waits for it could not be cancelled."""

HEADER_WRITTEN, LINE_OPEN = 1, 2
"""Bits in shared memory: a process has written the header of CSV; a process has begun a line and not ended it."""


class StdoutTurn:
    """The turn of this process to write to standard output. The only process of a service always has it."""

    def __init__(self) -> None:
        self._siblings: Siblings | None = None
        """The siblings that are excluded."""
        self._had_it = False
        """Whether this process had the turn last."""

    @property
    def header_written(self) -> bool:
        """Whether a sibling has written the header of CSV. Known during the turn."""
        return self._siblings is not None and bool(self._siblings.size(STDOUT) & HEADER_WRITTEN)

    async def begin(self) -> bool:
        """Wait for the turn. Returns whether a process that was killed has left an incomplete line."""
        siblings = current_siblings()
        if siblings is None or self._siblings is not None:
            return False
        if self._had_it and siblings.size(STDOUT_WANTED):
            await asyncio.sleep(2 * POLL_SECONDS)  # otherwise a busy process would get it again and again
        while not siblings.try_lock(STDOUT):
            siblings.set_size(STDOUT_WANTED, 1)
            await asyncio.sleep(POLL_SECONDS)
        siblings.set_size(STDOUT_WANTED, 0)
        self._siblings, self._had_it = siblings, True
        return bool(siblings.size(STDOUT) & LINE_OPEN)

    def note_line(self, *, is_open: bool) -> None:
        """Record whether a line is incomplete now, for the siblings in case that this process is killed."""
        self._set(LINE_OPEN, is_open)

    def note_header(self) -> None:
        """Record that the header of CSV is written."""
        self._set(HEADER_WRITTEN, True)

    def end(self) -> None:
        """Give the turn to a sibling."""
        siblings, self._siblings = self._siblings, None
        if siblings is not None:
            siblings.unlock(STDOUT)

    def _set(self, bit: int, value: bool) -> None:
        if self._siblings is not None:
            bits = self._siblings.size(STDOUT) & ~bit
            self._siblings.set_size(STDOUT, bits | bit if value else bits)
