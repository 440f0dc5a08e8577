"""How a process takes part in a service: as the only one, or as one of several that a parent started."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.metadata import version
from typing import Protocol

import msgspec
import structlog

from penstock.backends.server_url import hide_password
from penstock.runtime import ShutdownReport
from penstock.settings import Settings
from penstock_http.processes.connection_counts import COUNTS, ConnectionCounts
from penstock_http.processes.member import Member
from penstock_http.processes.peers import NoAnswer, OnlyProcess, Peers
from penstock_http.server.acceptor import Listener, OwnListener, SharedListener
from penstock_http.server.connection import listen

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class Membership(Protocol):
    """What differs between the only process of a service and one of several."""

    @property
    def peers(self) -> Peers: ...

    @property
    def retiring(self) -> asyncio.Event:
        """Set when another process replaces this one."""
        ...

    @property
    def descriptors(self) -> Mapping[str, int]:
        """The descriptors of the resources that the parent shares, by name; none without a parent."""
        ...

    @property
    def reloads(self) -> bool:
        """Whether this process reloads its flows on SIGHUP. The parent of several replaces them instead."""
        ...

    def listen(self, settings: Settings) -> socket.socket:
        """Return the bound socket that connections are accepted from. Raises `ListenFailed`."""
        ...

    async def accept(
        self, sock: socket.socket, factory: Callable[[], asyncio.Protocol], open_connections: Callable[[], int]
    ) -> Listener:
        """Begin to accept connections. `open_connections` returns how many are open."""
        ...

    async def ready(self, settings: Settings, sock: socket.socket, stop: asyncio.Event) -> None:
        """Report that the service listens. `stop` is set when it begins to shut down."""
        ...

    def left(self) -> None:
        """Report that this process accepts no further connections."""
        ...

    async def stopped(self, report: ShutdownReport) -> None:
        """Report how the shutdown went."""
        ...


class Alone:
    """The only process of a service."""

    reloads = True
    descriptors: Mapping[str, int] = {}

    def __init__(self) -> None:
        self.peers = OnlyProcess()
        self.retiring = asyncio.Event()

    def listen(self, settings: Settings) -> socket.socket:
        """Return a socket that is bound to the address of the settings. Raises `ListenFailed`."""
        return listen(settings)

    async def accept(
        self, sock: socket.socket, factory: Callable[[], asyncio.Protocol], open_connections: Callable[[], int]
    ) -> Listener:
        """Begin to accept connections."""
        return await OwnListener.start(sock, factory)

    async def ready(self, settings: Settings, sock: socket.socket, stop: asyncio.Event) -> None:
        """Log where the service listens."""
        log_listening(settings, sock)

    def left(self) -> None:
        """Do nothing: nobody else accepts them."""

    async def stopped(self, report: ShutdownReport) -> None:
        """Log the counts of all runs that were open."""
        log.info("shutdown.completed", forced=report.forced, **msgspec.structs.asdict(report))


class OneOfSeveral:
    """One of several processes. It uses the socket of the parent, and reports to it."""

    reloads = False

    def __init__(self, member: Member, listener: socket.socket) -> None:
        self.peers = member
        self.retiring = member.retiring
        self.descriptors = member.descriptors
        self._member = member
        self._listener = listener

    def listen(self, settings: Settings) -> socket.socket:
        """Return the socket of the parent."""
        return self._listener

    async def accept(
        self, sock: socket.socket, factory: Callable[[], asyncio.Protocol], open_connections: Callable[[], int]
    ) -> Listener:
        """Begin to accept connections, about as many as each of the other processes."""
        counts = ConnectionCounts(self.descriptors[COUNTS])
        listener = SharedListener(sock, factory, open_connections, counts, self._member.number)
        listener.start()
        return listener

    async def ready(self, settings: Settings, sock: socket.socket, stop: asyncio.Event) -> None:
        """Report to the parent, and shut down if the parent is gone some day."""
        self._watching = asyncio.get_running_loop().create_task(self._watch_parent(stop), name="process:parent")
        with suppress(NoAnswer):  # the parent is gone already
            await self._member.ready()

    def left(self) -> None:
        """Report to the parent that connections are for the others now."""
        self._member.left.set()

    async def stopped(self, report: ShutdownReport) -> None:
        """Report to the parent, which adds up the reports of all processes."""
        self._watching.cancel()
        log.debug("shutdown.completed", forced=report.forced, **msgspec.structs.asdict(report))
        await self._member.report(msgspec.msgpack.encode(report))

    async def _watch_parent(self, stop: asyncio.Event) -> None:
        """Shut down as after SIGTERM when the parent is gone. A shutdown that has begun goes on as it is."""
        await self._member.parent_gone()
        log.error("process.parent_gone", pid=os.getpid())
        if not stop.is_set():
            signal.raise_signal(signal.SIGTERM)


def log_listening(settings: Settings, sock: socket.socket, **more: object) -> None:
    """Log where the service listens."""
    log.info(
        "http.listening",
        url=_url(sock, "https" if settings.tls_cert else "http"),
        pid=os.getpid(),
        dead_letters=hide_password(settings.dead_letters),
        version=version("penstock"),
        **more,
    )


def _url(sock: socket.socket, scheme: str) -> str:
    host, port = sock.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
