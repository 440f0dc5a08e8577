"""Credits: what a run may have in flight.

A source takes a credit for an element, and its bytes, before it emits it; settling the element gives them back.
So `free + in flight == capacity` at every moment, and whatever lies between source and sink can hold no more than
the window, whichever operators that is made of.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

ELEMENTS = 256
"""How many elements a run may hold unless told otherwise."""

BYTES = 16 * 1024 * 1024
"""How many bytes of input a run may hold unless told otherwise."""


class Window:
    """How many elements and bytes one run may hold.

    Giving a credit back wakes the waiting source through a future: nothing upstream runs inside the call.
    """

    __slots__ = ("_counted", "_room", "_since", "_waited", "bytes", "elements", "free", "free_bytes", "peak")

    def __init__(self, elements: int = ELEMENTS, bytes: int = BYTES) -> None:
        if elements < 1 or bytes < 1:
            raise ValueError(f"a window needs at least 1 element and 1 byte, got {elements} elements and {bytes} bytes")
        self.elements = elements
        self.bytes = bytes
        self.free = elements
        self.free_bytes = bytes
        self.peak = 0
        """The most elements that were ever in flight at once."""
        self._room: asyncio.Future[None] | None = None
        self._since = 0.0
        self._counted = True
        self._waited = 0.0

    @property
    def in_flight(self) -> int:
        """Credits that are taken."""
        return self.elements - self.free

    @property
    def wait_seconds(self) -> float:
        """Seconds that the source stood waiting for credits, a wait that still lasts included."""
        room = self._room
        return self._waited + (room.get_loop().time() - self._since if room is not None and self._counted else 0.0)

    def acquire(self, count: int, sizes: Sequence[int] | None = None, start: int = 0) -> int:
        """Take credits for as many of the next `count` elements as fit now; returns how many (0: none).

        `sizes`, from `start` on, are their sizes in bytes, none of which may be larger than the whole window.
        """
        taken = min(count, self.free)
        if sizes is not None and taken:
            size = sum(sizes[start : start + taken])
            while size > self.free_bytes:
                taken -= 1
                size -= sizes[start + taken]
            self.free_bytes -= size
        self.free -= taken
        if self.elements - self.free > self.peak:
            self.peak = self.elements - self.free
        return taken

    def release(self, count: int, size: int = 0) -> None:
        """Return credits, and wake the source that waits for them."""
        self.free += count
        self.free_bytes += size
        if self.free > self.elements or self.free_bytes > self.bytes:
            raise AssertionError(f"more credits came back than were taken: {self.free} of {self.elements} free")
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def reset(self) -> None:
        """Return all credits: the run is over."""
        self.free = self.elements
        self.free_bytes = self.bytes

    async def wait_for_capacity(self, *, counted: bool = True) -> None:
        """Wait until a credit comes back. One source waits at a time; `counted` says whether for want of credits."""
        if self._room is not None:
            raise RuntimeError("two sources wait for the same window; a run has one source")
        loop = asyncio.get_running_loop()
        self._room = loop.create_future()
        self._since, self._counted = loop.time(), counted
        try:
            await self._room
        finally:
            if counted:
                self._waited += loop.time() - self._since
            self._room = None
