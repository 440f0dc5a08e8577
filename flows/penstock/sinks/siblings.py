"""Files that the processes of one service append to: the parent holds their locks, and the processes take turns.

`FileKeeper` is the side of the parent.
"""

from __future__ import annotations

import errno
import mmap
import os
import socket
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from msgspec import Struct, msgpack

from penstock.errors import SinkAlreadyOpen, SinkLocked, SinkWriteFailed
from penstock.sinks.torn_tail import FileFingerprint

if sys.platform != "win32":  # there, a service has one process
    import fcntl

FILES = "files"
"""The name under which a process finds the descriptor of its connection."""

FILE_LOCKS = "file-locks"
"""The name under which a process finds the file whose bytes are locked during writes."""

MAX_FILES = 4096
"""Files that all processes of a service may have open at the same time."""

SIZE = 8
"""Bytes of the size of a file in the shared memory. The same bytes are locked while a process writes to the file."""

STDOUT, STDOUT_WANTED, FIRST_FILE = range(3)
"""Slots: standard output and its state; whether a process waits for it; the first slot of a file."""

UNKNOWN = -1
"""The size of a file whose end no process has checked yet."""

HEADER = 4
"""Bytes of the length of a message, in little-endian order."""

RECEIVE_BYTES = 1 << 14
"""Bytes read at a time."""

RETRY_SECONDS = 0.002
"""Pause before a lock is requested again that the system refused."""


class AcquireRequest(Struct, tag=True):
    """Lock the file of the descriptor that is sent along, unless the service has it open."""

    display_path: str
    settings: str


class ReleaseRequest(Struct, tag=True):
    """The process has closed a file."""

    slot: int


class HoldRequest(Struct, tag=True):
    """Ask whether the service has the file open whose descriptor is sent along."""


class AcquiredReply(Struct, tag=True):
    """The file is open. Use the descriptor that is sent along, which has the lock, instead of the own one."""

    slot: int
    closed: FileFingerprint | None
    """The file when the last process closed it, if its end was complete."""


class RefusedReply(Struct, tag=True):
    """The file cannot be used: because of a lock, other settings, or an error of the system."""

    locked: bool = False
    other: tuple[str, str] | None = None
    """The path and the settings with which the service has the file open."""
    error: str = ""


class DoneReply(Struct, tag=True):
    """The answer to the other requests."""

    held: bool = False


request_decoder: msgpack.Decoder[Any] = msgpack.Decoder(AcquireRequest | ReleaseRequest | HoldRequest)
reply_decoder: msgpack.Decoder[Any] = msgpack.Decoder(AcquiredReply | RefusedReply | DoneReply)


def encode_frame(message: Struct) -> bytes:
    """Encode a message as a frame: its length, then the message in msgpack."""
    body = msgpack.encode(message)
    return len(body).to_bytes(HEADER, "little") + body


def is_complete(data: bytes | bytearray) -> bool:
    """Return whether a buffer has a complete frame."""
    return len(data) >= HEADER and len(data) >= HEADER + int.from_bytes(data[:HEADER], "little")


def map_sizes(locks: int) -> memoryview[int]:
    """Map the memory with the sizes of all files, which stays mapped until the end of the process."""
    return memoryview(mmap.mmap(locks, MAX_FILES * SIZE)).cast("q")


class Siblings:
    """The files of all processes of a service, as one of them sees them. Its calls block; threads may make them.

    `connection` and `locks` are the descriptors from `FileKeeper.attach`. The second one must be the only one of its
    file in this process: closing another one would release the locks.
    """

    def __init__(self, connection: int, locks: int) -> None:
        self._socket = socket.socket(fileno=connection)
        self._socket.setblocking(True)
        self._locks = locks
        self._sizes = map_sizes(locks)
        self._asking = threading.Lock()

    def acquire(self, descriptor: int, display_path: str, settings: str) -> SiblingFile:
        """Lock an open file for the service. Raises `SinkLocked`, `SinkAlreadyOpen` or `SinkWriteFailed`."""
        reply, received = self._ask(AcquireRequest(display_path, settings), display_path, descriptor)
        if isinstance(reply, AcquiredReply):
            assert received is not None
            return SiblingFile(self, received, reply.slot, reply.closed)
        if reply.locked:
            raise SinkLocked(display_path)
        if reply.other is not None:
            raise SinkAlreadyOpen(display_path, settings, *reply.other)
        raise SinkWriteFailed(display_path, reply.error)

    def release(self, file: SiblingFile) -> None:
        """Report that this process has closed a file."""
        try:
            self._ask(ReleaseRequest(file.slot), "")
        except SinkWriteFailed:
            pass  # the parent is gone, and its lock with it

    def hold(self, descriptor: int) -> bool:
        """Return whether this service has the file of a descriptor open."""
        try:
            reply, _ = self._ask(HoldRequest(), "", descriptor)
        except SinkWriteFailed:
            return False
        return isinstance(reply, DoneReply) and reply.held

    def close(self) -> None:
        """Disconnect. All files are closed."""
        self._socket.close()
        os.close(self._locks)

    def size(self, slot: int) -> int:
        """Return the size of a file after the last complete write of all processes, or the state of another slot."""
        return self._sizes[slot]

    def set_size(self, slot: int, size: int) -> None:
        """Set the size of a file after a write, or another state."""
        self._sizes[slot] = size

    @contextmanager
    def lock(self, slot: int) -> Generator[None]:
        """Exclude the siblings from a file. The system releases the lock of a process that is killed."""
        self._lock(slot)
        try:
            yield
        finally:
            self.unlock(slot)

    def try_lock(self, slot: int) -> bool:
        """Exclude the siblings, unless one of them has the lock. Returns whether this process has it."""
        try:
            fcntl.lockf(self._locks, fcntl.LOCK_EX | fcntl.LOCK_NB, SIZE, slot * SIZE)
        except (BlockingIOError, PermissionError):  # POSIX allows both
            return False
        return True

    def unlock(self, slot: int) -> None:
        """Release a lock."""
        fcntl.lockf(self._locks, fcntl.LOCK_UN, SIZE, slot * SIZE)

    def _lock(self, slot: int) -> None:
        while True:
            try:
                fcntl.lockf(self._locks, fcntl.LOCK_EX, SIZE, slot * SIZE)
                return
            except OSError as error:
                # The system sees processes and not threads: two processes that write to two files at the same time
                # look like a deadlock to it.
                if error.errno != errno.EDEADLK:
                    raise
                time.sleep(RETRY_SECONDS)  # in the thread of the sink

    def _ask(
        self, request: AcquireRequest | ReleaseRequest | HoldRequest, display_path: str, descriptor: int | None = None
    ) -> tuple[Any, int | None]:
        """Send a request, with a descriptor; return the reply, and the descriptor that was sent along."""
        data = encode_frame(request)
        received = b""
        descriptors: list[int] = []
        with self._asking:
            try:
                if descriptor is None:
                    self._socket.sendall(data)
                else:
                    sent = socket.send_fds(self._socket, [data], [descriptor])
                    self._socket.sendall(data[sent:])
                while not is_complete(received):
                    chunk, fds, _, _ = socket.recv_fds(self._socket, RECEIVE_BYTES, 1)
                    descriptors += fds
                    if not chunk:
                        raise ConnectionError
                    received += chunk
            except OSError as error:
                raise SinkWriteFailed(display_path, "the parent process of this service has ended") from error
        for each in descriptors:
            os.set_inheritable(each, False)
        return reply_decoder.decode(received[HEADER:]), descriptors[0] if descriptors else None


class SiblingFile:
    """A file that is open in this process, and may be open in its siblings."""

    def __init__(self, siblings: Siblings, descriptor: int, slot: int, closed: FileFingerprint | None) -> None:
        self.descriptor = descriptor
        self.slot = slot
        self.closed = closed
        self._siblings = siblings

    @property
    def size(self) -> int:
        """The size after the last complete write of all processes; `UNKNOWN` before the first check."""
        return self._siblings.size(self.slot)

    @size.setter
    def size(self, size: int) -> None:
        self._siblings.set_size(self.slot, size)

    @contextmanager
    def lock(self) -> Generator[None]:
        """Exclude the siblings."""
        with self._siblings.lock(self.slot):
            yield

    def release(self) -> None:
        """Report that the file is closed."""
        self._siblings.release(self)


class _Current:
    siblings: Siblings | None = None


def use_siblings(siblings: Siblings | None) -> None:
    """Share the files of all sinks of this process with its siblings, from now on."""
    _Current.siblings = siblings


def current_siblings() -> Siblings | None:
    """Return the siblings of this process, if it has any."""
    return _Current.siblings
