"""`penstock` processes for tests."""

from __future__ import annotations

import json
import os
import re
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from prometheus_client.parser import text_string_to_metric_families

import forking
from service.wire import Client, Response
from waiting import HANG_SECONDS, end
from waiting import until as until  # re-exported for the tests of the service

ROOT = Path(__file__).parents[2]

UNEXPECTED_EVENTS = ("library.log", "http.internal_error", "run.tasks_not_cancelled", "shutdown.deadline_exceeded")
"""Events that no client must be able to cause."""


class Process:
    """One `penstock COMMAND` process, with its log. With a prefix, that command starts it."""

    def __init__(
        self, command: str, *flags: object, env: dict[str, str] | None = None, prefix: Sequence[str] = ()
    ) -> None:
        clean = forking.environment()
        options: dict[str, Any] = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.DEVNULL,
            "stderr": subprocess.PIPE,
            "env": clean | {"PYTHONPATH": f"{ROOT / 'flows'}{os.pathsep}{ROOT / 'http'}"} | (env or {}),
        }
        words = (command, *map(str, flags))
        if prefix:
            self.popen = subprocess.Popen([*prefix, sys.executable, "-m", "penstock", *words], **options)
        else:
            self.popen = forking.start(*words, **options)
        self.pid = self.popen.pid
        self.events: list[dict[str, Any]] = []
        self.noise: list[str] = []
        """Lines of standard error that are not JSON."""
        self.tls: ssl.SSLContext | None = None
        """With it, requests are sent in TLS."""
        self._news = threading.Condition()
        self._closed = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def listen(self) -> None:
        """Wait until the process listens."""
        address = urlsplit(self.event("http.listening")["url"])
        self.host, self.port = str(address.hostname), int(address.port or 0)

    # Log

    def event(self, name: str, timeout: float = HANG_SECONDS, **fields: Any) -> dict[str, Any]:
        """Wait for the first log line of an event with these fields, and return it."""

        def seen() -> dict[str, Any] | None:
            return next(iter(self.logged(name, **fields)), None)

        with self._news:
            self._news.wait_for(lambda: seen() or self._closed, timeout)
            if (found := seen()) is None:
                raise AssertionError(f"no {name} {fields} within {timeout} s; {self.events[-3:]} {self.noise[-9:]}")
            return found

    def logged(self, name: str, **fields: Any) -> list[dict[str, Any]]:
        """The log lines of an event with these fields so far."""
        return [
            event
            for event in list(self.events)
            if event.get("event") == name and all(event.get(field) == value for field, value in fields.items())
        ]

    def unexpected(self, excused: tuple[str, ...] = ()) -> list[Any]:
        """The log lines that must not occur."""
        return [
            event for event in self.events if event.get("event") in set(UNEXPECTED_EVENTS) - set(excused)
        ] + self.noise

    def members(self) -> dict[int, int]:
        """The process ids of the processes that serve, by number, if there are several."""
        found: dict[int, int] = {}
        for event in list(self.events):
            match event:
                case {"event": "process.started" | "process.restarted", "process": number, "pid": pid}:
                    found[number] = pid
                case {"event": "process.replaced", "by": number, "by_pid": pid}:
                    found[number] = pid
                case {"event": "process.ended" | "process.retired", "process": number}:
                    found.pop(number, None)
                case _:
                    pass
        return found

    # Requests

    def connect(self, **options: Any) -> Client:
        """Open a connection."""
        return Client(self.host, self.port, **{"tls": self.tls} | options)

    def request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Response:
        """Send a request on a new connection, and read the complete response."""
        with self.connect() as client:
            client.request(method, path, body, **headers)
            return client.response(method).complete()

    def post(self, *orders: Any, query: str = "", **headers: str) -> Response:
        """POST orders as NDJSON, and read the complete response."""
        body = b"".join(json.dumps(order).encode() + b"\n" for order in orders)
        return self.request("POST", f"/orders/bulk{query}", body, **{"Content_Type": "application/x-ndjson"} | headers)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples of a series that have these labels."""
        lines = self.request("GET", "/metrics").body.decode().splitlines(keepends=True)
        text = "".join(line for line in lines if line.startswith(name))  # to parse all takes longer than to serve it
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def rss(self) -> float:
        """The resident memory in MiB."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found
        return int(found[1]) / 1024

    # Shutdown

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.popen.send_signal(number)

    def wait(self, timeout: float = HANG_SECONDS) -> int:
        """Wait for the exit, and return the exit code."""
        code = self.popen.wait(timeout)
        self._reader.join(HANG_SECONDS)
        return code

    def stop(self) -> int:
        """Stop the process, gracefully first. Returns the exit code."""
        if self.popen.poll() is None:
            self.signal(signal.SIGTERM)
            try:
                self.popen.wait(HANG_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()
        return self.wait()

    def kill(self) -> None:
        """Kill the process."""
        self.popen.kill()
        self.wait()

    def close(self) -> None:
        """Kill the process if it still runs, and close its pipe."""
        if self.popen.poll() is None:
            self.kill()
        self._reader.join(HANG_SECONDS)
        end(self.popen)

    def _read(self) -> None:
        for line in self.popen.stderr or ():
            with self._news:
                try:
                    self.events.append(json.loads(line))
                except ValueError:
                    self.noise.append(line.decode(errors="replace").rstrip())
                self._news.notify_all()
        with self._news:
            self._closed = True
            self._news.notify_all()


@contextmanager
def serving(
    folder: Path, *flags: object, env: dict[str, str] | None = None, excused: tuple[str, ...] = ()
) -> Iterator[Process]:
    """Run `penstock serve` in a block, by default with its dead letters in a folder, without workers and latency.

    At the end its log must have no unexpected events, except for those that are excused.
    """
    usual = {"--port": 0, "--workers": 0, "--latency-scale": 0, "--dead-letters": f"sqlite:///{folder}/letters.db"}
    given = [word for flag, value in usual.items() if flag not in flags for word in (flag, value)]
    process = Process("serve", *given, *flags, env=env)
    try:
        process.listen()
        yield process
        if process.popen.poll() is None:
            process.stop()
        assert not process.unexpected(excused), process.unexpected(excused)
    finally:
        process.close()


@contextmanager
def working(
    folder: Path, *flags: object, env: dict[str, str] | None = None, excused: tuple[str, ...] = ()
) -> Iterator[Process]:
    """Run `penstock work` in a block, by default with its dead letters in a folder.

    At the end its log must have no unexpected events, except for those that are excused.
    """
    usual = {"--port": 0, "--dead-letters": f"sqlite:///{folder}/letters.db"}
    given = [word for flag, value in usual.items() if flag not in flags for word in (flag, value)]
    process = Process("work", *given, *flags, env=env)
    try:
        process.listen()
        yield process
        if process.popen.poll() is None:
            process.stop()
        assert not process.unexpected(excused), process.unexpected(excused)
    finally:
        process.close()


@contextmanager
def simulating(*flags: object) -> Iterator[Process]:
    """Run `penstock simulate` in a block, by default without latency."""
    process = Process("simulate", "--port", 0, "--latency-scale", 0, *flags)
    try:
        process.listen()
        yield process
    finally:
        process.close()
