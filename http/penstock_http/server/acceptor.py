"""Accept connections, from a socket of this process or from one that several processes share."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Protocol

from penstock_http.processes.connection_counts import ABSENT, ConnectionCounts
from penstock_http.server.connection import BACKLOG, EXHAUSTED_ERRNOS, MAX_ACCEPTS, stop_listening

PATIENCE_SECONDS = 0.15
"""Seconds that a process with fewer connections has to accept one that waits. Halved each time that it does not.

A process that computes accepts between two iterations of its event loop, which may take a tenth of a second.
"""

CHECK_SECONDS = PATIENCE_SECONDS / 8
"""Seconds until a process that lets others go first checks whether they did.

Patience is counted in checks. So processes do not count as stuck because the machine has stalled.
"""

RESTORE_SECONDS = 1.0
"""Seconds after which the patience with processes that were stuck is restored."""

EXHAUSTED_SECONDS = 1.0
"""Seconds until the next attempt when file descriptors run out, as in asyncio."""


class Listener(Protocol):
    """Accepts connections."""

    async def close(self, *, drain: bool) -> None:
        """Accept the connections that clients have already made, if `drain`, then close the socket."""
        ...


class OwnListener:
    """Accepts connections from a socket that no other process has."""

    def __init__(self, listener: asyncio.Server) -> None:
        self._listener = listener

    @classmethod
    async def start(cls, sock: socket.socket, factory: Callable[[], asyncio.Protocol]) -> OwnListener:
        """Begin to accept."""
        listener = await asyncio.get_running_loop().create_server(factory, sock=sock, backlog=MAX_ACCEPTS)
        sock.listen(BACKLOG)  # asyncio uses its `backlog` also as the number of connections accepted per iteration
        return cls(listener)

    async def close(self, *, drain: bool) -> None:
        """Accept the connections that clients have already made, if `drain`, then close the socket."""
        await stop_listening(self._listener, drain=drain)


class SharedListener:
    """Accepts connections from a shared listening socket.

    All processes wake up for a connection, and the first one that is not busy gets it. So an idle process would get all
    connections that are made at the same time, and streams live long. A process that has more connections than another
    one therefore lets that one go first.
    """

    def __init__(
        self,
        sock: socket.socket,
        factory: Callable[[], asyncio.Protocol],
        open_connections: Callable[[], int],
        counts: ConnectionCounts,
        number: int,
    ) -> None:
        self._sock = sock
        self._factory = factory
        self._open_connections = open_connections
        self._counts = counts
        self._number = number
        self._loop = asyncio.get_running_loop()
        self._accepted: set[asyncio.Task[object]] = set()
        """Connections that were accepted in this iteration."""
        self._waiting: asyncio.TimerHandle | None = None
        self._patience = PATIENCE_SECONDS
        self._restore_at = 0.0
        self._closed = False

    def start(self) -> None:
        """Begin to accept."""
        self._sock.listen(BACKLOG)
        self._update()
        self._loop.add_reader(self._sock, self._on_readable)

    async def close(self, *, drain: bool) -> None:
        """Accept the connections that clients have already made, if `drain`, then close the socket."""
        self._pause()
        if drain:
            for _ in range(BACKLOG):
                if not self._accept():
                    break
            self._pause()
        self._closed = True
        self._counts.set(self._number, ABSENT)
        self._sock.close()
        if self._accepted:
            await asyncio.wait(self._accepted, timeout=EXHAUSTED_SECONDS)

    def _on_readable(self) -> None:
        self._update()  # connections may have ended
        for _ in range(MAX_ACCEPTS):
            if not self._counts.is_lowest(self._number):
                self._pause()
                if self._loop.time() >= self._restore_at:
                    self._patience = PATIENCE_SECONDS
                self._wait(self._patience)
                return
            if not self._accept():
                return

    def _wait(self, seconds: float) -> None:
        """Let others accept what waits, for so many seconds at most."""
        delay = min(CHECK_SECONDS, seconds)
        self._waiting = self._loop.call_later(delay, self._check, seconds - delay)

    def _check(self, seconds_left: float) -> None:
        if self._counts.is_lowest(self._number):
            self._resume()
        elif seconds_left > 0:
            self._wait(seconds_left)
        else:
            self._accept_late()

    def _accept_late(self) -> None:
        self._resume()
        if self._accept():  # the others are stuck
            if self._patience == PATIENCE_SECONDS:
                self._restore_at = self._loop.time() + RESTORE_SECONDS
            self._patience /= 2

    def _accept(self) -> bool:
        """Accept one connection. Returns False if there is none."""
        try:
            connection, _ = self._sock.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return False
        except OSError as error:
            if error.errno not in EXHAUSTED_ERRNOS:
                raise
            self._loop.call_exception_handler(
                {"message": "socket.accept() out of system resource", "exception": error, "socket": self._sock}
            )
            self._pause()
            self._waiting = self._loop.call_later(EXHAUSTED_SECONDS, self._resume)
            return False
        connection.setblocking(False)
        task = self._loop.create_task(self._connect(connection), name="http:accept")
        self._accepted.add(task)
        task.add_done_callback(self._on_connected)
        self._update()
        return True

    async def _connect(self, connection: socket.socket) -> None:
        await self._loop.connect_accepted_socket(self._factory, connection)

    def _on_connected(self, task: asyncio.Task[object]) -> None:
        self._accepted.discard(task)
        self._update()

    def _update(self) -> None:
        if not self._closed:
            self._counts.set(self._number, self._open_connections() + len(self._accepted))

    def _pause(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
        self._loop.remove_reader(self._sock)

    def _resume(self) -> None:
        self._waiting = None
        self._loop.add_reader(self._sock, self._on_readable)
