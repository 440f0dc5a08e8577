"""uvloop's event loop, where it differs from asyncio's in what Penstock relies on."""

from __future__ import annotations

import asyncio
import errno
import os
import selectors
import socket
import ssl
from collections.abc import Callable
from contextvars import Context
from math import ceil
from typing import Any, TypeVarTuple, Unpack

import uvloop

Ts = TypeVarTuple("Ts")

RETRY_SECONDS = 1.0
"""Seconds until connections are accepted again when file descriptors have run out, as with asyncio."""

LONGEST_DELAY = 10.0**9
"""Seconds of a timer that never fires."""

ROUNDING = 1e-6
"""Milliseconds that a difference of two times may be too large."""

EXHAUSTED_ERRNOS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class UvLoop(uvloop.Loop):
    """An event loop whose timers, listening sockets and blocking descriptors behave as with asyncio.

    uvloop rounds delays to the nearest millisecond, so its timers can fire early. libuv accepts all connections that
    wait, however many; without a free file descriptor it closes them, silently, and may close the listening socket,
    silently too. And it makes each descriptor that it polls non-blocking: that mode is shared with other users of the
    descriptor, such as the shell.
    """

    def __init__(self) -> None:
        super().__init__()
        self._nested: dict[tuple[int, int], selectors.DefaultSelector] = {}

    async def create_server(  # type: ignore[override]  # uvloop has overloads, of which one is changed
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: Any = None,
        port: Any = None,
        *,
        sock: socket.socket | None = None,
        backlog: int = 100,
        ssl: ssl.SSLContext | None = None,
        **options: Any,
    ) -> asyncio.AbstractServer | AcceptingServer:
        """Listen on a socket; see asyncio. `backlog` is also the number of connections accepted per iteration."""
        if sock is None:
            return await super().create_server(protocol_factory, host, port, backlog=backlog, ssl=ssl, **options)
        sock.listen(backlog)
        return AcceptingServer(self, sock, protocol_factory, backlog, {"ssl": ssl, **options})

    def call_later(
        self, delay: float, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Call back after a delay in seconds; not before, as a loop that waits until a time of the clock expects."""
        milliseconds = ceil(min(delay, LONGEST_DELAY) * 1000 - ROUNDING)
        return super().call_later(milliseconds / 1000, callback, *args, context=context)

    def add_reader(self, fd: Any, callback: Callable[[Unpack[Ts]], Any], *args: *Ts) -> None:
        """Call back when a descriptor can be read. Raises `PermissionError` for a file."""
        super().add_reader(self._pollable(fd, selectors.EVENT_READ), callback, *args)

    def add_writer(self, fd: Any, callback: Callable[[Unpack[Ts]], Any], *args: *Ts) -> None:
        """Call back when a descriptor can be written. Raises `PermissionError` for a file."""
        if (pollable := self._pollable(fd, selectors.EVENT_WRITE)) is fd:
            super().add_writer(fd, callback, *args)
        else:
            super().add_reader(pollable, callback, *args)

    def remove_reader(  # type: ignore[override]  # uvloop's types have no result
        self, fd: Any
    ) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Stop calling back. Returns whether there was a callback."""
        if (nested := self._nested.pop((fd, selectors.EVENT_READ), None)) is None:
            return bool(super().remove_reader(fd))
        return self._remove(nested)

    def remove_writer(  # type: ignore[override]  # uvloop's types have no result
        self, fd: Any
    ) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Stop calling back. Returns whether there was a callback."""
        if (nested := self._nested.pop((fd, selectors.EVENT_WRITE), None)) is None:
            return bool(super().remove_writer(fd))
        return self._remove(nested)

    def _pollable(self, fd: Any, event: int) -> Any:
        """Return what libuv may poll: the descriptor, or if it blocks, a selector that polls it.

        The selector of Linux, BSD and macOS is a descriptor itself, which can be read when the other is ready.
        """
        if not isinstance(fd, int) or not os.get_blocking(fd):
            return fd
        if (nested := self._nested.get((fd, event))) is None:
            nested = selectors.DefaultSelector()
            try:
                nested.register(fd, event)
            except BaseException:
                nested.close()
                raise
            self._nested[fd, event] = nested
        return nested

    def _remove(self, nested: selectors.DefaultSelector) -> bool:
        super().remove_reader(nested)
        nested.close()
        return True


class AcceptingServer:
    """A listening socket, whose connections are accepted until it is closed: the part of `asyncio.Server` in use."""

    def __init__(
        self,
        loop: UvLoop,
        sock: socket.socket,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        max_accepts: int,
        options: dict[str, Any],
    ) -> None:
        self.sockets: tuple[socket.socket, ...] = (sock,)
        self._loop = loop
        self._protocol_factory = protocol_factory
        self._max_accepts = max_accepts
        self._options = options
        self._retry: asyncio.TimerHandle | None = None
        self._connecting: set[asyncio.Task[Any]] = set()
        loop.add_reader(sock.fileno(), self._accept, sock)

    def close(self) -> None:
        """Stop listening."""
        if self._retry is not None:
            self._retry.cancel()
        for sock in self.sockets:
            self._loop.remove_reader(sock.fileno())
            sock.close()
        self.sockets = ()

    def _accept(self, sock: socket.socket) -> None:
        for _ in range(self._max_accepts):
            try:
                connection, _ = sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in EXHAUSTED_ERRNOS:
                    raise
                self._pause(sock, error)
                return
            connection.setblocking(False)
            task = self._loop.create_task(self._connect(connection))
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    def _pause(self, sock: socket.socket, error: OSError) -> None:
        """Accept nothing for a while: the socket stays ready, and each attempt would fail."""
        self._loop.call_exception_handler(
            {"message": "socket.accept() out of system resource", "exception": error, "socket": sock}
        )
        self._loop.remove_reader(sock.fileno())
        self._retry = self._loop.call_later(RETRY_SECONDS, self._loop.add_reader, sock.fileno(), self._accept, sock)

    async def _connect(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._protocol_factory, connection, **self._options)
        except OSError:  # the client disconnected, or its TLS handshake failed
            connection.close()
