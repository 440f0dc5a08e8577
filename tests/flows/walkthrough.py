"""The code blocks of a page as a reader performs them: in order, in one folder, servers running until the end."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import forking
from servers import program
from waiting import HANG_SECONDS, end, until

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SAVED = re.compile(r"[Ss]aved?\s+(?:this\s+)?as\s+`([\w.]+)`")
PORT = re.compile(r"(?<=localhost:)80\d\d|(?<=--port )80\d\d")
DEFAULT_PORT = "8080"
EXIT_CODE = re.compile(r"# exit code (\d)")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")
SECONDS = re.compile(r'"seconds":[\d.e-]+')
ELLIPSIS = "…"
SERVERS = ("penstock serve", "penstock simulate", "penstock work", "nats-server --")
"""Commands that are left running."""
READY = ("http.listening", "Server is ready")
"""What they log when they can be used."""


class Block(NamedTuple):
    """A fenced block, with its language and the text between it and the block before."""

    language: str
    text: str
    prose: str


def blocks_of(page: str) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    before = 0
    for match in FENCE.finditer(page):
        yield Block(match[1], match[2], page[before : match.start()])
        before = match.end()


def commands_of(block: str) -> list[str]:
    """The commands of a shell block: one for each line, continued lines joined, without lines of comments."""
    lines = block.replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


class Walkthrough:
    """A folder in which the blocks of a page are performed.

    `activated`: the environment is active from the start, for pages that assume an installed Penstock. The exit code of
    a command must be 0, or the one in its comment `# exit code 1`.

    An id that the page shows in an output stands for the one that was printed there, as a reader copies it into the
    next commands. Only two things differ from what a reader does. `python3 -m venv` makes an environment whose `python`
    is the one that runs the tests, whose `penstock` is forked by `forking`, and whose `pip` does nothing. Ports are
    replaced by free ones, the same one for each number throughout, so that this works on machines where 8080 is taken.
    """

    def __init__(self, folder: Path, penstock: str, *, activated: bool = False) -> None:
        self._folder = folder / "here"
        self._logs = folder
        self._shims = folder / "shims"
        self._folder.mkdir()
        make_shims(self._shims, penstock)
        if activated:
            shutil.copytree(self._shims / "environment", self._folder / ".venv")
        self._ports: dict[str, str] = {}
        self._servers: list[tuple[subprocess.Popen[bytes], Path]] = []
        self._ids: dict[str, str] = {}
        """The ids of the page, each with the one that was printed in its place."""
        self._outputs: list[str] = []
        """Standard output of each command of the last shell block."""

    def perform(self, block: Block) -> None:
        """Perform one block: save a file, run commands, or compare what the commands printed.

        A block that the page does not say to save is only shown.
        """
        if block.language == "sh":
            self._outputs = [
                self._run(self._with_ids(self._with_ports(command))) for command in commands_of(block.text)
            ]
        elif block.language:
            for name in SAVED.findall(block.prose)[-1:]:
                (self._folder / name).write_text(self._with_ports(block.text))
        else:
            self._compare(block.text.splitlines())

    def stop(self) -> list[int]:
        """Stop the servers with Ctrl-C; returns their exit codes."""
        for server, _ in self._servers:
            os.killpg(server.pid, signal.SIGINT)
        return [server.wait(HANG_SECONDS) for server, _ in self._servers]

    def close(self) -> None:
        """End whatever still runs."""
        for server, _ in self._servers:
            if server.poll() is None:
                os.killpg(server.pid, signal.SIGKILL)
            end(server)

    def _run(self, command: str) -> str:
        if any(name in command for name in SERVERS):
            self._serve(command)
            return ""
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", command],
            cwd=self._folder,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=HANG_SECONDS,
            check=False,
        )
        code = int(EXIT_CODE.findall(command)[0]) if EXIT_CODE.search(command) else 0
        assert done.returncode == code, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    def _serve(self, command: str) -> None:
        """Start a server and leave it running; returns when it listens and its own workers have finished."""
        log = self._logs / f"server-{len(self._servers)}.log"
        with log.open("wb") as errors:
            server = subprocess.Popen(
                ["bash", "-c", command],
                cwd=self._folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
            )
        self._servers.append((server, log))
        until(lambda: any(ready in log.read_text() for ready in READY) or server.poll() is not None)
        assert server.poll() is None, f"{command}\n{log.read_text()}"
        # The numbers that the page shows count the orders of the workers, which a person is slower than.
        workers = 2 if command.endswith("penstock serve") else 0
        until(lambda: log.read_text().count('"run.ended"') >= workers)

    def _environment(self) -> dict[str, str]:
        clean = forking.environment()
        path = os.pathsep.join([str(self._folder / ".venv/bin"), str(self._shims), clean["PATH"]])
        sources = os.pathsep.join([str(ROOT / "flows"), str(ROOT / "http")])
        port = self._with_ports(f"--port {DEFAULT_PORT}").removeprefix("--port ")
        return clean | {"PATH": path, "PYTHONPATH": sources, "PENSTOCK_PORT": port, "no_proxy": "localhost"}

    def _with_ports(self, command: str) -> str:
        return PORT.sub(lambda found: self._ports.setdefault(found[0], str(free_port())), command)

    def _with_ids(self, command: str) -> str:
        return UUID.sub(lambda found: self._ids.get(found[0], found[0]), command)

    def _compare(self, expected: list[str]) -> None:
        """What the page shows is what was printed: all of it after one command, else among it; results in any order."""
        printed = [line for output in self._outputs for line in output.splitlines()]
        for line in expected:
            pattern = ".*".join(map(re.escape, masked(line).split(ELLIPSIS)))
            found = next((one for one in printed if re.fullmatch(pattern, masked(one))), None)
            assert found is not None, (line, printed[-20:])
            for shown, actual in zip(UUID.findall(line), UUID.findall(found), strict=False):
                self._ids.setdefault(shown, actual)
        if len(self._outputs) == 1:
            assert len(printed) == len(expected)


@contextmanager
def walkthrough(folder: Path, *, activated: bool = False) -> Iterator[Walkthrough]:
    """A walkthrough whose servers are ended with the block."""
    with ExitStack() as stack:
        walking = Walkthrough(folder, stack.enter_context(forking.listening(folder)), activated=activated)
        stack.callback(walking.close)
        yield walking


def masked(line: str) -> str:
    """A line without what differs from run to run."""
    return TIME.sub("TIME", SECONDS.sub('"seconds":0', UUID.sub("ID", line)))


def free_port() -> int:
    """A free port, below those that the system gives to others that ask for any."""
    while True:
        port = random.randrange(20_000, 30_000)
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def make_shims(folder: Path, penstock: str) -> None:
    """Write `python3`, which makes an environment of the Python that runs the tests, and of a line for `penstock`."""
    binaries = folder / "environment" / "bin"
    binaries.mkdir(parents=True)
    for name, line in {
        "pip": "exit 0",
        "python": f'exec "{sys.executable}" "$@"',
        "penstock": penstock,
        "nats-server": f'exec "{program("nats-server")}" "$@"',
    }.items():
        script(binaries / name, line)
    script(folder / "python3", f'test "$1 $2" = "-m venv" && cp -r "{folder / "environment"}" "$3"')


def script(path: Path, line: str) -> None:
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)
