"""What an outlet is: a place outside that a flow delivers values to, beside its results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from typing_extensions import TypeVar

T = TypeVar("T", contravariant=True, default=Any)


class Sink(Protocol[T]):
    """A file, a table, a topic: a place that takes values, many in one write.

    Runs share an outlet. `to` opens it before the first write and closes it when no run uses it any more, and
    makes one call at a time, so an outlet needs no lock. After a close it may be opened again.
    """

    name: str
    """What failures of this outlet are called; empty for those that take the name of the step."""

    async def open(self) -> None:
        """Get ready for writes; raises if the outlet cannot take any. Cancelled or failed, it leaves nothing open."""

    async def write(self, values: Sequence[T]) -> Sequence[Exception | None] | None:
        """Take values, in their order; return when they are as safe as this outlet makes them.

        Returns None when all were taken, or for each value None or the error that it was refused with. An error that
        is raised refuses all of them. A write that is cancelled or refused leaves no half of a value behind.
        """

    async def aclose(self) -> None:
        """Finish what was taken and let go of everything; also after a write that failed."""
