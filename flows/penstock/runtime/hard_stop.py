"""The hard stop: ends the process in time after a stop signal, even when its interpreter is stuck in C code.

Python's signal handlers, timers and threads all need the GIL, which a long call into C code may hold. So there are
three levels, each for what stops the one before:

1. A thread, when the event loop is stuck. It logs, and exits with code 1.
2. The watchdog of `faulthandler`, when a signal was handled and the interpreter is stuck since. It is a C thread that
   needs no GIL. It writes where the interpreter is stuck to standard error, and exits with code 1.
3. A guard process, when the interpreter is stuck already while the signal comes. Python's C-level signal handler
   notifies it through the wakeup file descriptor. It kills the process with SIGKILL.

A process with id 1 of a container cannot be killed from inside, so the third level has no effect there.
"""

from __future__ import annotations

import asyncio
import faulthandler
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable

from penstock.runtime import guard
from penstock.support.logger import get_logger

LOG_SECONDS = 0.5
"""Seconds that the last log line may take."""

FAULTHANDLER_SECONDS = LOG_SECONDS + 0.25
"""Seconds after the deadline at which `faulthandler` exits."""

GUARD_SECONDS = FAULTHANDLER_SECONDS + 0.25
"""Seconds after the deadline at which the guard process begins to kill."""

GUARD_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
"""The variables that a Python interpreter may need to start; the others may be secret."""

log = get_logger()


class HardStop:
    """Ends the process at the third stop signal, and, with `seconds`, that long after the first one.

    `report` logs why; it is called in a thread, and not waited for longer than `LOG_SECONDS`.
    """

    def __init__(self, report: Callable[[str], object], *, seconds: float | None = None) -> None:
        self._report = report
        self._seconds = seconds
        # `next` of a counter is atomic: a signal handler may be interrupted by the next signal.
        self._numbers = itertools.count(1)
        self._guard = _Guard(float("inf") if seconds is None else seconds + GUARD_SECONDS)

    def on_signal(self) -> None:
        """Count a stop signal; to be called by its Python handler."""
        number = next(self._numbers)
        if number == 1 and self._seconds is not None:
            timer = threading.Timer(self._seconds, self._exit, ("shutdown.deadline_exceeded",))
            timer.daemon = True
            timer.start()
            _exit_later(self._seconds + FAULTHANDLER_SECONDS)
        elif number == 3:
            _exit_later(FAULTHANDLER_SECONDS)
            threading.Thread(target=self._exit, args=("shutdown.forced_exit",), daemon=True).start()

    def close(self) -> None:
        """End the guard process and the watchdog: from now on nothing ends this process."""
        faulthandler.cancel_dump_traceback_later()
        self._guard.close()

    def _exit(self, event: str) -> None:
        # Logging may be what is stuck.
        reporting = threading.Thread(target=self._report, args=(event,), daemon=True)
        reporting.start()
        reporting.join(LOG_SECONDS)
        os._exit(1)


def _exit_later(seconds: float) -> None:
    """Have the watchdog of `faulthandler` exit after a time; it has one timer, so the last call counts."""
    if (output := _standard_error()) is not None:
        faulthandler.dump_traceback_later(seconds, exit=True, file=output)


def _standard_error() -> int | None:
    """Return the file descriptor of standard error; None if it is closed, because another file may have its number."""
    if sys.__stderr__ is None:
        return None
    try:
        return sys.__stderr__.fileno()
    except (OSError, ValueError):
        return None


class _Guard:
    """The guard process of this one, and the socket to it, on which the C-level signal handler writes.

    The event loop reads what comes back: otherwise it would notice a signal that comes just before it begins to wait
    only when that wait ends.
    """

    def __init__(self, seconds: float) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._sockets: tuple[socket.socket, ...] = ()
        if os.name != "posix":
            return
        self._loop = asyncio.get_running_loop()
        self._wakeup_before = signal.set_wakeup_fd(-1)
        ours, theirs = socket.socketpair()
        try:
            self._process = _start(theirs, seconds)
        except OSError as error:
            log.warning("shutdown.guard_unavailable", error=error.strerror)
            self._use(ours, theirs)
        else:
            theirs.close()
            self._use(ours, ours)
        output = _standard_error()
        if output is not None and signal.getsignal(signal.SIGUSR2) is signal.SIG_DFL:
            faulthandler.register(signal.SIGUSR2, file=output)

    def close(self) -> None:
        """End the process and wait for its end."""
        if os.name != "posix":
            return
        self._stop_using()
        signal.set_wakeup_fd(self._wakeup_before)
        faulthandler.unregister(signal.SIGUSR2)
        if self._process is not None:
            try:
                self._process.wait(1)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _use(self, written: socket.socket, read: socket.socket) -> None:
        """Have the signal handler write to one socket, and the event loop read from another, or from the same."""
        self._sockets = (read, written)
        for end in self._sockets:
            end.setblocking(False)
        self._loop.add_reader(read, self._read, read)
        signal.set_wakeup_fd(written.fileno(), warn_on_full_buffer=False)

    def _stop_using(self) -> None:
        signal.set_wakeup_fd(-1)
        self._loop.remove_reader(self._sockets[0])
        for end in self._sockets:
            end.close()

    def _read(self, read: socket.socket) -> None:
        try:
            if read.recv(1024):
                return
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            pass
        self._stop_using()
        self._use(*socket.socketpair())
        log.warning("shutdown.guard_unavailable", error="the guard process has ended")


def _start(line: socket.socket, seconds: float) -> subprocess.Popen[bytes]:
    """Start the guard process. Raises `OSError`.

    It has its own session, so that Ctrl-C and a closed terminal do not end it.
    """
    if not sys.executable or hasattr(sys, "frozen"):  # a frozen program would start itself
        raise OSError(0, "there is no Python interpreter to run it")
    return subprocess.Popen(  # noqa: S603 - this Python, with a module of ours
        [sys.executable, "-I", "-S", guard.__file__, str(os.getpid()), str(seconds)],
        stdin=line.fileno(),
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        env={name: os.environ[name] for name in GUARD_VARIABLES if name in os.environ},
    )
