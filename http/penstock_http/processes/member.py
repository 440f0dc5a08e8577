"""One of several processes, as it sees itself: its end of the channel to the parent."""

from __future__ import annotations

import asyncio
import socket

from msgspec import msgpack

from penstock_http.processes.channel import Channel
from penstock_http.processes.messages import Ask, Start
from penstock_http.processes.peers import ASK_SECONDS, Handler, NoAnswer, Topics

ASK = "ask"
"""The topic of the parent for questions to all processes."""

READY = "ready"
"""The topic of the parent for a process that serves."""

REPORT = "report"
"""The topic of the parent for the report of a shutdown."""

FAILED = "failed"
"""The topic of the parent for a process that cannot start."""

PING = "ping"
"""The topic of a process that shows that its event loop runs."""

RETIRE = "retire"
"""The topic of a process that is to finish what is open, because another one replaces it.

Answered when it accepts no further connections.
"""

LEAD = "lead"
"""The topic of a process that starts to run what must not run twice, with a `TakeLead`. Answered when it does."""

RELEASE = "release"
"""The topic of a process that stops to run it. Answered when it has stopped, with its progress for the next one."""

PROGRESS = "progress"
"""The topic of the parent for the progress of the process that leads, for the next one if it dies."""

REPORT_SECONDS = 2.0
"""Timeout of the report, at the end of a shutdown."""


class Member:
    """All processes, as one of several sees them. It implements `Peers`."""

    def __init__(self, start: Start) -> None:
        self.number = start.number
        self.count = start.count
        self.descriptors = start.descriptors
        """The descriptors of the resources that the parent shares, by name."""
        self.retiring = asyncio.Event()
        """Set when another process replaces this one."""
        self.left = asyncio.Event()
        """To be set when this process accepts no further connections."""
        self._topics = Topics()
        self._channel = Channel(self._topics.answer)
        self.on(PING, _pong)
        self.on(RETIRE, self._retire)

    async def open(self, connection: socket.socket) -> None:
        """Use the socket to the parent."""
        await self._channel.open(connection)

    async def ask(self, topic: str, payload: bytes = b"", *, timeout: float = ASK_SECONDS) -> dict[int, bytes | None]:
        """Ask every process, including this one, through the parent. See `Peers.ask`."""
        answer = await self._channel.call(ASK, msgpack.encode(Ask(topic, payload, timeout)), timeout + ASK_SECONDS)
        return msgpack.decode(answer, type=dict[int, bytes | None])

    async def ask_parent(self, topic: str, payload: bytes = b"", *, timeout: float = ASK_SECONDS) -> bytes:
        """Ask the parent. Raises `NoAnswer`."""
        return await self._channel.call(topic, payload, timeout)

    def on(self, topic: str, handler: Handler) -> None:
        """Answer questions about a topic with a handler."""
        self._topics.on(topic, handler)

    async def ready(self) -> None:
        """Tell the parent that this process serves."""
        await self._channel.call(READY, timeout=None)

    async def parent_gone(self) -> None:
        """Wait until the parent is gone."""
        await self._channel.closed.wait()

    async def report(self, payload: bytes) -> None:
        """Tell the parent how the shutdown went, if it is still there."""
        try:
            await self._channel.call(REPORT, payload, timeout=REPORT_SECONDS)
        except NoAnswer:
            return

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    async def _retire(self, _: bytes) -> bytes:
        self.retiring.set()
        await self.left.wait()
        return b""


async def _pong(_: bytes) -> bytes:
    return b""
