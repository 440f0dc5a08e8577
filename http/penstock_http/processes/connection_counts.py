"""How many connections each process has, in memory that all of them share, so that they can be spread evenly."""

from __future__ import annotations

import mmap
import os
import tempfile

COUNTS = "connection-counts"
"""The name of the descriptor of the shared memory."""

MAX_NUMBER = 128
"""The highest number of a process: twice the maximum of `--processes`, during a rolling replacement."""

ABSENT = -1
"""The count of a process that accepts no connections."""


def anonymous_file(name: str, size: int) -> int:
    """Return the descriptor of a file of zeros that no path leads to, in memory where the system can do that."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create(name)
    else:
        descriptor, path = tempfile.mkstemp()
        os.unlink(path)
    os.ftruncate(descriptor, size)
    return descriptor


class ConnectionCounts:
    """The counts of all processes. Each writes only its own; the parent writes those of processes that are gone.

    A count may be outdated for a moment. Then a connection goes to a process that has one more than another.
    """

    def __init__(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, MAX_NUMBER * 8)
        self._counts = memoryview(self._memory).cast("q")

    def set(self, number: int, count: int) -> None:
        """Set the count of a process."""
        self._counts[number - 1] = count

    def is_lowest(self, number: int) -> bool:
        """Whether no process that accepts connections has fewer of them than this one."""
        own = self._counts[number - 1]
        return not any(0 <= count < own for count in self._counts)


class SharedConnectionCounts:
    """The parent's side. It implements `Resource`."""

    def __init__(self) -> None:
        self._descriptor = anonymous_file("penstock-connections", MAX_NUMBER * 8)
        self._counts = ConnectionCounts(self._descriptor)
        for number in range(1, MAX_NUMBER + 1):
            self._counts.set(number, ABSENT)

    def attach(self, number: int) -> dict[str, int]:
        """Return a descriptor of the memory."""
        return {COUNTS: os.dup(self._descriptor)}

    def detach(self, number: int) -> None:
        """Note that a process accepts nothing any more."""
        self._counts.set(number, ABSENT)

    async def aclose(self) -> None:
        """Close the descriptor of the parent."""
        os.close(self._descriptor)
