"""The Sink protocol."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from typing_extensions import TypeVar

T = TypeVar("T", contravariant=True, default=Any)


class Sink(Protocol[T]):
    """A destination for values, such as a file, a table or a topic. One write takes many values.

    Runs share a sink. The step `to` opens it before the first write, closes it when no run uses it, and makes one call
    at a time, so a sink needs no lock. It may be opened again after it was closed. Sinks that are equal (`==`) are
    opened once and shared.

    A sink may have an attribute `path` or `url`. Graphs show it, and logs and messages do for a sink without a name,
    both without passwords.

    A sink that makes an object of each write may have attributes `max_values` and `max_wait`: the step `to` then
    collects up to `max_values` values for a write, and waits up to `max_wait` seconds for them. They stay in the window
    of the run meanwhile. When the window is full and all of its elements have arrived, the write begins at once.

    A sink of a server raises `SinkUnreachable`, from `open` or `write`, when it cannot reach its server, or returns it
    for some of the values: they wait and are written again. So it may only do that for values that were not written, or
    that may be written twice. Its attribute `repeatable` is whether that is true of all values of a write that exceeded
    its timeout.

    A sink that writes to files of this machine is a subclass of `LocalSink`, so that
    `penstock check`, `run` and `serve` can reject two uses of one file before anything is written.
    """

    name: str
    """The name of this sink in failures; if empty, the name of the step is used."""

    async def open(self) -> None:
        """Prepare for writes; raise if that is impossible. If cancelled or failed, it must leave nothing open."""

    async def write(self, values: Sequence[T]) -> Sequence[Exception | None] | None:
        """Write values in order. Return when they are as durable as this sink makes them.

        Returns None if all values were written, or one entry for each value: None, or the error that it was rejected
        with. A raised error rejects all values. A write that is cancelled or rejected must not leave a part of a value
        behind.
        """

    async def aclose(self) -> None:
        """Complete pending work and release all resources, also after a failed write."""
