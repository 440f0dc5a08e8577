"""A process that writes letters, as the process sees it that started it: from its start to its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path

from penstock.deadletters.wire import cut
from penstock.turns import Deadline

BUFFER = 1 << 20
"""Bytes that the line holds in each direction, so that a whole group fits in."""

ANSWER = 1 << 16
"""Bytes that are read at a time: answers are short, and room for a megabyte took a third of the time of reading one."""

LET_GO_SECONDS = 5.0
"""That a process has to leave which nobody awaits, before it is killed."""

REAP_SECONDS = 0.002
"""Between two looks whether a process has ended, once its line has. No event tells that without a thread everywhere."""

ROOT = str(Path(__file__).parents[2])

KEPT_VARIABLES = frozenset(
    {"HOME", "LANG", "LANGUAGE", "PATH", "SQLITE_TMPDIR", "SYSTEMROOT", "TEMP", "TMP", "TMPDIR", "TZ", "VIRTUAL_ENV"}
)
"""Environment variables that Python and SQLite may need."""

KEPT_PREFIXES = ("LC_", "LD_", "DYLD_", "PYTHON")
"""How further ones begin: locale, dynamic linker, Python itself."""


class Child:
    """One such process. Calls back with each message that it sends, and at last with its exit code.

    `on_message` returns whether it owes another. It is killed when it has owed one for `seconds`. No transport of
    asyncio is in between: one that is left behind with a closed event loop complains, where this lets its process go.
    """

    def __init__(
        self, url: str, *, seconds: float, on_message: Callable[[bytes], bool], on_end: Callable[[int], None]
    ) -> None:
        self.late = False
        """Whether it is killed because it owed a message for too long."""
        self._seconds = seconds
        self._on_message = on_message
        self._on_end = on_end
        self._held = bytearray()
        self._unsent = memoryview(b"")
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._line, self._process = start(url)
        self.let_go = weakref.finalize(self, let_go, self._line, self._process)
        """Waits for its end without the event loop; for when that is closed."""
        self._loop.add_reader(self._line, self._read)
        self._alarm: Deadline | None = None

    def send(self, data: bytes) -> None:
        """Send it something, if it has not ended. What it was sent before, it has answered."""
        if self._line.fileno() >= 0:
            self._unsent = memoryview(data)
            self._await_message(owed=True)
            self._write()

    async def aclose(self, seconds: float) -> None:
        """End the line and wait until the process has finished what it does, and ended. Kills one that takes longer."""
        with contextlib.suppress(OSError):  # it has ended just now
            self._line.shutdown(socket.SHUT_WR)
        try:
            async with asyncio.timeout(seconds):
                await self._ended.wait()
        except TimeoutError:
            self._process.kill()
            await self._ended.wait()

    def kill(self) -> None:
        """End it now. What it has not told is not told as stored."""
        self._process.kill()

    def _write(self) -> None:
        try:
            self._unsent = self._unsent[self._line.send(self._unsent) :]
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self._unsent = memoryview(b"")  # it has ended: reading tells
        if self._unsent:
            self._loop.add_writer(self._line, self._write)
        else:
            self._loop.remove_writer(self._line)

    def _read(self) -> None:
        try:
            data = self._line.recv(ANSWER)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self._end()
            return
        self._held += data
        for message in cut(self._held):
            self._await_message(owed=False)  # what is done about this message may have the next one sent
            if self._on_message(message):
                self._await_message(owed=True)

    def _await_message(self, *, owed: bool) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = Deadline(self._loop, self._loop.time() + self._seconds, self._give_up) if owed else None

    def _give_up(self) -> None:
        self.late = True
        self._process.kill()

    def _end(self) -> None:
        self._loop.remove_reader(self._line)
        self._loop.remove_writer(self._line)
        self._line.close()
        self._reap()

    def _reap(self) -> None:
        code = self._process.poll()
        if code is None:
            self._loop.call_later(REAP_SECONDS, self._reap)
            return
        self._await_message(owed=False)
        self.let_go.detach()
        self._ended.set()
        self._on_end(code)


def can_start() -> bool:
    """Whether there is a Python to start here. A frozen program has none: it would start itself."""
    return os.name == "posix" and bool(sys.executable) and not hasattr(sys, "frozen")


def start(url: str) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """Start a process; returns this end of the line to it, which never blocks. Raises `OSError`.

    It has a session of its own, so that Ctrl-C is for this process only, and no part in this one's standard output,
    whose reader would otherwise wait for the end of both.
    """
    ours, theirs = socket.socketpair()
    try:
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        ours.setblocking(False)
        process = subprocess.Popen(  # noqa: S603 - this Python, with a module of ours
            [sys.executable, "-P", "-m", "penstock.deadletters.process", url],
            stdin=theirs.fileno(),
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            env=environment(),
        )
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return ours, process


def environment() -> dict[str, str]:
    """The environment of the process: only what it needs, because others hold secrets such as `PENSTOCK_TOKEN`."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name.upper() in KEPT_VARIABLES or name.startswith(KEPT_PREFIXES)
    }
    return kept | {"PYTHONPATH": os.pathsep.join(paths())}


def paths() -> list[str]:
    """Where this process finds its modules, in its order, so that the other one finds the same."""
    texts: list[object] = list(sys.path)  # some put there what is no text
    found = [path for path in texts if path and isinstance(path, str)]
    return found if ROOT in found else [ROOT, *found]


def let_go(line: socket.socket, process: subprocess.Popen[bytes]) -> None:
    """Have a process end that nobody awaits: the event loop was closed before the store."""
    with contextlib.suppress(OSError):
        line.shutdown(socket.SHUT_RDWR)  # a process that was forked from this one may have the line too
    line.close()
    try:
        process.wait(LET_GO_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
