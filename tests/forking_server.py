"""The process that `penstock` processes of tests are forked from, and what makes a child like one that was started.

A service with several processes starts them by `asyncio.create_subprocess_exec`. Where it is forked itself, that is
replaced: they are forked from here too.
"""

from __future__ import annotations

import asyncio
import fcntl
import gc
import importlib
import io
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import sys
import termios
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from forking import LARGEST, PATHS, ROOT
from penstock import Expression
from penstock.errors import PenstockError

MANY = 64
"""Descriptors that a request may come with."""

HIGH = 200
"""The first descriptor that no request asks for."""


def serve(descriptor: int) -> int:
    """Fork a process for each request. Returns in the server when the tests have ended, and in each child."""
    for package in ("penstock", "penstock_http"):
        for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    with suppress(PenstockError):  # where CEL is not installed
        Expression("value.n > 0")({"n": 1})  # the first one imports CEL, and starts it: 0.1 s of a processor
    gc.collect()
    gc.freeze()
    assert len(os.listdir("/proc/self/task")) == 1, "a thread would be missing in the children"
    tests = socket.socket(fileno=descriptor)
    asking = [tests]
    while True:
        for one in select.select(asking, [], [])[0]:
            data, descriptors, _, _ = socket.recv_fds(one, LARGEST, MANY)
            if not data:
                one.close()
                asking.remove(one)
                if one is tests:
                    return 0
                continue
            request = json.loads(data)
            if "status" in request:
                pid, status = os.waitpid(request["status"], os.WNOHANG)
                one.send(json.dumps({"status": status if pid else None}).encode())
                continue
            ours, theirs = pair() if "--processes" in request["words"] else (None, None)
            pid = os.fork()
            if pid == 0:
                for each in (*asking, *([ours] if ours else [])):
                    each.close()
                return become(descriptors, theirs, **request)
            for each in descriptors:
                os.close(each)
            if ours and theirs:
                theirs.close()
                asking.append(ours)
            one.send(json.dumps({"pid": pid}).encode())


def pair() -> tuple[socket.socket, socket.socket]:
    """Return connected sockets for requests."""
    both = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for one in both:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LARGEST)
    return both


def become(
    descriptors: list[int],
    server: socket.socket | None,
    words: list[str],
    cwd: str,
    env: dict[str, str],
    closed: Sequence[int] = (),
    numbers: Sequence[int] = (0, 1, 2),
    session: bool = False,
) -> int:
    """Run `python WORDS` in a child. Returns its exit code. `numbers` are what its descriptors are to be."""
    high = [fcntl.fcntl(one, fcntl.F_DUPFD_CLOEXEC, HIGH) for one in descriptors]
    for one in descriptors:
        os.close(one)
    for number, one in zip(numbers, high, strict=True):
        os.dup2(one, number, inheritable=True)
        os.close(one)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    if session:
        os.setsid()
        if os.isatty(0):
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # Ctrl-C on it is a signal for the process
    given = [path for path in env.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = [*given, *(path for path in sys.path[1:] if path not in (*PATHS, *given))]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in closed:
        os.close(number)
    sys.stdin, sys.stdout, sys.stderr = (None if number in closed else stream(number) for number in range(3))
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr  # type: ignore[misc]  # are Final
    if server is not None:
        asyncio.create_subprocess_exec = Starter(server)
    return perform(words, cwd)


def perform(words: list[str], cwd: str) -> int:
    """Do what `python WORDS` does: a command or a process of Penstock, or a program of a test."""
    match words:
        case ["-m", "penstock", *arguments]:
            sys.path.insert(0, cwd)
            sys.argv[:] = [str(ROOT / "flows" / "penstock" / "__main__.py"), *arguments]
            return int(sys.modules["penstock.cli.main"].main())
        case ["-P", "-m", module, *arguments]:
            sys.argv[:] = [module, *arguments]
            return int(sys.modules[module].main())
        case ["-m", module, *arguments]:
            sys.path.insert(0, cwd)
            sys.argv[:] = [module, *arguments]
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        case ["-c", program, *arguments]:
            sys.path.insert(0, "")
            sys.argv[:] = ["-c", *arguments]
            exec(compile(program, "<string>", "exec"), {"__name__": "__main__"})
        case [file, *arguments]:
            sys.path.insert(0, os.path.dirname(file))
            sys.argv[:] = [file, *arguments]
            runpy.run_path(file, run_name="__main__")
    return 0


def stream(descriptor: int) -> Any:
    """Return a standard stream as Python makes it."""
    mode, errors = "w" if descriptor else "r", "backslashreplace" if descriptor == 2 else "strict"
    buffering = 0 if mode == "w" and os.environ.get("PYTHONUNBUFFERED") else -1
    raw = open(descriptor, f"{mode}b", buffering, closefd=False)  # noqa: SIM115 - open until the process ends
    text = io.TextIOWrapper(
        raw,
        encoding=os.environ.get("PYTHONIOENCODING", "utf-8"),
        errors=errors,
        line_buffering=os.isatty(descriptor) or (mode == "w" and descriptor == 2),
        write_through=bool(mode == "w" and os.environ.get("PYTHONUNBUFFERED")),
    )
    text.mode = mode  # type: ignore[misc]  # only `open` may set it, according to its type
    return text


# In a service with several processes


class Starter:
    """Stands for `asyncio.create_subprocess_exec`, where it starts a process of the service."""

    def __init__(self, server: socket.socket) -> None:
        self._server = server

    async def __call__(
        self,
        program: str,
        *words: str,
        stdin: int,
        start_new_session: bool,
        pass_fds: Sequence[int],
        env: dict[str, str],
    ) -> Started:
        """Have a process forked. Its standard output and error are those of this one."""
        assert program == sys.executable
        request = {
            "words": words,
            "env": env,
            "cwd": os.getcwd(),
            "numbers": [0, 1, 2, *pass_fds],
            "session": start_new_session,
        }
        nothing = os.open(os.devnull, os.O_RDONLY)
        try:
            return Started(self.ask(request, [nothing, 1, 2, *pass_fds])["pid"], self)
        finally:
            os.close(nothing)

    def ask(self, request: dict[str, Any], descriptors: Sequence[int] = ()) -> dict[str, Any]:
        """Return the answer to a request."""
        socket.send_fds(self._server, [json.dumps(request).encode()], list(descriptors))
        return dict(json.loads(self._server.recv(LARGEST)))


class Started:
    """A process that was forked: what a service uses of `asyncio.subprocess.Process`."""

    def __init__(self, pid: int, starter: Starter) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._starter = starter
        self._descriptor = os.pidfd_open(pid)

    async def wait(self) -> int:
        """Wait for its end. Returns the exit code."""
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(self._descriptor, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(self._descriptor)
        os.close(self._descriptor)
        while (status := self._starter.ask({"status": self.pid})["status"]) is None:
            pass
        self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(serve(int(sys.argv[1])))
