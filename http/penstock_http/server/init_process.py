"""Process 1 of a container: it passes signals on to the service, and reaps the processes that lost their parent.

The kernel makes process 1 the parent of every orphan in the container. One whose exit code is not read stays a zombie,
and enough of them use up all process ids. The service itself must not wait for all of its children: it would take away
the exit codes that asyncio and the code of flows wait for. And nothing in a container can kill its process 1, so a
stuck service could not end itself.
"""

from __future__ import annotations

import os
import signal
import sys

FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


def become_init(pid: int | None = None) -> None:
    """Fork, if this is process 1. Returns in the child, which is to be the service; the parent ends as it does.

    To be called before threads and an event loop are started. `pid` is the id of this process.
    """
    if sys.platform == "win32" or (os.getpid() if pid is None else pid) != 1:
        return
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, (*FORWARDED, signal.SIGCHLD))
    child = os.fork()
    if child:
        os._exit(_attend(child))
    os.setsid()  # Ctrl-C reaches process 1 alone, which passes it on
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _attend(child: int) -> int:
    """Pass signals on and reap processes, until the child ends. Returns its exit code, as shells show it."""
    while True:
        number = signal.sigwait((*FORWARDED, signal.SIGCHLD))
        if number != signal.SIGCHLD:
            os.kill(child, number)
            continue
        while True:  # one signal may stand for several processes
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == child:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code
            if pid == 0:
                break
