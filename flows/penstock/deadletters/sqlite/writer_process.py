"""Runs the writer in a subprocess, so that the event loop has the interpreter of this process to itself."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import weakref
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

KILL_SECONDS = 1.0
"""Timeout for the exit of a killed process that no event loop waits for."""

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
        self._exiting: set[_Subprocess] = set()
        """Processes that have disconnected and not exited yet."""
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
        for process in (self._process, *self._exiting):
            if process is not None:
                await process.aclose(self._config.timeout)
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
        if self._process is not None:
            self._process.poll()  # one that has ended in the meantime is replaced
        self._on_done, self._has_batches = on_done, bool(batches)
        data = b"".join([encode_frame(AddMessage(len(batches), refresh)), *batches])
        if self._process is None:
            # The thread has just counted the letters, and counting reads the whole table: 9 s for a million letters.
            data = encode_frame(OpenMessage(self._config, self.statistics, self._started)) + data
            self._started, self._opened, self._fatal = True, False, None
            self._process = _Subprocess(
                self._config.url,
                timeout=self._timeout,
                on_message=self._on_message,
                on_disconnect=self._on_disconnect,
                on_end=self._on_end,
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

    def _on_disconnect(self, process: _Subprocess) -> None:
        """If no caller waits for the process that has disconnected, the next one gets another process."""
        self._exiting.add(process)
        if self._on_done is None and self._process is process:
            self._process = None

    def _on_end(self, process: _Subprocess, outcome: int | Exception) -> None:
        """Report the exit code of a process, or why it could not be started, to the callers that wait for it."""
        self._exiting.discard(process)
        if self._process is not process:
            if isinstance(outcome, int) and outcome != 0:
                self._log_crash(process, outcome)
            return
        self._process = None
        error, self._fatal = self._fatal or self._end_error(process, outcome), None
        self._report(error)

    def _end_error(self, process: _Subprocess, outcome: int | Exception) -> StoreError:
        if isinstance(outcome, Exception):
            reason = getattr(outcome, "strerror", None) or describe(outcome)
            return WriterNotStarted(self._config.url, f"{reason} ({sys.executable})")
        how = self._log_crash(process, outcome)
        if self._opened:
            return WriterEnded(self._config.url, how)
        advice = "check the disk" if process.timed_out else "see standard error"
        return WriterNotStarted(self._config.url, f"it ended before it was ready ({how}); {advice}")

    def _log_crash(self, process: _Subprocess, code: int) -> str:
        if process.timed_out:
            how = f"no reply for {self._timeout:g} s, killed"
        else:
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
        self.statistics.restarts += 1
        log.warning("store.writer_crashed", dead_letters=self._config.url, how=how)
        return how

    def _report(self, outcome: list[Exception | None] | Exception) -> None:
        on_done, self._on_done = self._on_done, None
        if on_done is None:
            return
        if isinstance(outcome, Exception):
            self.statistics.failures += self._has_batches
        on_done(outcome)


class _Subprocess:
    """One process, from its start to its exit.

    Calls `on_message` with each message, which returns whether another one is due; `on_disconnect` after the last one;
    and `on_end` with the exit code, or with the error that prevented the start. Kills the process when a message has
    been due for `timeout` seconds.

    The event loop reads the socket without a transport, because a transport cannot be closed after its event loop.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float,
        on_message: Callable[[bytes], bool],
        on_disconnect: Callable[[_Subprocess], None],
        on_end: Callable[[_Subprocess, int | Exception], None],
    ) -> None:
        self.timed_out = False
        self._timeout = timeout
        self._on_message = on_message
        self._on_disconnect = on_disconnect
        self._on_end = on_end
        self._received = bytearray()
        self._unsent = memoryview(b"")
        self._loop = asyncio.get_running_loop()
        self._deadline: Deadline | None = None
        self._transport: asyncio.SubprocessTransport | None = None
        self._kill_detached: weakref.finalize[..., _Subprocess] | None = None
        """Ends a process whose store was forgotten without closing it; asyncio would warn of that and leave it."""
        self._outcome: int | Exception | None = None
        self._ended = asyncio.Event()
        self._socket, theirs = socket.socketpair()
        for end in (self._socket, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        self._socket.setblocking(False)
        self._loop.add_reader(self._socket, self._read)
        self._starting = self._loop.create_task(self._start(url, theirs), name="start of the dead-letter writer")
        self._starting.add_done_callback(lambda _: self._close_theirs(theirs))

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
        if self._kill_detached is not None:
            self._kill_detached()

    def poll(self) -> None:
        """Notice now if the process has disconnected."""
        if self._socket.fileno() >= 0:
            self._read()

    def on_started(self, transport: asyncio.SubprocessTransport) -> None:
        """Keep the transport, which is there to kill the process."""
        self._transport = transport
        self._kill_detached = weakref.finalize(self, kill_detached, self._socket, transport)
        self._kill_detached.atexit = False  # the end of this process closes the socket

    def on_exit(self, transport: asyncio.SubprocessTransport) -> None:
        """Note the exit code. The process has ended when its last message was read, too."""
        self._outcome = transport.get_returncode()
        if self._kill_detached is not None:
            self._kill_detached.detach()
        self._end_if_complete()

    async def _start(self, url: str, theirs: socket.socket) -> None:
        """Start the process.

        It has its own session, so that Ctrl-C reaches only this process. It does not share standard output, because the
        reader of a pipe would wait for the end of both.
        """
        await self._loop.subprocess_exec(
            lambda: _ExitProtocol(self),
            sys.executable,
            *("-P", "-m", "penstock.deadletters.sqlite.writer_main", url),
            stdin=theirs.fileno(),
            stdout=subprocess.DEVNULL,
            stderr=None,
            start_new_session=True,
            env=child_environment(),
        )

    def _close_theirs(self, theirs: socket.socket) -> None:
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
            self._on_disconnect(self)
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
        self._on_end(self, self._outcome)


class _ExitProtocol(asyncio.SubprocessProtocol):
    """Tells a `_Subprocess` when it has started and exited.

    The reference is weak: asyncio keeps this object until the process exits (in a thread, on Python 3.11), and the
    process exits when its socket is closed, so a store that was forgotten in a closed event loop would never be freed.
    """

    def __init__(self, process: _Subprocess) -> None:
        self._process = weakref.ref(process)
        self._transport: asyncio.SubprocessTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.SubprocessTransport, transport)
        if (process := self._process()) is not None:
            process.on_started(self._transport)

    def process_exited(self) -> None:
        assert self._transport is not None
        self._transport.close()
        if (process := self._process()) is not None:
            process.on_exit(self._transport)


def kill_detached(connection: socket.socket, transport: asyncio.SubprocessTransport) -> None:
    """Kill a process without an event loop, and wait for its exit."""
    connection.close()
    process: subprocess.Popen[bytes] = transport.get_extra_info("subprocess")
    transport.close()
    with suppress(subprocess.TimeoutExpired):
        process.wait(KILL_SECONDS)


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
