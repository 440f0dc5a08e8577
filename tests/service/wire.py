"""HTTP on sockets, so that tests can send invalid requests and read responses byte by byte."""

from __future__ import annotations

import json
import re
import select
import socket
import ssl
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from waiting import HANG_SECONDS

NDJSON = "application/x-ndjson"


class Cut(Exception):
    """The connection ended in the middle of a response."""


@dataclass
class Response:
    """A response: its head, and the part of its body that was read."""

    client: Client
    status: int
    headers: dict[str, str]
    bodiless: bool = False
    body: bytes = b""
    cut: bool = False
    """Whether the connection ended before the body did."""
    _rest: bytes = b""
    _inflate: Any = field(default=None, repr=False)
    _chunks: Iterator[bytes] | None = field(default=None, repr=False)

    def chunks(self) -> Iterator[bytes]:
        """Iterate over the body as it arrives, decompressed. Raises `Cut` if the connection ends early."""
        if self.headers.get("content-encoding") == "gzip":
            self._inflate = zlib.decompressobj(wbits=31)
        for piece in self._framed():
            yield self._inflate.decompress(piece) if self._inflate else piece

    def _framed(self) -> Iterator[bytes]:
        if self.bodiless or self.status in (204, 304):
            return
        if self.headers.get("transfer-encoding") == "chunked":
            while size := int(self.client.line().split(b";")[0], 16):
                yield self.client.exactly(size)
                self.client.line()
            while self.client.line():
                pass
        elif "content-length" in self.headers:
            yield self.client.exactly(int(self.headers["content-length"]))
        else:
            while piece := self.client.receive():
                yield piece

    def complete(self) -> Response:
        """Read the rest of the body."""
        try:
            for _ in self.raw_lines():
                pass
        except (Cut, OSError):
            self.cut = True
        return self

    def raw_lines(self) -> Iterator[bytes]:
        """Iterate over the lines of the body as they arrive."""
        if self._chunks is None:
            self._chunks = self.chunks()
        while True:
            while b"\n" in self._rest:
                line, _, self._rest = self._rest.partition(b"\n")
                yield line
            piece = next(self._chunks, None)
            if piece is None:
                if self._rest:
                    line, self._rest = self._rest, b""
                    yield line
                return
            self.body += piece
            self._rest += piece

    def stream(self) -> Iterator[dict[str, Any]]:
        """Iterate over the records of an NDJSON body as they arrive."""
        for line in self.raw_lines():
            yield json.loads(line)

    def next(self) -> dict[str, Any]:
        """Read the next record of an NDJSON body."""
        return next(self.stream())

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    def lines(self) -> list[dict[str, Any]]:
        """All records of an NDJSON body that was read."""
        return [json.loads(line) for line in self.body.splitlines()]

    @property
    def results(self) -> list[dict[str, Any]]:
        """The records before the end record."""
        return [line for line in self.lines() if "end" not in line]

    @property
    def end(self) -> dict[str, Any]:
        """The end record, which must be the last line."""
        return self.lines()[-1]["end"]


class Client:
    """One connection."""

    def __init__(
        self, host: str, port: int, *, receive_buffer: int | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        self.sock: socket.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.sock.settimeout(HANG_SECONDS)
        if receive_buffer is not None:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.connect((host, port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            self.sock = tls.wrap_socket(self.sock, server_hostname=host)
        self._buffer = bytearray()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    # Sending

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self.sock.sendall(data)

    def chunk(self, data: bytes) -> None:
        """Send one chunk of a chunked body. An empty chunk ends the body."""
        self.send(b"%x\r\n%b\r\n" % (len(data), data))

    def request(self, method: str, path: str, body: bytes | None = None, version: str = "1.1", **headers: str) -> None:
        """Send a request. With a body it has a `Content-Length`, unless the headers say otherwise."""
        self.send(head(method, path, body, version, **headers) + (body or b""))

    def upload(self, path: str = "/orders/bulk", **headers: str) -> None:
        """Start a chunked upload of NDJSON."""
        self.request("POST", path, **{"Content_Type": NDJSON, "Transfer_Encoding": "chunked"} | headers)

    def push(self, data: bytes, pause: float = 0.5) -> int:
        """Send bytes until the peer accepts none for `pause` seconds. Returns the number of accepted bytes."""
        sent = 0  # without a timeout of the socket: another thread may be reading from it
        while sent < len(data) and select.select([], [self.sock], [], pause)[1]:
            sent += self.sock.send(data[sent : sent + 65_536])
        return sent

    def close(self) -> None:
        """Close the connection with FIN."""
        self.sock.close()

    def reset(self) -> None:
        """Close the connection with RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    # Receiving

    def response(self, method: str = "GET") -> Response:
        """Read the head of the next response."""
        first = self.line()
        found = re.fullmatch(rb"HTTP/1\.[01] (\d{3}) .*", first)
        assert found, first
        headers: dict[str, str] = {}
        while line := self.line():
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        return Response(self, int(found[1]), headers, bodiless=method == "HEAD")

    def receive(self) -> bytes:
        """Read some bytes; none if the peer closed the connection."""
        if self._buffer:
            data = bytes(self._buffer)
            self._buffer.clear()
            return data
        return self.sock.recv(65_536)

    def line(self) -> bytes:
        """Read a line, without its end."""
        while (end := self._buffer.find(b"\r\n")) < 0:
            self._more()
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line

    def exactly(self, count: int) -> bytes:
        """Read this number of bytes."""
        while len(self._buffer) < count:
            self._more()
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data

    def closed(self, timeout: float = HANG_SECONDS) -> bool:
        """Return whether the peer closes the connection within some time without sending anything."""
        self.sock.settimeout(timeout)
        try:
            return not self._buffer and self.sock.recv(1) == b""
        except ConnectionResetError:
            return True
        except TimeoutError:
            return False
        finally:
            self.sock.settimeout(HANG_SECONDS)

    def _more(self) -> None:
        data = self.sock.recv(65_536)
        if not data:
            raise Cut(f"the connection ended after {bytes(self._buffer[-100:])!r}")
        self._buffer += data


def head(method: str, path: str, body: bytes | None = None, version: str = "1.1", **headers: str) -> bytes:
    """The head of a request. A header is an argument such as `Content_Type="…"`."""
    if body is not None and "Transfer_Encoding" not in headers:
        headers.setdefault("Content_Length", str(len(body)))
    host = headers.pop("Host", "127.0.0.1")
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"{method} {path} HTTP/{version}\r\nHost: {host}\r\n{lines}\r\n".encode("latin-1")


def orders(count: int, start: int = 1, padding: int = 0) -> bytes:
    """Orders as NDJSON. `padding` bytes are added to each."""
    extra = b"" if not padding else b',"note":"%b"' % (b"x" * padding)
    return b"".join(b'{"orderId":%d%b}\n' % (number, extra) for number in range(start, start + count))
