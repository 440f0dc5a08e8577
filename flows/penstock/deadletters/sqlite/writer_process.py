"""Runs the writer in a subprocess, so that the event loop has the interpreter of this process to itself."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, cast

import structlog
from msgspec import msgpack

from penstock.deadletters.sql.rows import Columns
from penstock.deadletters.sqlite.group_commit import OnDone
from penstock.deadletters.sqlite.writer import WriterConfig, WriterStatistics
from penstock.deadletters.sqlite.writer_main import (
    AddMessage,
    AddReply,
    FatalMessage,
    OpenMessage,
    deserialize_error,
    encode_frame,
    split_frames,
)
from penstock.deadletters.sqlite.writer_thread import WriterThread
from penstock.errors import StoreError, WriterEnded, WriterNotStarted, describe
from penstock.turns import Deadline

log: structlog.stdlib.BoundLogger = structlog.get_logger()

REPLY_SECONDS = 60.0
"""Timeout for starting the process or for one group, on top of the lock timeout. Then the process is killed.

A disk that hangs may answer the next process. Letters that are stored already are not stored twice.
"""

SEND_BUFFER = 1 << 20
"""Bytes that the socket buffers in each direction, so that it takes a whole group at once."""

RECEIVE_BYTES = 1 << 16
"""Bytes read at a time. Replies are short, and allocating a megabyte took a third of the time of reading one."""

ROOT = str(Path(__file__).parents[3])
"""The folder that contains the package `penstock`."""

KEPT_VARIABLES = frozenset(
    {"HOME", "LANG", "LANGUAGE", "PATH", "SQLITE_TMPDIR", "SYSTEMROOT", "TEMP", "TMP", "TMPDIR", "TZ", "VIRTUAL_ENV"}
)
"""Environment variables that Python and SQLite may need."""

KEPT_PREFIXES = ("LC_", "LD_", "DYLD_", "PYTHON")
"""Prefixes of further ones: locale, dynamic linker, Python."""

_decoder: msgpack.Decoder[Any] = msgpack.Decoder(AddReply | FatalMessage)


class WriterProcess:
    """Runs a `Writer` in a subprocess, which is started with the first letter and restarted after a crash.

    Until then a thread opens the database, so that a file that cannot be written is reported at the start, and checks
    it. A run without failures starts no process.
    """

    def __init__(self, config: WriterConfig, statistics: WriterStatistics | None = None) -> None:
        self.statistics = statistics or WriterStatistics()
        self._config = config
        self._thread: WriterThread | None = None
        """Has the database open until the first letter."""
        self._process: _Subprocess | None = None
        self._started = False
        """Whether a process was started since `open`. When it crashes, its counters may lack letters that it stored."""
        self._closing = False
        self._opened = False
        """Whether the current process has opened the database."""
        self._fatal: Exception | None = None
        """The last message of the current process."""
        self._on_done: OnDone | None = None
        self._has_batches = False

    @property
    def timeout(self) -> float:
        """Seconds that a group takes at most, unless the disk hangs."""
        return self._config.timeout

    def serialize(self, columns: Columns) -> bytes:
        """Encode the letters of one caller as a frame."""
        return encode_frame(columns)

    async def open(self) -> None:
        """Open the database in a thread."""
        self._started = self._closing = False
        self._thread = WriterThread(self._config, self.statistics)
        await self._thread.open()

    def submit(self, batches: list[bytes], *, refresh: bool, on_done: OnDone) -> None:
        """Send a group to the process. Starts one if there is none, except for a check before the first letter."""
        if self._thread is None:
            self._send(batches, refresh=refresh, on_done=on_done)
        elif not batches:
            self._thread.submit([], refresh=refresh, on_done=on_done)
        else:
            # A file that was replaced or truncated is noticed by the thread only, which has had it open.
            on_checked = partial(self._start_with, batches, on_done)
            self._thread.submit([], refresh=True, on_done=on_checked)

    async def aclose(self) -> None:
        """Have the process close the database, and wait until it has exited."""
        self._closing = True
        if self._thread is not None:
            await self._thread.aclose()
        elif self._process is not None:
            await self._process.aclose(self._config.timeout)
        fatal, self._fatal = self._fatal, None
        if fatal is not None:
            raise fatal

    def kill(self) -> None:
        """Kill the process."""
        self._closing = True
        if self._process is not None:
            self._process.kill()

    def close_detached(self) -> None:
        """Have the thread close the database, or kill the process. Letters under way were not reported as stored."""
        if self._thread is not None:
            self._thread.close_detached()
        elif self._process is not None:
            self._process.close_detached()

    def _start_with(self, batches: list[bytes], on_done: OnDone, outcome: list[Exception | None] | Exception) -> None:
        """Start the process with the first letters, unless the check before it failed."""
        error = outcome if isinstance(outcome, Exception) else outcome[0]
        if error is None and self._closing:
            error = WriterNotStarted(self._config.url, "the store was closed")
        if error is not None:
            self.statistics.failures += 1
            on_done([error] * len(batches))
            return
        assert self._thread is not None
        self._thread.close_detached()
        self._thread = None
        self._send(batches, refresh=False, on_done=on_done)

    def _send(self, batches: list[bytes], *, refresh: bool, on_done: OnDone) -> None:
        self._on_done, self._has_batches = on_done, bool(batches)
        data = b"".join([encode_frame(AddMessage(len(batches), refresh)), *batches])
        if self._process is None:
            # The thread has just counted the letters, and counting reads the whole table: 9 s for a million letters.
            data = encode_frame(OpenMessage(self._config, self.statistics, self._started)) + data
            self._started, self._opened, self._fatal = True, False, None
            self._process = _Subprocess(
                self._config.url, timeout=self._timeout, on_message=self._on_message, on_end=self._on_end
            )
        self._process.send(data)

    @property
    def _timeout(self) -> float:
        return REPLY_SECONDS + self._config.timeout

    def _on_message(self, data: bytes) -> bool:
        message = _decoder.decode(data)
        if isinstance(message, FatalMessage):
            self._fatal = deserialize_error(message.error)  # reported when the process has exited, as it does now
            return True
        self.statistics = message.statistics
        if not self._opened:
            self._opened = True
            return True
        self._report([None if error is None else deserialize_error(error) for error in message.errors])
        return False

    def _on_end(self, outcome: int | Exception) -> None:
        """Report the exit code of the process, or why it could not be started, to the callers that wait."""
        timed_out = self._process is not None and self._process.timed_out
        self._process = None
        if isinstance(outcome, Exception):
            reason = getattr(outcome, "strerror", None) or describe(outcome)
            self._report(WriterNotStarted(self._config.url, f"{reason} ({sys.executable})"))
            return
        if self._on_done is None and (outcome == 0 or self._fatal is not None):
            return  # it exited because the store was closed
        error, self._fatal = self._fatal or self._crashed(outcome, timed_out=timed_out), None
        self._report(error)

    def _crashed(self, code: int, *, timed_out: bool) -> StoreError:
        if timed_out:
            how, advice = f"no reply for {self._timeout:g} s, killed", "check the disk"
        else:
            how, advice = f"signal {-code}" if code < 0 else f"exit code {code}", "see standard error"
        self.statistics.restarts += 1
        log.warning("store.writer_crashed", dead_letters=self._config.url, how=how)
        if self._opened:
            return WriterEnded(self._config.url, how)
        return WriterNotStarted(self._config.url, f"it ended before it was ready ({how}); {advice}")

    def _report(self, outcome: list[Exception | None] | Exception) -> None:
        on_done, self._on_done = self._on_done, None
        if on_done is None:
            return
        if isinstance(outcome, Exception):
            self.statistics.failures += self._has_batches
        on_done(outcome)


class _Subprocess(asyncio.SubprocessProtocol):
    """One process, from its start to its exit.

    Calls `on_message` with each message, which returns whether another one is due, and finally `on_end` with the exit
    code, or with the error that prevented the start. Kills the process when a message has been due for `timeout`
    seconds.

    The event loop reads the socket without a transport, because a transport cannot be closed after its event loop.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float,
        on_message: Callable[[bytes], bool],
        on_end: Callable[[int | Exception], None],
    ) -> None:
        self.timed_out = False
        self._timeout = timeout
        self._on_message = on_message
        self._on_end = on_end
        self._received = bytearray()
        self._unsent = memoryview(b"")
        self._loop = asyncio.get_running_loop()
        self._deadline: Deadline | None = None
        self._transport: asyncio.SubprocessTransport | None = None
        self._outcome: int | Exception | None = None
        self._ended = asyncio.Event()
        self._socket, theirs = socket.socketpair()
        for end in (self._socket, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        self._socket.setblocking(False)
        self._loop.add_reader(self._socket, self._read)
        self._starting = self._loop.create_task(self._start(url, theirs), name="start of the dead-letter writer")
        self._starting.add_done_callback(lambda _: self._on_started(theirs))

    def send(self, data: bytes) -> None:
        """Send a message, unless the process has ended. It has replied to all earlier ones."""
        if self._socket.fileno() >= 0:
            self._unsent = memoryview(data)
            self._expect_message(due=True)
            self._write()

    async def aclose(self, timeout: float) -> None:
        """Close the connection and wait until the process has exited. Kills it after a timeout."""
        with suppress(OSError):  # it has just ended
            self._socket.shutdown(socket.SHUT_WR)
        try:
            async with asyncio.timeout(timeout):
                await self._ended.wait()
        except TimeoutError:
            self.kill()
            await self._ended.wait()

    def kill(self) -> None:
        """Kill the process. Letters that it has not reported are not reported as stored."""
        if self._transport is None:
            self._starting.cancel()
            return
        with suppress(ProcessLookupError):
            self._transport.kill()

    def close_detached(self) -> None:
        """Kill the process and close the connection, after the event loop was closed."""
        self._socket.close()
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note that the process was started."""
        self._transport = cast(asyncio.SubprocessTransport, transport)

    def process_exited(self) -> None:
        """Note the exit code. The process has ended when its last message was read, too."""
        assert self._transport is not None
        self._outcome = self._transport.get_returncode()
        self._transport.close()
        self._end_if_complete()

    async def _start(self, url: str, theirs: socket.socket) -> None:
        """Start the process.

        It has its own session, so that Ctrl-C reaches only this process. It does not share standard output, because the
        reader of a pipe would wait for the end of both.
        """
        await self._loop.subprocess_exec(
            lambda: self,
            sys.executable,
            *("-P", "-m", "penstock.deadletters.sqlite.writer_main", url),
            stdin=theirs.fileno(),
            stdout=subprocess.DEVNULL,
            stderr=None,
            start_new_session=True,
            env=child_environment(),
        )

    def _on_started(self, theirs: socket.socket) -> None:
        theirs.close()  # so that the end of the process ends the connection
        if self._outcome is not None:
            return
        if self._starting.cancelled():
            self._outcome = OSError("the start was cancelled")
        else:
            self._outcome = cast("Exception | None", self._starting.exception())
        self._end_if_complete()

    def _write(self) -> None:
        try:
            self._unsent = self._unsent[self._socket.send(self._unsent) :]
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self._unsent = memoryview(b"")  # the process has ended, which reading notices
        if self._unsent:
            self._loop.add_writer(self._socket, self._write)
        else:
            self._loop.remove_writer(self._socket)

    def _read(self) -> None:
        try:
            data = self._socket.recv(RECEIVE_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            self._socket.close()
            self._end_if_complete()
            return
        self._received += data
        for message in split_frames(self._received):
            self._expect_message(due=False)  # handling this message may send the next one
            if self._on_message(message):
                self._expect_message(due=True)

    def _expect_message(self, *, due: bool) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = Deadline(self._loop, self._loop.time() + self._timeout, self._give_up) if due else None

    def _give_up(self) -> None:
        self.timed_out = True
        self.kill()

    def _end_if_complete(self) -> None:
        if self._outcome is None or self._socket.fileno() >= 0:
            return
        self._expect_message(due=False)
        self._ended.set()
        self._on_end(self._outcome)


def child_environment() -> dict[str, str]:
    """Return the variables that the process needs. The others may hold secrets, such as `PENSTOCK_TOKEN`."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name.upper() in KEPT_VARIABLES or name.startswith(KEPT_PREFIXES)
    }
    return kept | {"PYTHONPATH": os.pathsep.join(module_paths())}


def module_paths() -> list[str]:
    """Return the import path of this process, so that the subprocess finds the same modules."""
    entries: list[object] = list(sys.path)  # programs may add entries that are not text
    paths = [entry for entry in entries if entry and isinstance(entry, str)]
    return paths if ROOT in paths else [ROOT, *paths]
