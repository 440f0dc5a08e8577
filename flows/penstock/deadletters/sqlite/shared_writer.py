"""Stores letters through the parent of all processes of a service, which has one writer for each file."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from penstock.deadletters.sql.rows import Columns
from penstock.deadletters.sqlite.frame_socket import FrameSocket
from penstock.deadletters.sqlite.group_commit import OnDone
from penstock.deadletters.sqlite.hub_messages import AddRequest, Batch, CloseRequest, OpenRequest, Reply, reply_decoder
from penstock.deadletters.sqlite.writer import WriterConfig, WriterStatistics
from penstock.deadletters.sqlite.writer_main import deserialize_error, encode_frame
from penstock.deadletters.sqlite.writer_process import WriterProcess
from penstock.errors import StoreError, WriterCrashed
from penstock.support.logger import get_logger

log = get_logger()

LETTERS = "letters"
"""The name under which a process finds the descriptor of its connection."""

OnReply = Callable[[Reply | None], None]
"""Receives the reply of the hub; None if the connection has ended."""


class SharedWriters:
    """The connection of a worker process to the `WriterHub`. Create it in the event loop.

    `make` is the `make_writer` of `Stores`.
    """

    def __init__(self, descriptor: int) -> None:
        self._waiting: dict[int, OnReply] = {}
        self._stores = 0
        self._socket = FrameSocket(
            socket.socket(fileno=descriptor), on_message=self._receive, on_disconnect=self._disconnected
        )

    def make(self, config: WriterConfig, statistics: WriterStatistics) -> SharedWriter:
        """Create the writer of one store."""
        return SharedWriter(self, config, statistics)

    def close(self) -> None:
        """Disconnect. All stores are closed."""
        self._socket.close()

    @property
    def is_open(self) -> bool:
        """Whether the hub may still answer."""
        return self._socket.is_open

    def new_store(self) -> int:
        """Return a number for a store that is being opened."""
        self._stores += 1
        return self._stores

    def ask(self, request: OpenRequest | AddRequest | CloseRequest, on_reply: OnReply) -> None:
        """Send a request. The store has no other one under way. Raises errors of the encoder."""
        data = encode_frame(request)
        if not self.is_open:
            on_reply(None)
            return
        self._waiting[request.store] = on_reply
        self._socket.send(data)

    def _receive(self, message: bytes) -> None:
        reply = reply_decoder.decode(message)
        on_reply = self._waiting.pop(reply.store, None)
        if on_reply is not None:  # otherwise it is of a call that was cancelled, and another one got its reply
            on_reply(reply)

    def _disconnected(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for on_reply in waiting.values():
            on_reply(None)


class SharedWriter:
    """The writer of one store, in a worker process.

    The counters are the share of this process: each commit counts for one of the processes whose letters it stored.
    When the parent has disappeared, the process writes its last letters itself.
    """

    def __init__(self, connection: SharedWriters, config: WriterConfig, statistics: WriterStatistics) -> None:
        self.copies: tuple[str, ...] = ()
        """The copies of the store. It may be replaced at any time."""
        self._connection = connection
        self._config = config
        self._statistics = statistics
        self._store = 0
        self._own: WriterProcess | None = None
        """Writes the letters when the parent has disappeared."""
        self._opening: asyncio.Task[None] | None = None

    @property
    def statistics(self) -> WriterStatistics:
        """The counters of this process."""
        return self._statistics if self._own is None else self._own.statistics

    @property
    def timeout(self) -> float:
        """Seconds that a group takes at most, unless the disk hangs."""
        return self._config.timeout

    def serialize(self, columns: Columns) -> Batch:
        """Encode the letters of one caller."""
        return Batch(len(columns[0]), encode_frame(columns))

    async def open(self) -> None:
        """Have the parent open the database, unless another process has it open."""
        self._store = self._connection.new_store()
        await self._await_reply(OpenRequest(self._store, self._config))

    def submit(self, batches: list[Batch], *, refresh: bool, on_done: OnDone) -> None:
        """Send a group to the parent."""
        if not self._connection.is_open:
            self._submit_to_own(batches, refresh=refresh, on_done=on_done)
            return
        try:
            request = AddRequest(self._store, batches, refresh, self.copies)
            self._connection.ask(request, partial(self._on_added, on_done))
        except OverflowError as error:  # the group has 4 GiB or more
            on_done(error)

    async def aclose(self) -> None:
        """Have the parent close the database, unless another process has it open."""
        if self._opening is not None:
            await asyncio.wait((self._opening,))
        if self._own is not None:
            await self._own.aclose()
        elif self._connection.is_open:
            async with asyncio.timeout(self._config.timeout):
                await self._await_reply(CloseRequest(self._store))

    def kill(self) -> None:
        """Do nothing: other processes use the writer."""

    def close_detached(self) -> None:
        """Do nothing: the parent notices that this process has ended."""

    async def _await_reply(self, request: OpenRequest | CloseRequest) -> None:
        replied: asyncio.Future[Reply | None] = asyncio.get_running_loop().create_future()
        self._connection.ask(request, lambda reply: None if replied.done() else replied.set_result(reply))
        reply = await replied
        if reply is None:
            raise self._disconnected()
        self._count(reply.statistics)
        for error in reply.errors:
            if error is not None:
                raise deserialize_error(error)

    def _on_added(self, on_done: OnDone, reply: Reply | None) -> None:
        if reply is None:
            on_done(self._disconnected())
            return
        self._count(reply.statistics)
        on_done([None if error is None else deserialize_error(error) for error in reply.errors])

    def _count(self, change: WriterStatistics) -> None:
        before = self._statistics
        self._statistics = WriterStatistics(
            change.counts,
            before.commits + change.commits,
            before.failures + change.failures,
            before.stored + change.stored,
            before.seconds + change.seconds,
            before.restarts + change.restarts,
        )

    def _disconnected(self) -> WriterCrashed:
        return WriterCrashed(self._config.url, "the parent process ended")

    def _submit_to_own(self, batches: list[Batch], *, refresh: bool, on_done: OnDone) -> None:
        if self._own is not None:
            self._own.copies = self.copies
            self._own.submit([batch.frame for batch in batches], refresh=refresh, on_done=on_done)
            return
        self._opening = asyncio.create_task(
            self._open_own(batches, refresh=refresh, on_done=on_done), name="writer of dead letters without the parent"
        )

    async def _open_own(self, batches: list[Batch], *, refresh: bool, on_done: OnDone) -> None:
        log.warning("store.parent_gone", dead_letters=self._config.url)
        own = WriterProcess(self._config, self._statistics)
        try:
            await own.open()
        except Exception as error:
            with suppress(StoreError):
                await own.aclose()  # ends its thread
            on_done(error)
        else:
            self._own = own
            self._submit_to_own(batches, refresh=refresh, on_done=on_done)
