"""What several processes are worth: two cores, a frozen process, and rolling reloads under load."""

from __future__ import annotations

import argparse
import http.client
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import orders
import rig
from figures import Figure, exit_code, show
from upload import Answer, Chunks, read_head, upload

BURN = """
import os

ROUNDS = int(os.environ["BURN_ROUNDS"])


def burn(value):
    for _ in range(ROUNDS):
        pass
    return value
"""
BURN_FLOW = "flow: orders\nsteps: [{map: 'burn:burn'}]\n"

BURN_SECONDS = 50e-6
"""CPU that one value takes in the step; the rest of Penstock comes on top."""

STREAMS = 8


@contextmanager
def penstock(processes: int, *, burn: int = 0) -> Iterator[rig.Server]:
    """Start the service with some processes: with the orders flow, or one that runs `burn` rounds for each value."""
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as name:
        folder = Path(name)
        command, environment = rig.penstock(folder, 0)
        command += ["--processes", str(processes)]
        if burn:
            (folder / "burn.py").write_text(BURN)
            (folder / "burn.yaml").write_text(BURN_FLOW)
            command.append(str(folder / "burn.yaml"))
            path = f"{environment['PYTHONPATH']}{os.pathsep}{folder}"
            environment |= {"BURN_ROUNDS": str(burn), "PYTHONPATH": path}
        server = rig.Server("penstock", command, environment, folder)
        try:
            yield server
        finally:
            server.stop()


def connect(server: rig.Server) -> socket.socket:
    """Open a connection."""
    parts = urlsplit(server.url)
    return socket.create_connection((parts.hostname, parts.port), timeout=120)


# Two cores


def rounds() -> int:
    """How many rounds of the loop take the time of one value on this machine, when nothing disturbs it."""
    count, best = 20_000, float("inf")
    for _ in range(50):
        start = time.perf_counter()
        for _ in range(count):
            pass
        best = min(best, time.perf_counter() - start)
    return round(count * BURN_SECONDS / best)


def side_by_side(server: rig.Server, values: int) -> float:
    """Seconds of some streams at once, each on its connection, from the first byte to the last."""
    frames = orders.frames(b"".join(b'{"n":%d}\n' % number for number in range(values)))
    ready = threading.Barrier(STREAMS + 1)
    answers: list[Answer] = []
    ends: list[float] = []

    def stream() -> None:
        ready.wait()
        with connect(server) as connection:
            answers.append(upload(connection, server.url, frames, values))
            ends.append(time.perf_counter())

    threads = [threading.Thread(target=stream) for _ in range(STREAMS)]
    for thread in threads:
        thread.start()
    ready.wait()
    start = time.perf_counter()
    for thread in threads:
        thread.join()
    if [answer.ok for answer in answers] != [values] * STREAMS:
        raise RuntimeError(f"{STREAMS} streams of {values} values, but these results: {answers}")
    return max(ends) - start


def two_cores(quick: bool, runs: int) -> list[Figure]:
    """The flow that only computes, with two processes against one."""
    values = 200 if quick else 10_000
    burn = rounds()
    ratios, spread, notes = [], [], []
    with penstock(1, burn=burn) as one, penstock(2, burn=burn) as two:
        for server in (one, two):
            side_by_side(server, values // 10)
        for _ in range(runs):
            alone, before = side_by_side(one, values), cpu_of_members(two)
            both = side_by_side(two, values)
            used = [after - start for after, start in zip(cpu_of_members(two), before, strict=True)]
            ratios.append(alone / both)
            spread.append(sum(used) / max(used))
            notes.append(f"{alone:.1f} → {both:.1f} s (CPU {' + '.join(f'{seconds:.1f}' for seconds in used)})")
    name = f"{STREAMS} streams, 50 µs of Python a value: two processes / one"
    return [
        Figure(name, rig.median(ratios), "x", at_least=1.8, note=", ".join(notes)),
        Figure("the same: CPU of both / of the busier one", rig.median(spread), "x", note="2: evenly spread"),
    ]


def one_stream(quick: bool, runs: int) -> list[Figure]:
    """One upload of orders, which one of two processes takes."""
    count = 2_000 if quick else 200_000
    ratios, rates, costs = [], [], []
    with penstock(1) as one, penstock(2) as two:
        for server in (one, two, two):
            rig.upload(server, count // 10)
        for _ in range(runs):
            cpu_alone, cpu_both = -one.cpu(), -sum(cpu_of_members(two))
            alone, both = (rig.upload(server, count)["seconds"] for server in (one, two))
            ratios.append(alone / both)
            rates.append(count / both)
            costs.append((cpu_both + sum(cpu_of_members(two))) / (cpu_alone + one.cpu()))
    note = f"{rig.median(rates):,.0f} orders/s; runs {min(ratios):.2f} … {max(ratios):.2f}"
    return [
        Figure("one stream: two processes / one", rig.median(ratios), "x", at_least=0.97, note=note),
        Figure("one stream: CPU of an order, two processes / one", rig.median(costs), "x", note="below 1 is cheaper"),
    ]


def cpu_of_members(server: rig.Server) -> list[float]:
    """Seconds of CPU so far of each process that serves."""
    return [rig.cpu(pid) for pid in sorted(members(server))]


# A frozen process


def frozen(quick: bool, runs: int) -> list[Figure]:
    """New requests while one of two processes is stopped by SIGSTOP, before the parent replaces it."""
    count = 10 if quick else 100
    answered = []
    for _ in range(runs):
        with penstock(2) as server:
            os.kill(members(server)[0], signal.SIGSTOP)
            start = time.perf_counter()
            answered.append(sum(is_answered(server) for _ in range(count)))
            seconds = time.perf_counter() - start
    note = f"of {count} in {seconds:.1f} s; the worst of {runs}"
    return [Figure("one process stopped: new requests answered", min(answered), "", at_least=count, note=note)]


def is_answered(server: rig.Server) -> bool:
    """Whether a request on a new connection is answered within the time after which a frozen process is replaced."""
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=5)
    try:
        return is_complete(connection, 1)
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def is_complete(connection: http.client.HTTPConnection, count: int) -> bool:
    """Whether a request of some orders gets its complete response."""
    headers = {"Content-Type": "application/x-ndjson"}
    connection.request("POST", rig.PATH, orders.body(count, failing=False), headers)
    response = connection.getresponse()
    lines = response.read().splitlines()
    return response.status == 200 and len(lines) == count + 1 and b'"completed"' in lines[-1]


def members(server: rig.Server) -> list[int]:
    """The ids of the processes that serve."""
    found = []
    for children in Path(f"/proc/{server.pid}/task").glob("*/children"):
        found += [int(pid) for pid in children.read_text().split()]
    return [pid for pid in found if b"member_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


# Rolling reloads


class Load:
    """Clients of a service: small requests one after another, and streams that stay open for some seconds."""

    def __init__(self, server: rig.Server) -> None:
        self.requests = self.streams = 0
        """Those that were answered completely."""
        self.lost: list[str] = []
        self.cut: list[str] = []
        self._server = server
        self._stopped = threading.Event()
        work = [(self._request, True), (self._request, False), (self._stream, 100), (self._stream, 200)]
        self._threads = [threading.Thread(target=target, args=(given,)) for target, given in work]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop them when their last requests are answered."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _request(self, keep_alive: bool) -> None:
        """Send requests. A connection is kept until the server says that it closes it, or made for each request."""
        connection = http.client.HTTPConnection(urlsplit(self._server.url).netloc, timeout=60)
        while not self._stopped.is_set():
            try:
                if is_complete(connection, 3):
                    self.requests += 1
                else:
                    self.lost.append("no complete response")
            except (OSError, http.client.HTTPException) as error:
                self.lost.append(repr(error))
                connection.close()
            if not keep_alive:
                connection.close()
        connection.close()

    def _stream(self, values: int) -> None:
        """Open streams. Each value is sent when the result of the one before it has arrived."""
        while not self._stopped.is_set():
            try:
                with connect(self._server) as connection:
                    self._one_stream(connection, values)
                self.streams += 1
            except (OSError, ValueError) as error:
                self.cut.append(repr(error))

    def _one_stream(self, connection: socket.socket, values: int) -> None:
        head = f"POST {rig.PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n"
        connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        chunks = Chunks()
        body = chunks.feed(read_head(connection))
        for number in range(values):
            line = b'{"orderId":%d}\n' % (3 * number + 1)
            connection.sendall(b"%x\r\n%b\r\n" % (len(line), line))
            while body.count(b"\n") <= number:
                body += chunks.feed(received(connection))
            time.sleep(0.02)
        connection.sendall(b"0\r\n\r\n")
        while not chunks.ended:
            body += chunks.feed(received(connection))
        if b'"reason":"completed","received":%d,' % values not in body.splitlines()[-1]:
            raise ValueError(body.splitlines()[-1])


def received(connection: socket.socket) -> bytes:
    """Some bytes. Raises `ConnectionError` at the end."""
    data = connection.recv(65_536)
    if not data:
        raise ConnectionError("the stream was cut")
    return data


def rolling(quick: bool, runs: int) -> list[Figure]:
    """SIGHUP replaces all processes again and again while clients send requests and hold streams."""
    times = 1 if quick else 10
    requests = streams = 0
    lost: list[str] = []
    cut: list[str] = []
    for _ in range(1 if quick else max(1, runs // 5)):
        with penstock(2) as server:
            load = Load(server)
            try:
                for number in range(times):
                    server.process.send_signal(signal.SIGHUP)
                    wait_for_event(server, "process.replaced", 2 * (number + 1))
            finally:
                load.stop()
        requests, streams = requests + load.requests, streams + load.streams
        lost, cut = lost + load.lost, cut + load.cut
    return [
        Figure(f"{times} rolling reloads: requests lost", len(lost), "", at_most=0, note=told(requests, lost)),
        Figure(f"{times} rolling reloads: streams cut", len(cut), "", at_most=0, note=told(streams, cut)),
    ]


def told(answered: int, errors: list[str]) -> str:
    """What to say about a figure."""
    return f"{answered:,} answered" + (f"; the first: {errors[0]}" if errors else "")


def wait_for_event(server: rig.Server, event: str, times: int) -> None:
    """Wait until the log has an event so many times."""
    until = time.monotonic() + 300
    while server.events[event] < times:
        if time.monotonic() > until or server.process.poll() is not None:
            raise RuntimeError(f"no {event}:\n" + "\n".join(list(server.log)[-20:]))
        time.sleep(0.05)


PARTS = {"cores": two_cores, "stream": one_stream, "frozen": frozen, "rolling": rolling}


def all_figures(quick: bool, runs: int) -> list[Figure]:
    return [figure for part in PARTS.values() for figure in part(quick, runs)]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smaller numbers: to see that it runs, not to measure")
    parser.add_argument("--runs", type=int, default=5, help="runs of which the median counts (5)")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    figures = [figure for part in given.only for figure in PARTS[part](given.quick, given.runs)]
    show("Processes", figures)
    return exit_code(figures)


if __name__ == "__main__":
    sys.exit(main())
