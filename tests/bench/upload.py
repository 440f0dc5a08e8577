"""A client of one request with many orders: sends as fast as the server takes, and reads the answer meanwhile.

It runs in its own process, on the other core than the server. What it sends is made before the connection is, one
thread only sends, the other only reads and counts, so that it costs a small part of what the server does.
It prints one JSON object: seconds, first result, counts, the end record.
"""

from __future__ import annotations

import argparse
import json
import socket
import sys
import threading
import time
from dataclasses import asdict, dataclass
from urllib.parse import urlsplit

import orders

BUFFER = 256 * 1024


@dataclass
class Answer:
    """What came back."""

    sent: int = 0
    """Orders in the request."""
    seconds: float = 0.0
    """From the first byte sent to the last byte read."""
    first: float = 0.0
    """From the first byte sent to the first result read."""
    lines: int = 0
    ok: int = 0
    failed: int = 0
    bytes: int = 0
    end: dict[str, object] | None = None
    cut: bool = False
    """The client left before the end, as it was asked to."""


class Pace:
    """How fast to read: a rate in bytes/s, and a moment to stand still for a while."""

    def __init__(self, rate: float, stall_after: float, stall: float) -> None:
        self.rate = rate
        self.stall_after = stall_after
        self.stall = stall
        self.start = time.perf_counter()
        self.read = 0

    def keep(self, count: int) -> None:
        """Wait until `count` more bytes are due."""
        self.read += count
        if self.stall and time.perf_counter() - self.start > self.stall_after:
            time.sleep(self.stall)
            self.start += self.stall
            self.stall = 0
        ahead = self.start + self.read / self.rate - time.perf_counter()
        if ahead > 0:
            time.sleep(ahead)


class Chunks:
    """Takes the framing off a chunked HTTP body."""

    def __init__(self) -> None:
        self.ended = False
        self._left = 0
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        """What of the body is in some bytes of the connection."""
        if self._rest:
            data, self._rest = self._rest + data, b""
        at, parts = 0, []
        while at < len(data) and not self.ended:
            if self._left > 2:
                part = data[at : at + self._left - 2]
                parts.append(part)
                at += len(part)
                self._left -= len(part)
            elif self._left:
                skip = min(self._left, len(data) - at)
                at += skip
                self._left -= skip
            else:
                line = data.find(b"\r\n", at)
                if line < 0:
                    self._rest = data[at:]
                    break
                size = int(data[at:line], 16)
                at = line + 2
                self._left = size + 2
                self.ended = size == 0
        return b"".join(parts)


def send(connection: socket.socket, frames: list[bytes], stop: threading.Event) -> None:
    """Send all, or as much as the server takes before it or we go."""
    try:
        for frame in frames:
            connection.sendall(frame)
            if stop.is_set():
                return
    except OSError:
        stop.set()


def read_head(connection: socket.socket) -> bytes:
    """Read the head of the response, see that it is a stream, and give back what came after it."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(BUFFER)
        if not more:
            raise ConnectionError("the server closed the connection before the response")
        data += more
    head, rest = data.split(b"\r\n\r\n", 1)
    if not head.startswith(b"HTTP/1.1 200") or b"chunked" not in head.lower():
        raise ConnectionError(f"no stream of results: {data[:2000]!r}")
    return rest


def read(connection: socket.socket, answer: Answer, start: float, pace: Pace | None, until: float | None) -> None:
    """Read results and count them, to the end or to a moment."""
    chunks = Chunks()
    data = read_head(connection)
    tail = b""
    while True:
        answer.bytes += len(data)
        if body := chunks.feed(data):
            answer.first = answer.first or time.perf_counter() - start
            whole, newline, rest = body.rpartition(b"\n")
            if newline:
                whole = tail + whole + newline
                answer.lines += whole.count(b"\n")
                answer.ok += whole.count(b'{"ok":true,')
                tail = rest
                if whole.endswith(b"}}\n") and b'{"end":' in whole[-512:]:
                    answer.end = json.loads(whole[whole.rindex(b'{"end":') :])["end"]
            else:
                tail += rest
        if chunks.ended:
            return
        if until is not None and time.perf_counter() > until:
            answer.cut = True
            return
        if pace is not None:
            pace.keep(len(data))
        data = connection.recv(BUFFER if pace is None else BUFFER // 4)
        if not data:
            raise ConnectionError(f"the stream was cut after {answer.lines} lines")


def upload(
    connection: socket.socket,
    url: str,
    frames: list[bytes],
    count: int,
    pace: Pace | None = None,
    seconds: float = 0.0,
) -> Answer:
    """Send orders in one request and read the answer."""
    parts = urlsplit(url)
    answer = Answer(sent=count)
    stop = threading.Event()
    head = f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/x-ndjson\r\n"
    start = time.perf_counter()
    connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
    sender = threading.Thread(target=send, args=(connection, frames, stop), daemon=True)
    sender.start()
    if pace is not None:
        pace.start = start
    read(connection, answer, start, pace, start + seconds if seconds else None)
    answer.seconds = time.perf_counter() - start
    stop.set()
    if answer.cut:
        connection.shutdown(socket.SHUT_RDWR)
    sender.join(10)
    answer.failed = answer.lines - answer.ok - (answer.end is not None)
    return answer


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--failing", action="store_true", help="let every third order fail")
    parser.add_argument("--rate", type=float, default=0.0, help="bytes/s to read at; 0: as fast as it goes")
    parser.add_argument("--stall", type=float, default=0.0, help="seconds to stop reading for, once")
    parser.add_argument("--stall-after", type=float, default=5.0, help="seconds after which to stall")
    parser.add_argument("--seconds", type=float, default=0.0, help="leave after so many; 0: stay to the end")
    parser.add_argument("--times", type=int, default=1, help="so many, on one connection; seconds are of all")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    pace = Pace(given.rate or 1e12, given.stall_after, given.stall) if given.rate or given.stall else None
    # Made once: a server that waits while its client makes orders for the next request goes cold.
    frames = orders.frames(orders.body(given.count, given.failing))
    parts = urlsplit(given.url)
    with socket.create_connection((parts.hostname, parts.port), timeout=120) as connection:
        answer = upload(connection, given.url, frames, given.count, pace, given.seconds)
        for _ in range(given.times - 1):
            before = answer.seconds
            answer = upload(connection, given.url, frames, given.count)
            if answer.lines != given.count + 1:
                raise ConnectionError(f"{answer.lines} lines came for {given.count} orders")
            answer.seconds += before
    json.dump(asdict(answer), sys.stdout)


if __name__ == "__main__":
    main()
