"""What the parts of the service that have a side in the parent process use of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from msgspec import Struct

from penstock_http.processes.peers import ASK_SECONDS


class Resource(Protocol):
    """Something that the parent shares with all processes by file descriptors, such as sockets or shared memory."""

    def attach(self, number: int) -> dict[str, int]:
        """Return names and file descriptors for a process that is about to start.

        The process finds them in its `descriptors` under the same names. The parent closes its copies after the start,
        so a descriptor that the parent continues to use must be duplicated for each process. Names of several resources
        must differ. May be called again for a number after its `detach`.
        """
        ...

    def detach(self, number: int) -> None:
        """Release what belonged to a process. It has exited, or could not be started."""
        ...


class ProcessCounts(Struct, frozen=True):
    """The processes as the parent sees them: the answer to the topic `parent-processes`, in msgpack."""

    up: dict[int, bool]
    """Each process by number; False for one that is starting again, waits for that, or does not answer."""
    restarts: dict[str, int]
    """How many processes were started again, by reason: `crashed` or `frozen`."""
    leader: int
    """The number of the process that runs what must not run twice; 0 if there is none."""
    starting: tuple[int, ...] = ()
    """The processes that start, or will be started again."""


PROCESS_COUNTS = "parent-processes"
"""The topic of the parent that returns `ProcessCounts`."""


class ParentProcess(Protocol):
    """The parent, as its parts see it. All methods belong to its event loop."""

    def on(self, topic: str, handler: Callable[[int, bytes], Awaitable[bytes]]) -> None:
        """Answer questions of processes (`Peers.ask_parent`) with a handler.

        It gets the number of the process and the payload.
        """
        ...

    async def tell(self, number: int, topic: str, payload: bytes = b"", timeout: float = ASK_SECONDS) -> bytes:
        """Ask one process, whose handler was set with `Peers.on`, and return its answer.

        Raises `NoAnswer` after `timeout` seconds, or if the process is gone or its handler raised an error.
        """
        ...

    def on_exit(self, callback: Callable[[int], object]) -> None:
        """Call back with the number of each process that has exited, after the resources were detached."""
        ...

    def on_ready(self, callback: Callable[[int], object]) -> None:
        """Call back with the number of each process that serves from now on."""
        ...

    def kill(self, number: int, reason: str) -> None:
        """Kill a process that does not do what it must, and start another one. `reason` is logged."""
        ...

    @property
    def exclusive(self) -> asyncio.Lock:
        """Held while a process starts, and during a deployment: a process that starts misses none."""
        ...

    @property
    def reloading(self) -> bool:
        """Whether the process that starts now is the first one after SIGHUP, which reads the flow files again."""
        ...

    @property
    def running(self) -> list[int]:
        """The numbers of the processes that serve, without those that are starting or being retired."""
        ...
