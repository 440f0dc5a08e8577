"""One writer subprocess: its start, its socket, and its exit."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import cast

from penstock.core.fairness import Deadline
from penstock.deadletters.sqlite.frame_socket import FrameSocket, connected_sockets

KILL_SECONDS = 1.0
"""Timeout for the exit of a killed process that no event loop waits for."""

KILL_CHECK_SECONDS = 0.01
"""Seconds between two checks whether it has exited, where the event loop was uvloop's."""

ROOT = str(Path(__file__).parents[3])
"""The folder that contains the package `penstock`."""

KEPT_VARIABLES = frozenset(
    {"HOME", "LANG", "LANGUAGE", "PATH", "SQLITE_TMPDIR", "SYSTEMROOT", "TEMP", "TMP", "TMPDIR", "TZ", "VIRTUAL_ENV"}
)
"""Environment variables that Python and SQLite may need."""

KEPT_PREFIXES = ("LC_", "LD_", "DYLD_", "PYTHON")
"""Prefixes of further ones: locale, dynamic linker, Python."""


class WriterSubprocess:
    """A process that runs `writer_main`, from its start to its exit.

    Calls `on_message` with each message, which returns whether another one is due; `on_disconnect` after the last one;
    and `on_end` with the exit code, or with the error that prevented the start. Kills the process when a message has
    been due for `timeout` seconds.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float,
        on_message: Callable[[bytes], bool],
        on_disconnect: Callable[[WriterSubprocess], None],
        on_end: Callable[[WriterSubprocess, int | Exception], None],
    ) -> None:
        self.timed_out = False
        self._timeout = timeout
        self._on_message = on_message
        self._on_disconnect = on_disconnect
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._deadline: Deadline | None = None
        self._transport: asyncio.SubprocessTransport | None = None
        self._kill_detached: weakref.finalize[..., WriterSubprocess] | None = None
        """Ends a process whose store was forgotten without closing it; asyncio would warn of that and leave it."""
        self._outcome: int | Exception | None = None
        self._ended = asyncio.Event()
        self._socket, theirs = connected_sockets()
        self._frames = FrameSocket(self._socket, on_message=self._receive, on_disconnect=self._disconnected)
        self._starting = self._loop.create_task(self._start(url, theirs), name="start of the dead-letter writer")
        self._starting.add_done_callback(lambda _: self._close_theirs(theirs))

    def send(self, data: bytes) -> None:
        """Send a message, unless the process has ended. It has replied to all earlier ones."""
        if self._frames.is_open:
            self._expect_message(due=True)
            self._frames.send(data)

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
        self._frames.poll()

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

    def _receive(self, message: bytes) -> None:
        self._expect_message(due=False)  # handling this message may send the next one
        if self._on_message(message):
            self._expect_message(due=True)

    def _disconnected(self) -> None:
        self._on_disconnect(self)
        self._end_if_complete()

    def _expect_message(self, *, due: bool) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = Deadline(self._loop, self._loop.time() + self._timeout, self._give_up) if due else None

    def _give_up(self) -> None:
        self.timed_out = True
        self.kill()

    def _end_if_complete(self) -> None:
        if self._outcome is None or self._frames.is_open:
            return
        self._expect_message(due=False)
        self._ended.set()
        self._on_end(self, self._outcome)


class _ExitProtocol(asyncio.SubprocessProtocol):
    """Notifies a `WriterSubprocess` when it has started and exited.

    The reference is weak: asyncio keeps this object until the process exits (in a thread, on Python 3.11), and the
    process exits when its socket is closed, so a store that was forgotten in a closed event loop would never be freed.
    """

    def __init__(self, process: WriterSubprocess) -> None:
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
    process: subprocess.Popen[bytes] | None = transport.get_extra_info("subprocess")
    if process is None:
        _kill_detached_from_uvloop(transport)
        return
    transport.close()
    with suppress(subprocess.TimeoutExpired):
        process.wait(KILL_SECONDS)


def _kill_detached_from_uvloop(transport: asyncio.SubprocessTransport) -> None:
    """Kill a process, and wait for its exit. A transport of uvloop has no `subprocess.Popen`."""
    with suppress(RuntimeError):  # its event loop was closed before, and with it the transport
        transport.close()
    pid = transport.get_pid()
    assert pid is not None
    with suppress(ProcessLookupError, ChildProcessError):
        os.kill(pid, signal.SIGKILL)
        for _ in range(round(KILL_SECONDS / KILL_CHECK_SECONDS)):
            if os.waitpid(pid, os.WNOHANG)[0]:
                return
            time.sleep(KILL_CHECK_SECONDS)  # there is no event loop any more


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
