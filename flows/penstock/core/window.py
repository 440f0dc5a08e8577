"""Credits: how many elements and bytes of a run may be in flight.

A source acquires a credit and the bytes of an element before it emits it; settling the element releases them. So
`free + in flight == capacity` at every moment, and the operators between the source and the result consumer can hold no
more than the window, whichever they are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

ELEMENTS = 256
"""Default maximum of elements in flight per run."""

BYTES = 16 * 1024 * 1024
"""Default maximum of bytes of input in flight per run."""


class Window:
    """The maximum of elements and bytes that one run may hold.

    Releasing a credit wakes the waiting source through a future: no upstream code runs inside the call.
    """

    __slots__ = (
        "_capacity",
        "_counted",
        "_wait_seconds",
        "_waiting_since",
        "bytes",
        "elements",
        "free",
        "free_bytes",
        "peak",
    )

    def __init__(self, elements: int = ELEMENTS, bytes: int = BYTES) -> None:
        if elements < 1 or bytes < 1:
            raise ValueError(
                f"window: expected at least 1 element and 1 byte, got {elements} elements and {bytes} bytes"
            )
        self.elements = elements
        self.bytes = bytes
        self.free = elements
        self.free_bytes = bytes
        self.peak = 0
        """The maximum of elements in flight so far."""
        self._capacity: asyncio.Future[None] | None = None
        self._waiting_since = 0.0
        self._counted = True
        self._wait_seconds = 0.0

    @property
    def in_flight(self) -> int:
        """Acquired credits."""
        return self.elements - self.free

    @property
    def wait_seconds(self) -> float:
        """Seconds that the source waited for credits, including a wait that still lasts."""
        capacity = self._capacity
        if capacity is None or not self._counted:
            return self._wait_seconds
        return self._wait_seconds + capacity.get_loop().time() - self._waiting_since

    def acquire(self, count: int, sizes: Sequence[int] | None = None, start: int = 0) -> int:
        """Acquire credits for as many of the next `count` elements as fit now; return how many, maybe 0.

        `sizes`, from `start` on, are the sizes of these elements in bytes. None may exceed the whole window.
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
        """Return credits, and wake the source if it waits for them."""
        self.free += count
        self.free_bytes += size
        if self.free > self.elements or self.free_bytes > self.bytes:
            raise AssertionError(f"more credits came back than were taken: {self.free} of {self.elements} free")
        if self._capacity is not None and not self._capacity.done():
            self._capacity.set_result(None)

    def reset(self) -> None:
        """Return all credits, at the end of the run."""
        self.free = self.elements
        self.free_bytes = self.bytes

    async def wait_for_capacity(self, *, counted: bool = True) -> None:
        """Wait until a credit is returned. One source may wait at a time. `counted` adds the time to `wait_seconds`."""
        if self._capacity is not None:
            raise RuntimeError("two sources wait for the same window; a run has one source")
        loop = asyncio.get_running_loop()
        self._capacity = loop.create_future()
        self._waiting_since, self._counted = loop.time(), counted
        try:
            await self._capacity
        finally:
            if counted:
                self._wait_seconds += loop.time() - self._waiting_since
            self._capacity = None
