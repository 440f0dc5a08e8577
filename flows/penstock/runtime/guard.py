"""The guard process: kills its parent if that ignores stop signals. Run as a script; see `hard_stop`.

Arguments: the process id of the parent, and the seconds that it has after its first stop signal (`inf` for no limit).
Standard input is a socket on which the parent's C-level signal handler writes the number of each signal. The guard
sends each byte back, which wakes the parent's event loop. It ends when the parent has ended or closes the socket.

It uses the standard library only, so that it starts quickly without the parent's `sys.path`.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)

EXIT_SECONDS = 1.0
"""Seconds after the third signal that the parent has to exit, including its last log line."""

DUMP_SECONDS = 0.25
"""Seconds that the parent has to write its traceback."""


def main() -> None:
    """Guard the parent until it ends."""
    parent, seconds = int(sys.argv[1]), float(sys.argv[2])
    for number in (*STOP_SIGNALS, signal.SIGHUP):  # these signals are meant for the parent
        signal.signal(number, signal.SIG_IGN)
    os.set_blocking(0, False)
    signals = 0
    deadline = float("inf")
    while wait_for_input(deadline):
        data = b""
        try:
            data = os.read(0, 1024)
            if not data:
                return
            os.write(0, data)
        except BlockingIOError:
            pass  # the parent does not read: it is stuck, or has been woken already
        except OSError:
            return
        for _ in filter(STOP_SIGNALS.__contains__, data):
            signals += 1
            if signals == 1:
                deadline = time.monotonic() + seconds
            elif signals == 3:
                deadline = min(deadline, time.monotonic() + EXIT_SECONDS)
    kill(parent)


def wait_for_input(deadline: float) -> bool:
    """Wait for input. Return False if the deadline comes first."""
    while (left := deadline - time.monotonic()) > 0:
        if select.select([0], [], [], min(left, 3600.0))[0]:
            return True
    return False


def kill(parent: int) -> None:
    """Have the parent write its traceback, then kill it and report that."""
    for number, pause in ((signal.SIGUSR2, DUMP_SECONDS), (signal.SIGKILL, 0.0)):
        if os.getppid() != parent:  # the parent has ended, and its id may belong to another process
            return
        os.kill(parent, number)
        time.sleep(pause)
    signal.alarm(1)  # the reader of standard error may not read
    os.write(2, b"penstock: killed process %d: it was stuck and did not stop in time\n" % parent)


if __name__ == "__main__":
    main()
