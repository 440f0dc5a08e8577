"""Large and hostile input: rejected or failed alone, with bounded memory, while others are served."""

from __future__ import annotations

import gzip
import socket
import zlib
from collections.abc import Iterator

import pytest

from service.processes import Process
from service.wire import NDJSON, orders

FLAGS = ("--max-line", 1000)

MEMORY = 60.0
"""MiB that a hostile client may cost at most."""


@pytest.fixture(autouse=True)
def stays_healthy(server: Process) -> Iterator[None]:
    """Check after each test that the server works and has hardly grown."""
    before = server.rss()
    yield
    assert server.rss() - before < MEMORY
    assert server.post({"orderId": 1}).end["ok"] == 1
    assert server.metric("penstock_in_flight") == 0


def test_rejected_bodies_are_freed(server: Process) -> None:
    """100 bodies that are too large would be 200 MB."""
    bomb = gzip.compress(b" " * 30_000_000)
    for _ in range(100):
        response = server.request(
            "POST", "/orders/bulk", bomb, Content_Type="application/json", Content_Encoding="x-gzip"
        )
        assert response.status == 413


@pytest.mark.parametrize("length", [1001, 5000, 3_000_000])
def test_a_long_line_fails_alone(server: Process, length: int) -> None:
    """It is skipped while it arrives; its dead letter has its beginning, and the other lines are not affected."""
    long = b'{"orderId":2,"note":"' + b"x" * (length - 23) + b'"}'
    response = server.request(
        "POST", "/orders/bulk", orders(1) + long + b"\n" + orders(1, start=4), Content_Type=NDJSON
    )
    first, second, third = sorted(response.results, key=lambda record: record["seq"])
    assert (first["ok"], third["ok"]) == (True, True)
    assert (second["error"]["step"], second["error"]["type"]) == ("decode", "ElementTooLarge")
    assert f"{length} bytes" in second["error"]["message"]
    letter = server.request("GET", f"/dead-letters/{second['deadLetter']}").json()
    assert (letter["input"]["size"], letter["input"]["complete"]) == (length, False)
    assert long.startswith(letter["input"]["text"].encode())


@pytest.mark.parametrize("length", [999, 1000])
def test_a_line_can_be_as_long_as_the_limit(server: Process, length: int) -> None:
    """Not counting the end of the line."""
    line = b'{"orderId":2,"note":"' + b"x" * (length - 23) + b'"}'
    assert len(line) == length
    body = line + b"\r\n" + line + b"\n" + line
    assert server.request("POST", "/orders/bulk", body, Content_Type=NDJSON).end["ok"] == 3


def test_an_endless_line_is_one_failed_item(server: Process) -> None:
    """50 MB without a newline are read, counted and freed."""
    with server.connect() as client:
        size = 50_000_000
        client.request("POST", "/orders/bulk", Content_Type=NDJSON, Content_Length=str(size))
        piece = b"x" * 100_000
        for _ in range(size // len(piece)):
            client.send(piece)
        response = client.response().complete()
    assert response.results[0]["error"]["type"] == "ElementTooLarge"
    assert response.end["received"] == 1


@pytest.mark.parametrize("kind", [NDJSON, "application/json"])
def test_a_gzip_bomb_is_harmless(server: Process, kind: str) -> None:
    """64 MB of zeros in 64 KB are one line that is too long, or a body that is too large."""
    packer = zlib.compressobj(9, wbits=31)
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(64)) + packer.flush()
    response = server.request("POST", "/orders/bulk", bomb, Content_Type=kind, Content_Encoding="gzip")
    if kind == NDJSON:
        assert response.results[0]["error"]["type"] == "ElementTooLarge"
    else:
        assert response.status == 413


def test_a_line_can_be_split_into_chunks(server: Process) -> None:
    """At every byte, also inside a character."""
    body = '{"orderId":1,"who":"Zoë 🙂"}\r\n'.encode()
    with server.connect() as client:
        client.upload()
        for byte in body:
            client.chunk(bytes([byte]))
        client.chunk(b"")
        assert client.response().complete().results[0]["value"]["who"] == "Zoë 🙂"


def test_random_bytes_on_many_connections_are_harmless(server: Process) -> None:
    """Cut off anywhere."""
    texts = [
        b"\x16\x03\x01\x00\xff",
        b"\xff" * 5000,
        b"\n" * 5000,
        b"GET",
        b"GET / HTTP/1.1\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ]
    for text in texts * 20:
        with socket.create_connection((server.host, server.port), 5) as sock:
            sock.sendall(text)
    assert server.request("GET", "/health/live").status == 200
