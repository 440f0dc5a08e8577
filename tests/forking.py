"""Processes of `penstock` for tests, each forked from one that has imported everything.

Most of what a short command costs is imports: 0.5 s of a processor, 0.05 s forked. The suite starts hundreds. Otherwise
the processes are like any: with their own streams, environment, working directory and signals, and they end as Python
ends. What imports do at the start is for tests that start Python itself. forking_server.py is what forks.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PATHS = (str(ROOT / "flows"), str(ROOT / "http"))
LARGEST = 1 << 20
"""Bytes of a message: the environment is the most of it."""


def environment() -> dict[str, str]:
    """The variables of this process without settings of Penstock, except for the event loop."""
    kept = "PENSTOCK_EVENT_LOOP"  # see conftest.py
    return {name: value for name, value in os.environ.items() if name == kept or not name.startswith("PENSTOCK_")}


def start(
    *words: str,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    closed: Sequence[int] = (),
    **options: Any,
) -> subprocess.Popen[Any]:
    """Start `python -m penstock WORDS`, with options of `subprocess.Popen`. `closed`: streams that it does not have.

    Python itself is started where something depends on it: another option than streams, a `sitecustomize.py`.
    """
    command = [sys.executable, "-m", "penstock", *words]
    forked = sys.platform == "linux" and options.keys() <= {"stdin", "stdout", "stderr", "text", "start_new_session"}
    if cwd is not None and (cwd / "sitecustomize.py").exists():
        forked = False
    return _start(command, forked, env, cwd, closed, options)


def _start(
    command: list[str],
    forked: bool,
    env: Mapping[str, str] | None,
    cwd: Path | None,
    closed: Sequence[int],
    options: dict[str, Any],
) -> subprocess.Popen[Any]:
    env = dict(os.environ if env is None else env)
    if forked:
        return Forked(command, env=env, cwd=cwd, closed=closed, **options)
    if closed:
        closing = " ".join(f"{number}>&-" for number in closed)
        command = ["sh", "-c", f'exec "$@" {closing}', "sh", *command]
    return subprocess.Popen(command, env=env, cwd=cwd, **options)


def start_python(
    *words: str,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    closed: Sequence[int] = (),
    **options: Any,
) -> subprocess.Popen[Any]:
    """Start `python -c PROGRAM`, `python -m MODULE` or `python FILE`, with arguments and options of `subprocess.Popen`.

    For programs of tests, which import Penstock and then do what is tested.
    """
    return _start([sys.executable, *words], sys.platform == "linux", env, cwd, closed, options)


def run(
    *words: str, input: Any = None, capture_output: bool = False, timeout: float | None = None, **options: Any
) -> subprocess.CompletedProcess[Any]:
    """Run `python -m penstock WORDS` to its end, with options of `subprocess.run`."""
    if input is not None:
        options["stdin"] = subprocess.PIPE
    if capture_output:
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return complete(start(*words, **options), input, timeout)


def complete(
    process: subprocess.Popen[Any], input: Any = None, timeout: float | None = None
) -> subprocess.CompletedProcess[Any]:
    """Wait for the end of a process."""
    with process:
        try:
            out, said = process.communicate(input, timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, said)


class Forked(subprocess.Popen[Any]):
    """A process that is a child of the server: it tells the status, and all else is as with any `Popen`."""

    def __init__(self, command: Sequence[str], *, closed: Sequence[int], **options: Any) -> None:
        self._closed = list(closed)
        super().__init__(command, **options)

    def _execute_child(self, args: Any, executable: Any, preexec_fn: Any, close_fds: Any, pass_fds: Any, cwd: Any,
                       env: Any, startupinfo: Any, creationflags: Any, shell: Any, p2cread: int, p2cwrite: int,
                       c2pread: int, c2pwrite: int, errread: int, errwrite: int, restore_signals: Any, gid: Any,
                       gids: Any, uid: Any, umask: Any, start_new_session: bool, *others: Any) -> None:  # fmt: skip
        ours = [0 if p2cread == -1 else p2cread, 1 if c2pwrite == -1 else c2pwrite, 2 if errwrite == -1 else errwrite]
        request = {
            "words": args[1:],
            "cwd": os.path.abspath(cwd or ""),
            "env": env,
            "closed": self._closed,
            "numbers": [0, 1, 2, *pass_fds],
            "session": start_new_session,
        }
        self.pid = int(_server().ask(request, [*ours, *pass_fds])["pid"])
        self._child_created = True
        self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)  # type: ignore[attr-defined]

    def _internal_poll(self, *_: Any, **__: Any) -> int | None:
        if self.returncode is None:
            status = _server().ask({"status": self.pid})["status"]
            if status is not None:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def _wait(self, timeout: float | None) -> int:
        if self.returncode is None:
            descriptor = os.pidfd_open(self.pid)
            try:
                poll = select.poll()
                poll.register(descriptor, select.POLLIN)
                if not poll.poll(None if timeout is None else max(timeout, 0) * 1000):
                    raise subprocess.TimeoutExpired(self.args, timeout or 0)
            finally:
                os.close(descriptor)
        while (code := self._internal_poll()) is None:
            pass
        return code


@contextmanager
def listening(folder: Path) -> Iterator[str]:
    """Fork processes for shell scripts during a block. Yields the line of the script that stands for `penstock`.

    Where nothing can be forked, it is that of Python itself.
    """
    if sys.platform != "linux":
        yield f'exec "{sys.executable}" -m penstock "$@"'
        return
    path = str(folder / "forking.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(path)
        listener.listen()

        def accept() -> None:
            with suppress(OSError):  # the block has ended
                while True:
                    connection, _ = listener.accept()
                    threading.Thread(target=_attend, args=(connection,), daemon=True).start()

        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        try:
            yield f'exec "{sys.executable}" -I -S "{ROOT / "tests" / "forked_command.py"}" "{path}" "$@"'
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join()


def _attend(connection: socket.socket) -> None:
    """Fork the process that a `forked_command.py` asks for, and tell how it ended. If that is killed, it is too."""
    with connection:
        data, descriptors, _, _ = socket.recv_fds(connection, LARGEST, 3)
        request = json.loads(data)
        request["words"] = ["-m", "penstock", *request["words"]]
        try:
            pid = int(_server().ask(request, list(descriptors))["pid"])
        finally:
            for one in descriptors:
                os.close(one)
        ended = os.pidfd_open(pid)
        try:
            connection.send(str(pid).encode())
            readable, _, _ = select.select([ended, connection], [], [])
            if ended not in readable:
                os.kill(pid, signal.SIGKILL)
                select.select([ended], [], [])
        finally:
            os.close(ended)
        while (status := _server().ask({"status": pid})["status"]) is None:
            pass
        with suppress(OSError):  # it was killed
            connection.send(str(os.waitstatus_to_exitcode(status)).encode())


class Server:
    """The process that the others are forked from. It ends with the process that started it."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for one in (self._socket, theirs):
            one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LARGEST)
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("forking_server.py")), str(theirs.fileno())],
            env=environment() | {"PYTHONPATH": os.pathsep.join(PATHS)},
            pass_fds=[theirs.fileno()],
        )
        theirs.close()
        atexit.register(self.close)

    def close(self) -> None:
        """End the server."""
        self._socket.close()
        self._process.wait()

    def ask(self, request: dict[str, Any], descriptors: list[int] = []) -> dict[str, Any]:  # noqa: B006 - never changed
        """Return the answer to a request."""
        with self._lock:
            socket.send_fds(self._socket, [json.dumps(request).encode()], descriptors)
            return dict(json.loads(self._socket.recv(LARGEST)))


_started: list[Server] = []


def _server() -> Server:
    if not _started:
        _started.append(Server())
    return _started[0]
