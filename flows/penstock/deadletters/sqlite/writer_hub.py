"""Writes the letters of all processes of a service: in their parent, with one writer for each file."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from weakref import WeakValueDictionary

from msgspec.structs import replace

from penstock.deadletters.sqlite.errors import to_store_error
from penstock.deadletters.sqlite.frame_socket import FrameSocket, connected_sockets
from penstock.deadletters.sqlite.group_commit import GroupCommitter
from penstock.deadletters.sqlite.hub_messages import AddRequest, CloseRequest, OpenRequest, Reply, request_decoder
from penstock.deadletters.sqlite.shared_writer import LETTERS
from penstock.deadletters.sqlite.writer import WriterConfig, WriterStatistics
from penstock.deadletters.sqlite.writer_main import encode_frame, serialize_error
from penstock.deadletters.sqlite.writer_process import WriterProcess
from penstock.errors import StoreError, describe
from penstock.support.logger import get_logger

log = get_logger()

OnResults = Callable[[list[Exception | None]], None]
"""Receives an error or None for each batch of a request."""


class WriterHub:
    """The writers of all files, and the connections of worker processes to them. A resource of the parent process.

    Letters of several processes share a commit. Each process has a socket for its letters, so that these do not delay
    other messages. It sends one group at a time for each store, so what a process that has stopped leaves here is
    bounded. Letters that have arrived are stored even if their process has ended.
    """

    def __init__(self) -> None:
        self._connections: dict[int, WorkerConnection] = {}
        self._files: WeakValueDictionary[str, SharedFile] = WeakValueDictionary()
        """Those in use, by path, without links."""
        self._tasks: set[asyncio.Task[None]] = set()

    def attach(self, number: int) -> dict[str, int]:
        """Return the descriptor of the connection of a process that is about to start."""
        ours, theirs = connected_sockets()
        self._connections[number] = WorkerConnection(self, ours)
        return {LETTERS: theirs.detach()}

    def detach(self, number: int) -> None:
        """Close the stores of a process that has exited."""
        connection = self._connections.pop(number, None)
        if connection is not None:
            connection.close()

    async def aclose(self) -> None:
        """Close all connections, and all files when what has arrived is stored. Logs errors."""
        for number in list(self._connections):
            self.detach(number)
        while self._tasks:
            await asyncio.wait(self._tasks)

    def file(self, config: WriterConfig) -> SharedFile:
        """Return the file that a process wants to open."""
        path = os.path.realpath(os.fsdecode(config.path))
        return self._files.setdefault(path, SharedFile())

    def spawn(self, work: Coroutine[None, None, None]) -> None:
        """Run the work for one request in a task, which `aclose` waits for."""
        task = asyncio.get_running_loop().create_task(work, name="dead letters of a process")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class SharedFile:
    """One file, which is open while processes use it."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._users: dict[tuple[WorkerConnection, int], tuple[str, ...]] = {}
        """The stores of processes that use the file, and the copies that each of them has."""
        self._backend: WriterProcess | None = None
        self._committer: GroupCommitter[bytes] | None = None
        self._reported = WriterStatistics()
        """The counters when a reply last reported their changes to a process."""

    async def open(self, user: tuple[WorkerConnection, int], config: WriterConfig) -> None:
        """Open the file for a store of a process. Raises a `StoreError`."""
        async with self._lock:
            if not self._users:
                await self._open(config)
            self._users[user] = ()

    def add(self, user: tuple[WorkerConnection, int], request: AddRequest, on_done: OnResults) -> None:
        """Store letters, and report an error or None for each batch. Without letters, report the result of a check."""
        committer, backend = self._committer, self._backend
        assert committer is not None
        assert backend is not None
        self._users[user] = request.copies
        # During a deployment, processes have different copies for a while.
        backend.copies = tuple(dict.fromkeys(name for names in self._users.values() for name in names))
        checking = [committer.check()] if request.refresh or not request.batches else []
        adding = [committer.add_serialized(batch.frame, batch.count) for batch in request.batches]
        PendingResults([*checking, *adding], adding or checking, on_done)

    async def close(self, user: tuple[WorkerConnection, int]) -> None:
        """Close the file if no other store uses it. Raises a `StoreError`."""
        async with self._lock:
            if self._users.pop(user, None) is not None and not self._users:
                committer, self._committer = self._committer, None
                assert committer is not None
                await committer.aclose()

    def changes(self) -> WriterStatistics:
        """Return how the counters have changed since the last call, and the current counts of letters."""
        if self._committer is None:
            return WriterStatistics()
        before, self._reported = self._reported, replace(self._committer.statistics)
        now = self._reported
        return WriterStatistics(
            now.counts,
            now.commits - before.commits,
            now.failures - before.failures,
            now.stored - before.stored,
            now.seconds - before.seconds,
            now.restarts - before.restarts,
        )

    async def _open(self, config: WriterConfig) -> None:
        path = Path(os.fsdecode(config.path))
        self._backend = WriterProcess(config)
        # The processes log whether the store works. They know the errors of SQLite.
        committer = GroupCommitter[bytes](
            self._backend, partial(to_store_error, url=config.url, path=path), concerns_store=lambda _: False
        )
        self._reported = WriterStatistics()
        try:
            await committer.open()
        except BaseException:
            await committer.aclose()
            raise
        self._committer = committer


class PendingResults:
    """Waits for some futures without a task, which would take two more iterations of the event loop."""

    def __init__(
        self, awaited: list[asyncio.Future[None]], reported: list[asyncio.Future[None]], on_done: OnResults
    ) -> None:
        self._missing = len(awaited)
        self._reported = reported
        self._on_done = on_done
        for future in awaited:
            future.add_done_callback(self._note)

    def _note(self, future: asyncio.Future[None]) -> None:
        _error(future)  # retrieves it, so that asyncio does not warn about it
        self._missing -= 1
        if not self._missing:
            self._on_done([_error(each) for each in self._reported])


class WorkerConnection:
    """The connection of one process. Every request gets one reply, unless the process has ended."""

    def __init__(self, hub: WriterHub, sock: socket.socket) -> None:
        self._hub = hub
        self._files: dict[int, SharedFile] = {}
        """The stores of the process that are open or being opened, by number."""
        self._closed = False
        self._socket = FrameSocket(sock, on_message=self._receive, on_disconnect=self.close)

    def close(self) -> None:
        """Disconnect, and close the stores of the process."""
        self._closed = True
        self._socket.close()
        files, self._files = self._files, {}
        for store, file in files.items():
            self._hub.spawn(self._close(file, store))

    def _receive(self, message: bytes) -> None:
        request: OpenRequest | AddRequest | CloseRequest = request_decoder.decode(message)
        match request:
            case OpenRequest():
                file = self._files[request.store] = self._hub.file(request.config)
                self._hub.spawn(self._open(file, request))
            case AddRequest():
                file = self._files[request.store]
                file.add((self, request.store), request, partial(self._end_add, file, request.store))
            case CloseRequest():
                closing = self._files.pop(request.store, None)
                if closing is None:  # it could not be opened
                    self._reply(request.store, [None], WriterStatistics())
                else:
                    self._hub.spawn(self._close(closing, request.store))

    async def _open(self, file: SharedFile, request: OpenRequest) -> None:
        try:
            await file.open((self, request.store), request.config)
        except Exception as error:
            self._files.pop(request.store, None)
            self._reply(request.store, [error], WriterStatistics())
        else:
            self._reply(request.store, [None], file.changes())

    def _end_add(self, file: SharedFile, store: int, errors: list[Exception | None]) -> None:
        self._reply(store, errors, file.changes())

    async def _close(self, file: SharedFile, store: int) -> None:
        result, changes = None, file.changes()
        try:
            await file.close((self, store))
        except Exception as error:
            result = error
            if self._closed:
                log.error("store.close_failed", error=describe(error))
        self._reply(store, [result], changes)

    def _reply(self, store: int, errors: list[Exception | None], changes: WriterStatistics) -> None:
        messages = [None if error is None else serialize_error(_original(error)) for error in errors]
        self._socket.send(encode_frame(Reply(store, messages, changes)))


def _error(future: asyncio.Future[None]) -> Exception | None:
    """Return the error of a result. Calls that `aclose` did not wait for are cancelled."""
    if future.cancelled():
        return OSError("the store was closed")
    error = future.exception()
    assert error is None or isinstance(error, Exception)
    return error


def _original(error: Exception) -> Exception:
    """Return the error of SQLite from which a `StoreError` was made, so that the process makes its own."""
    cause = error.__cause__
    return cause if isinstance(error, StoreError) and isinstance(cause, Exception) else error
