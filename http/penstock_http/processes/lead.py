"""The lead: one process at a time runs what must not run twice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress

import structlog
from msgspec import msgpack

from penstock_http.processes.child import Child, State
from penstock_http.processes.member import LEAD, RELEASE
from penstock_http.processes.messages import TakeLead
from penstock_http.processes.peers import NoAnswer

EXIT_SECONDS = 1.0
"""Seconds that the exit of a process may be noticed later than the end of its connection."""

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class Lead:
    """Gives the lead to one of the processes. The next one gets it when the previous one has stopped, or is gone.

    A leader reports its progress, such as which workers have finished, now and then and when it releases the lead. The
    next one gets the last report.

    `kill` kills a process, for a reason, that does not take or release the lead within `timeout` seconds.
    """

    def __init__(
        self,
        children: Mapping[int, Child],
        stopping: asyncio.Event,
        kill: Callable[[int, str], None],
        timeout: float,
    ) -> None:
        self._children = children
        self._stopping = stopping
        self._kill = kill
        self._timeout = timeout
        self._leader: Child | None = None
        self._known = TakeLead(b"", released=True)
        """What the next leader gets."""
        self._lock = asyncio.Lock()

    @property
    def number(self) -> int:
        """The number of the process that leads; 0 if there is none."""
        return 0 if self._leader is None else self._leader.number

    async def appoint(self) -> None:
        """Have one of the processes lead, unless one does already."""
        async with self._lock:
            if self._stopping.is_set() or (self._leader is not None and self._leader.serves):
                return
            self._leader = None
            # The youngest first: a rolling replacement then moves the lead once.
            candidates = [child for child in self._children.values() if child.state is State.SERVING]
            for child in sorted(candidates, key=lambda child: child.started_at, reverse=True):
                if child.state is not State.SERVING:  # it is being replaced, or has ended, since others were asked
                    continue
                self._leader = child
                known, self._known = self._known, TakeLead(self._known.progress, released=False)
                try:
                    await child.call(LEAD, msgpack.encode(known), self._timeout)
                except NoAnswer as error:  # it may lead all the same
                    await self._end(child, f"it did not take the lead: {error}")
                    self._leader = None
                    continue
                log.info("process.leads", process=child.number, pid=child.pid)
                return

    async def note(self, number: int, progress: bytes) -> bytes:
        """Keep the progress that a process reports while it leads."""
        if number == self.number:
            self._known = TakeLead(progress, released=False)
        return b""

    async def release(self, child: Child) -> None:
        """If a process leads, have it stop leading, and then another one lead."""
        if child is not self._leader:
            return
        try:
            # No timeout: a run in the background may take as long as the process may. Its exit ends the wait.
            self._known = TakeLead(await child.call(RELEASE), released=True)
        except NoAnswer as error:
            await self._end(child, f"it did not release the lead: {error}")
        self._leader = None
        await self.appoint()

    async def _end(self, child: Child, reason: str) -> None:
        """Wait until a process that has not answered has exited. Kill it, unless it is just exiting by itself."""
        with suppress(TimeoutError):
            async with asyncio.timeout(EXIT_SECONDS):
                await child.wait()
                return
        self._kill(child.number, reason)
        await child.wait()
