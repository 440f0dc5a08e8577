"""Starts the servers and the clients of the benchmarks, watches them through /proc, and ends them by their ids."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
EXPRESS = HERE / "express"
PATH = "/orders/bulk"
START_SECONDS = 30
STOP_SECONDS = 20


class Missing(Exception):
    """A peer that cannot run here."""


class Server:
    """A server that was started here: its address, and what /proc tells about it."""

    def __init__(self, name: str, command: Sequence[str], environment: dict[str, str], folder: Path) -> None:
        self.name = name
        self.log: deque[str] = deque(maxlen=200)
        self.events: Counter[str] = Counter()
        """How many log lines each event has, of a server that logs JSON."""
        self.process = subprocess.Popen(
            command,
            env=os.environ | environment,
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.pid = self.process.pid
        self._listening = threading.Event()
        self._url = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if not self._listening.wait(START_SECONDS) or not self._url:
            self.stop()
            raise RuntimeError(f"{name} does not listen:\n" + "\n".join(self.log))

    @property
    def url(self) -> str:
        """The address of the bulk orders."""
        return self._url + PATH

    @property
    def origin(self) -> str:
        """Its address without a path."""
        return self._url

    def ask(self, path: str, method: str = "GET") -> str:
        """Something small of the server, as text."""
        request = urllib.request.Request(self._url + path, method=method)
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.read().decode()

    def forget_failures(self) -> None:
        """Have a peer that keeps failures in memory drop them, so that those of one run do not slow the next."""
        if not self.name.startswith("penstock"):
            self.ask("/dead-letters", "DELETE")

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's series that have these labels."""
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        lines = re.findall(rf"^{name}(\{{.*\}})? (\S+)$", self.ask("/metrics"), re.MULTILINE)
        return sum(float(value) for series, value in lines if all(label in series for label in wanted))

    def rss(self) -> float:
        """Memory in MiB."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1024

    def cpu(self) -> float:
        """Seconds of CPU so far, of all threads."""
        return cpu(self.pid)

    def stop(self) -> None:
        """End the process, kindly first."""
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _read(self) -> None:
        for line in self.process.stdout or ():
            self.log.append(line.rstrip())
            if found := re.search(r'"event":"([\w.]+)"', line):
                self.events[found[1]] += 1
            if "http.listening" in line and not self._url:
                self._url = json.loads(line)["url"].rstrip("/")
                self._listening.set()
        self._listening.set()


def cpu(pid: int) -> float:
    """Seconds of CPU of a process so far, of all threads; /proc/PID/stat counts only in hundredths of a second."""
    total = 0.0
    for task in Path(f"/proc/{pid}/task").iterdir():
        total += int((task / "schedstat").read_text().split()[0]) / 1e9
    return total


@contextmanager
def serving(names: Sequence[str], scale: float) -> Iterator[list[Server]]:
    """Servers side by side, services slowed by `scale`; who is missing is left out, loudly."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="penstock-bench-")))
        servers = []
        for name in names:
            try:
                command, environment = COMMANDS[name](folder, scale)
            except Missing as error:
                print(f"!!! {name} IS LEFT OUT: {error}", file=sys.stderr, flush=True)
                continue
            server = Server(name, command, environment, folder)
            stack.callback(server.stop)
            servers.append(server)
        yield servers


def penstock(folder: Path, scale: float) -> tuple[list[str], dict[str, str]]:
    """How to start Penstock, with its dead letters in a new SQLite file."""
    store = f"sqlite:///{folder}/penstock.db"
    numbers = {
        "port": 0,
        "workers": 0,
        "latency-scale": scale,
        "window": 256,
        "max-in-flight": 256,
        "stall-timeout": 60,
    }
    flags = [word for name, value in numbers.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "penstock", "serve", *flags, "--dead-letters", store]
    paths = f"{ROOT / 'flows'}{os.pathsep}{ROOT / 'http'}"
    return command, {"PYTHONPATH": paths, "PENSTOCK_EVENT_LOOP": "asyncio"}


def penstock_uvloop(folder: Path, scale: float) -> tuple[list[str], dict[str, str]]:
    """How to start Penstock in uvloop's event loop."""
    if importlib.util.find_spec("uvloop") is None:
        raise Missing("uvloop is not installed")
    command, environment = penstock(folder, scale)
    return command, environment | {"PENSTOCK_EVENT_LOOP": "uvloop"}


def plain(folder: Path, scale: float) -> tuple[list[str], dict[str, str]]:
    """How to start the hand-written handler."""
    return [sys.executable, str(HERE / "plain.py")], {"PORT": "0", "LATENCY_SCALE": str(scale)}


def express(folder: Path, scale: float) -> tuple[list[str], dict[str, str]]:
    """How to start the Express service; its packages are installed the first time."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise Missing("node and npm are not on this machine")
    if not (EXPRESS / "node_modules" / "express").is_dir():
        done = subprocess.run([npm, "ci"], cwd=EXPRESS, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode:
            raise Missing(f"npm ci failed: {done.stderr[-500:]}")
    return [node, str(EXPRESS / "server.mjs")], {"PORT": "0", "LATENCY_SCALE": str(scale), "NODE_ENV": "production"}


def batched(folder: Path, scale: float) -> tuple[list[str], dict[str, str]]:
    """The Express service, but with many results in one write, which the replaced one does not do."""
    command, environment = express(folder, scale)
    return command, environment | {"WRITES": "batched"}


COMMANDS = {
    "penstock": penstock,
    "penstock-uvloop": penstock_uvloop,
    "express": express,
    "express-batched": batched,
    "plain": plain,
}


@contextmanager
def client(program: str, server: Server, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A client in its own process; it is ended with the block."""
    flags = []
    for name, value in options.items():
        if value is not False:
            flags += [f"--{name.replace('_', '-')}"] + ([] if value is True else [str(value)])
    command = [sys.executable, str(HERE / f"{program}.py"), server.url, *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate()


def result(process: subprocess.Popen[str], server: Server, seconds: float = 900) -> dict[str, Any]:
    """What a client found."""
    out, errors = process.communicate(timeout=seconds)
    if process.returncode:
        raise RuntimeError(f"the client of {server.name} failed:\n{errors}\n" + "\n".join(list(server.log)[-20:]))
    return json.loads(out)


def upload(server: Server, count: int, failing: bool = False, **options: Any) -> dict[str, Any]:
    """Orders in one request, and an answer that was checked: whole, and with no other outcomes than due."""
    with client("upload", server, count=count, failing=failing, **options) as process:
        answer = result(process, server)
    check(server, answer, count, count // 3 if failing else 0)
    return answer


def check(server: Server, answer: dict[str, Any], count: int, failed: int) -> None:
    """Refuse an answer that is not whole or counts otherwise than its lines."""
    end = answer["end"] or {}
    told = (end.get("reason"), end.get("received"), end.get("ok"), end.get("failed"))
    if (
        told != ("completed", count, count - failed, failed)
        or answer["ok"] != count - failed
        or answer["failed"] != failed
    ):
        raise RuntimeError(f"{server.name} answered wrongly to {count} orders of which {failed} fail: {answer}")


def arguments(doc: str | None, runs: int) -> argparse.Namespace:
    """The flags that every program has."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smaller numbers: to see that it runs, not to measure")
    parser.add_argument("--runs", type=int, default=runs, help=f"alternating runs of which the median counts ({runs})")
    parser.add_argument("--only", nargs="+", choices=sorted(COMMANDS), default=["penstock", "express", "plain"])
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started here is ended here
    if given.runs < 1:
        parser.error(f"--runs must be 1 or more, got {given.runs}")
    return given


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def percentile(values: Sequence[float], part: float) -> float:
    """The value below which this part of all values is (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]
