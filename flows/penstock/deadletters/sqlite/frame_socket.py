"""Frames over a socket that the event loop reads and writes without a transport."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from penstock.deadletters.sqlite.writer_main import split_frames

SEND_BUFFER = 1 << 20
"""Bytes that the socket buffers in each direction, so that it takes a whole group of letters at once."""

RECEIVE_BYTES = 1 << 16
"""Bytes read at a time. Replies are short, and allocating a megabyte took a third of the time of reading one."""


class FrameSocket:
    """Sends and receives frames. Calls `on_message` for each one, and `on_disconnect` after the last one.

    There is no transport, because a transport cannot be closed after its event loop.
    """

    def __init__(
        self, sock: socket.socket, *, on_message: Callable[[bytes], object], on_disconnect: Callable[[], object]
    ) -> None:
        self._socket = sock
        self._on_message = on_message
        self._on_disconnect = on_disconnect
        self._received = bytearray()
        self._unsent = memoryview(b"")
        self._waiting = False
        """Whether the rest is sent when the socket has room."""
        self._loop = asyncio.get_running_loop()
        sock.setblocking(False)
        self._loop.add_reader(sock, self._read)

    @property
    def is_open(self) -> bool:
        """Whether the other side may still answer."""
        return self._socket.fileno() >= 0

    def send(self, data: bytes) -> None:
        """Send frames after earlier ones. After the end of the connection, does nothing."""
        if self.is_open:
            self._unsent = memoryview(b"".join((self._unsent, data)) if self._unsent else data)
            self._write()

    def poll(self) -> None:
        """Notice now if the other side has disconnected."""
        if self.is_open:
            self._read()

    def close(self) -> None:
        """Disconnect, without calling `on_disconnect`."""
        if self.is_open:
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            self._socket.close()

    def _write(self) -> None:
        try:
            self._unsent = self._unsent[self._socket.send(self._unsent) :]
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self._unsent = memoryview(b"")  # the other side has ended, which reading notices
        if self._unsent and not self._waiting:
            self._loop.add_writer(self._socket, self._write)
        elif self._waiting and not self._unsent:
            self._loop.remove_writer(self._socket)
        self._waiting = bool(self._unsent)

    def _read(self) -> None:
        try:
            data = self._socket.recv(RECEIVE_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            self._on_disconnect()
            return
        self._received += data
        for message in split_frames(self._received):
            self._on_message(message)


def connected_sockets() -> tuple[socket.socket, socket.socket]:
    """Return two connected sockets whose buffers take a whole group of letters."""
    pair = socket.socketpair()
    for end in pair:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    return pair
