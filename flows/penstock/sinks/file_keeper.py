"""Keeps the locks of all files that the processes of a service append to: in their parent."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import tempfile
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field

from penstock.errors import describe
from penstock.sinks.siblings import (
    FILE_LOCKS,
    FILES,
    FIRST_FILE,
    HEADER,
    MAX_FILES,
    RECEIVE_BYTES,
    SIZE,
    UNKNOWN,
    AcquiredReply,
    AcquireRequest,
    DoneReply,
    HoldRequest,
    RefusedReply,
    ReleaseRequest,
    encode_frame,
    is_complete,
    map_sizes,
    request_decoder,
)
from penstock.sinks.torn_tail import FileFingerprint
from penstock.support.logger import get_logger

if sys.platform != "win32":  # there, a service has one process
    import fcntl

log = get_logger()

REMEMBERED = 1000
"""Closed files of which the parent remembers that their end was complete."""

Identity = tuple[int, int]
"""Device and inode of a file."""

Request = AcquireRequest | ReleaseRequest | HoldRequest


@dataclass(slots=True, eq=False)
class KeptFile:
    """A file that processes have open. The descriptor has the lock."""

    identity: Identity
    descriptor: int
    slot: int
    display_path: str
    settings: str
    users: set[FileConnection] = field(default_factory=set["FileConnection"])


class FileKeeper:
    """The open files of all processes of a service. A resource of the parent process.

    Locks of `flock` belong to an open file. The parent keeps the one that a process has opened first, and passes it to
    the others, so it is locked until all of them have closed it. Calls that a network file system may delay are made
    in a thread, one request after the other.
    """

    def __init__(self) -> None:
        self._locks = shared_file()
        os.truncate(self._locks, MAX_FILES * SIZE)
        self._sizes = map_sizes(self._locks)
        self._free = list(range(MAX_FILES - 1, FIRST_FILE - 1, -1))
        self._files: dict[Identity, KeptFile] = {}
        self._closed: dict[Identity, FileFingerprint] = {}
        """Files whose end was complete when the last process closed them; the latest ones."""
        self._connections: dict[int, FileConnection] = {}
        self._locking = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    def attach(self, number: int) -> dict[str, int]:
        """Return the descriptors of a process that is about to start."""
        locks = os.dup(self._locks)
        try:
            ours, theirs = socket.socketpair()
        except OSError:
            os.close(locks)
            raise
        self._connections[number] = FileConnection(ours, self._receive, self._disconnected)
        return {FILES: theirs.detach(), FILE_LOCKS: locks}

    def detach(self, number: int) -> None:
        """Release the files of a process that has exited."""
        connection = self._connections.pop(number, None)
        if connection is not None:
            connection.close()

    async def aclose(self) -> None:
        """Close all files. No process is left."""
        for number in list(self._connections):
            self.detach(number)
        while self._tasks:
            await asyncio.wait(self._tasks)
        os.close(self._locks)

    def _receive(self, connection: FileConnection, data: bytes, descriptor: int | None) -> None:
        self._spawn(self._answer(connection, request_decoder.decode(data), descriptor))

    def _disconnected(self, connection: FileConnection) -> None:
        self._spawn(self._release(connection, lambda _: True))

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work, name="files of a process")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, connection: FileConnection, request: Request, descriptor: int | None) -> None:
        match request:
            case AcquireRequest() if descriptor is not None:
                async with self._locking:
                    await self._acquire(connection, request, descriptor)
            case HoldRequest() if descriptor is not None:
                try:
                    held = await asyncio.to_thread(identity_of, descriptor) in self._files
                except OSError:
                    held = False
                os.close(descriptor)
                connection.send(DoneReply(held))
            case ReleaseRequest():
                await self._release(connection, lambda file: file.slot == request.slot)
                connection.send(DoneReply())
            case _:
                connection.close()

    async def _acquire(self, connection: FileConnection, request: AcquireRequest, descriptor: int) -> None:
        try:
            identity = await asyncio.to_thread(identity_of, descriptor)
        except OSError as error:
            os.close(descriptor)
            connection.send(RefusedReply(error=error.strerror or str(error)))
            return
        file = self._files.get(identity)
        refused: RefusedReply | None = None
        if file is None:
            refused = await self._lock(descriptor)
        elif file.settings != request.settings:
            refused = RefusedReply(other=(file.display_path, file.settings))
        if refused is not None or file is not None:
            os.close(descriptor)
        if refused is not None:
            connection.send(refused)
            return
        if file is None:
            slot = self._free.pop()
            self._sizes[slot] = UNKNOWN
            file = KeptFile(identity, descriptor, slot, request.display_path, request.settings)
            self._files[identity] = file
        file.users.add(connection)
        connection.send(AcquiredReply(file.slot, self._closed.get(identity)), file.descriptor)
        if not connection.is_open:  # the process has ended meanwhile
            self._disconnected(connection)

    async def _lock(self, descriptor: int) -> RefusedReply | None:
        if not self._free:
            return RefusedReply(error=f"the processes of this service have {MAX_FILES - FIRST_FILE} files open")
        try:
            await asyncio.to_thread(fcntl.flock, descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return RefusedReply(locked=True)
        except OSError as error:
            return RefusedReply(error=error.strerror or str(error))
        return None

    async def _release(self, connection: FileConnection, selected: Callable[[KeptFile], bool]) -> None:
        """Release files of a process."""
        async with self._locking:
            for file in [file for file in self._files.values() if connection in file.users and selected(file)]:
                file.users.discard(connection)
                if not file.users:
                    await self._close(file)

    async def _close(self, file: KeptFile) -> None:
        self._closed.pop(file.identity, None)
        try:
            fingerprint = await asyncio.to_thread(close_file, file.descriptor)
        except OSError as error:  # of a network file system
            log.warning("sink.close_failed", sink=file.display_path, error=describe(error))
        else:
            if fingerprint.size == self._sizes[file.slot]:  # otherwise the next process checks the end
                self._closed[file.identity] = fingerprint
                if len(self._closed) > REMEMBERED:
                    del self._closed[next(iter(self._closed))]
        del self._files[file.identity]
        self._free.append(file.slot)


class FileConnection:
    """The connection of one process. It has one request under way at a time."""

    def __init__(
        self,
        sock: socket.socket,
        on_request: Callable[[FileConnection, bytes, int | None], None],
        on_disconnect: Callable[[FileConnection], None],
    ) -> None:
        self._socket = sock
        self._on_request = on_request
        self._on_disconnect = on_disconnect
        self._received = bytearray()
        self._descriptor: int | None = None
        self._loop = asyncio.get_running_loop()
        sock.setblocking(False)
        self._loop.add_reader(sock, self._read)

    @property
    def is_open(self) -> bool:
        """Whether the process may still read replies."""
        return self._socket.fileno() >= 0

    def send(self, reply: AcquiredReply | RefusedReply | DoneReply, descriptor: int | None = None) -> None:
        """Send a reply. The process waits for it, so the socket has room."""
        if self.is_open:
            with suppress(OSError):  # the process has ended, which reading notices
                socket.send_fds(self._socket, [encode_frame(reply)], [] if descriptor is None else [descriptor])

    def close(self) -> None:
        """Disconnect, and release the files of the process."""
        if self.is_open:
            self._loop.remove_reader(self._socket)
            self._socket.close()
            if self._descriptor is not None:
                os.close(self._descriptor)
            self._on_disconnect(self)

    def _read(self) -> None:
        try:
            data, descriptors, _, _ = socket.recv_fds(self._socket, RECEIVE_BYTES, 1)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data, descriptors = b"", []
        for received in descriptors:
            os.set_inheritable(received, False)
            self._descriptor = received
        if not data:
            self.close()
            return
        self._received += data
        if is_complete(self._received):
            message, descriptor = bytes(self._received[HEADER:]), self._descriptor
            self._received.clear()
            self._descriptor = None
            self._on_request(self, message, descriptor)


def identity_of(descriptor: int) -> Identity:
    """Return device and inode of an open file."""
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


def close_file(descriptor: int) -> FileFingerprint:
    """Close a file, which releases its lock; return what it was like."""
    try:
        return FileFingerprint.of(descriptor)
    finally:
        os.close(descriptor)


def shared_file() -> int:
    """Create a file without a name, in memory if possible: the file system may be read-only."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("penstock-file-locks")
    descriptor, path = tempfile.mkstemp()
    os.unlink(path)
    return descriptor
