"""A server that does to its clients whatever a test says, one step after another, and remembers what it was sent."""

from __future__ import annotations

import asyncio
import ssl
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from socket import SO_LINGER, SOL_SOCKET
from typing import Any, TypeAlias

from waiting import HANG_SECONDS


class Close:
    """Close the connection."""


class Reset:
    """Close the connection by a RST."""


class Hang:
    """Send nothing more, until the client sends something or closes the connection."""


@dataclass(frozen=True)
class Bytewise:
    """Send bytes one by one."""

    data: bytes
    pause: float = 0.0


Step: TypeAlias = bytes | Bytewise | type[Close | Reset | Hang]


@dataclass
class Hostile:
    """The address, and what happened. `connections` has a list of requests for each connection."""

    url: str
    connections: list[list[bytes]] = field(default_factory=list)
    open: int = 0

    @property
    def requests(self) -> list[bytes]:
        return [request for requests in self.connections for request in requests]


@asynccontextmanager
async def hostile(
    *connections: Sequence[Sequence[Step]],
    tls: ssl.SSLContext | None = None,
    path: str | None = None,
    host: str = "127.0.0.1",
) -> AsyncIterator[Hostile]:
    """A server. `connections[n]` are the steps of connection n, for each request on it; the last one is repeated.

    After the steps of the last request the connection stays open, and further requests have no response.
    """
    server = Hostile("")
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        script = connections[min(len(server.connections), len(connections) - 1)]
        requests: list[bytes] = []
        server.connections.append(requests)
        server.open += 1
        try:
            for steps in script:
                requests.append(await read_request(reader))
                for step in steps:
                    await take(step, reader, writer)
            while await reader.read(65536):
                pass
        except (OSError, asyncio.IncompleteReadError, RuntimeError):
            pass  # uvloop raises a RuntimeError for a write after the client has closed the connection
        finally:
            server.open -= 1
            with suppress(OSError):
                writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    if path is None:
        listening = await asyncio.start_server(accept, host, 0, ssl=tls)
        port = listening.sockets[0].getsockname()[1]
        server.url = f"{'http' if tls is None else 'https'}://{f'[{host}]' if ':' in host else host}:{port}"
    else:
        listening = await asyncio.start_unix_server(accept, path)
        server.url = f"http+unix://{path.replace('/', '%2F')}"
    try:
        yield server
    finally:
        listening.close()
        for task in list(tasks):
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await asyncio.sleep(0)


async def read_request(reader: asyncio.StreamReader) -> bytes:
    """Head and body of a request."""
    head = await reader.readuntil(b"\r\n\r\n")
    for line in head.split(b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            return head + await reader.readexactly(int(line.split(b":")[1]))
    return head


async def take(step: Step, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Do one step."""
    if isinstance(step, bytes):
        writer.write(step)
        await writer.drain()
    elif isinstance(step, Bytewise):
        for number in range(len(step.data)):
            writer.write(step.data[number : number + 1])
            await asyncio.sleep(step.pause)
    elif step is Hang:
        async with asyncio.timeout(HANG_SECONDS):
            await reader.read(1)
    else:
        if step is Reset:
            socket: Any = writer.get_extra_info("socket")
            socket.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        raise ConnectionError
