"""Requests that are rejected: problem documents with a suitable status and a helpful message."""

from __future__ import annotations

import gzip
import json
import socket

import pytest

from service.processes import Process, until
from service.wire import NDJSON, Response, orders

FLAGS = ("--max-body", 20_000, "--max-count", 500, "--max-runs", 2, "--max-header", 2000, "--keep-alive", 1)

BULK = "/orders/bulk"


def rejection(response: Response, status: int) -> str:
    """The message of a problem document, whose format is checked (RFC 9457)."""
    document = response.json()
    assert (response.status, document["status"]) == (status, status)
    assert response.headers["content-type"] == "application/problem+json"
    assert document["type"]
    assert document["title"]
    return str(document["detail"])


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("/orders/bulk?cuont=3", "unknown parameter 'cuont'; did you mean 'count'?"),
        ("/orders/bulk?x=1", "known parameters: count, order"),
        ("/orders/bulk?count=0", "from 1 to 500, got '0'"),
        ("/orders/bulk?count=501", "from 1 to 500"),
        ("/orders/bulk?count=-1", "from 1 to 500"),
        ("/orders/bulk?count=1e2", "count: expected an integer"),
        ("/orders/bulk?count=", "count: expected an integer"),
        ("/orders/bulk?count=%D9%A3", "count: expected an integer"),
        ("/orders/bulk?count=" + "9" * 500, "count: expected an integer"),
        ("/orders/bulk?order=random", "completion, input or key"),
        ("/orders/bulk?count=1&count=2", "the parameter 'count' is given 2 times"),
        ("/orders/bulk?order=input&order=input", "the parameter 'order' is given 2 times"),
        ("/dead-letters?step=a&limit=1&step=b&step=c", "the parameter 'step' is given 3 times"),
        ("/dead-letters?limit=0", "limit: expected an integer from 1 to 1000, got '0'"),
        ("/dead-letters?after=zz", "after: expected the value of next from the previous page"),
        ("/dead-letters?since=yesterday", "2030-01-31"),
        ("/dead-letters?state=bogus", "state: expected one of waiting, claimed, resolved, parked, got 'bogus'"),
        ("/dead-letters?setp=decode", "did you mean 'step'?"),
    ],
)
def test_an_invalid_parameter_is_rejected_with_a_hint(server: Process, path: str, hint: str) -> None:
    """An unknown name or an invalid value is never ignored."""
    assert hint in rejection(server.request("GET", path), 400)


def test_count_is_a_parameter_of_get(server: Process) -> None:
    """A POST has as many items as its body."""
    assert "count" in rejection(server.post({"orderId": 1}, query="?count=3"), 400)


@pytest.mark.parametrize(
    ("method", "path", "status", "hint"),
    [
        ("GET", "/", 404, "openapi.json"),
        ("GET", "/nothing", 404, "openapi.json"),
        ("GET", "/sales/bulk", 404, "known flows: orders"),
        ("POST", "/sales/bulk", 404, "known flows: orders"),
        ("GET", "/flows/sales", 404, "known flows: orders"),
        ("GET", "/dead-letters/nothing", 404, "nothing"),
        ("PUT", BULK, 405, "does not support PUT"),
        ("DELETE", "/metrics", 405, "does not support DELETE"),
        ("OPTIONS", BULK, 405, "does not support OPTIONS"),
        ("POST", "/health/live", 405, "does not support POST"),
    ],
)
def test_unknown_paths_and_methods_are_rejected_with_the_known_ones(
    server: Process, method: str, path: str, status: int, hint: str
) -> None:
    """404 and 405 name alternatives."""
    assert hint in rejection(server.request(method, path), status)


def test_a_405_names_the_allowed_methods(server: Process) -> None:
    """RFC 9110, section 15.5.6, requires `Allow`.

    HEAD is not supported, because it cannot tell how a stream would end.
    """
    put, head = server.request("PUT", BULK), server.request("HEAD", BULK)
    assert put.headers["allow"].replace(" ", "").split(",") == ["GET", "POST"]
    assert (head.status, head.headers["allow"]) == (405, put.headers["allow"])


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", BULK, {"Accept": "text/\xff"}, 406),
        ("POST", BULK, {"Content_Type": "text/\xff"}, 415),
        ("POST", BULK, {"Content_Type": NDJSON, "Content_Encoding": "\xff"}, 415),
        ("GET", f"{BULK}?order=%ff", {}, 400),
        ("GET", f"{BULK}?%ff=1", {}, 400),
        ("GET", f"{BULK}?order=%ED%A0%80", {}, 400),
        ("GET", "/%ff/bulk", {}, 404),
        ("GET", "/\xff", {}, 400),
        ("GET", "/dead-letters/%ff", {}, 404),
        ("GET", "/%00", {}, 404),
    ],
)
def test_bytes_that_are_not_utf_8_are_rejected_like_others(
    server: Process, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    """In a header or a path; the messages quote them."""
    rejection(server.request(method, path, b"" if method == "POST" else None, **headers), status)


@pytest.mark.parametrize("accept", ["text/html", "application/xml, image/*", "*/*;q=0", "application/json;q=0"])
def test_an_unsupported_accept_is_rejected(server: Process, accept: str) -> None:
    """406 names the supported media types."""
    assert NDJSON in rejection(server.request("GET", BULK, Accept=accept), 406)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content_Type": "text/csv"},
        {"Content_Type": "application/x-www-form-urlencoded"},
        {"Content_Type": NDJSON, "Content_Encoding": "br"},
        {"Content_Type": NDJSON, "Content_Encoding": "gzip, gzip"},
    ],
    ids=["none", "csv", "form", "br", "gzip twice"],
)
def test_a_body_of_another_type_is_rejected(server: Process, headers: dict[str, str]) -> None:
    """415 names the supported types."""
    message = rejection(server.request("POST", BULK, b'{"orderId":1}\n', **headers), 415)
    assert NDJSON in message or "gzip" in message


@pytest.mark.parametrize(
    ("body", "hint"),
    [
        (b"", "not valid JSON"),
        (b"[{", "not valid JSON"),
        (b'[{"orderId":1}', "not valid JSON"),
        (b'[{"orderId":1}]]', "not valid JSON"),
        (b'{"orderId":1}', NDJSON),
        (b"{", NDJSON),
        (b"5", NDJSON),
        (b"\xff", "not valid JSON"),
        (b"[" * 9000, "not valid JSON"),
        (b'[{"orderId":1,"name":"no end}]', "not valid JSON"),
        (b'[{"orderId":1,{"orderId":2}]', "not valid JSON"),
        (b'[{"orderId":01},,{"orderId":2}]', "not valid JSON"),
        (b'[{"orderId":01},]', "not valid JSON"),
        (b'[{"orderId":01}}', "not valid JSON"),
    ],
    ids=[
        "nothing",
        "half",
        "half an array",
        "too much",
        "an object",
        "half an object",
        "a number",
        "no UTF-8",
        "deep",
        "half a string",
        "half an item",
        "no item",
        "no last item",
        "another end",
    ],
)
def test_a_body_that_is_not_an_array_is_rejected(server: Process, body: bytes, hint: str) -> None:
    """400, before a run starts."""
    assert hint in rejection(server.request("POST", BULK, body, Content_Type="application/json"), 400)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_large_array_is_rejected(server: Process, pack: type[bytes]) -> None:
    """413, measured after decompression."""
    body = pack(json.dumps([{"orderId": id} for id in range(1, 3000)]).encode())
    headers = {"Content_Type": "application/json"} | ({} if pack is bytes else {"Content_Encoding": "gzip"})
    assert NDJSON in rejection(server.request("POST", BULK, body, **headers), 413)


def test_results_that_are_too_large_for_one_document_are_rejected(server: Process) -> None:
    """The 413 recommends a stream."""
    response = server.request("GET", f"{BULK}?count=500", Accept="application/json")
    assert NDJSON in rejection(response, 413)
    assert server.event("response.too_large")["level"] == "warning"
    assert server.request("GET", f"{BULK}?count=500").end["received"] == 500


def test_too_many_streams_are_rejected(server: Process) -> None:
    """503 with `Retry-After`, for lines, arrays and samples; when a stream ends, the next one is accepted."""
    first, second = server.connect(), server.connect()
    with first, second:
        for client in (first, second):
            client.upload()
            assert client.response().status == 200
        rejected = [
            server.request("GET", BULK),
            server.post({"orderId": 1}),
            server.request("POST", BULK, b"[]", Content_Type="application/json"),
        ]
        assert ["2 runs are open" in rejection(response, 503) for response in rejected] == [True] * 3
        assert [response.headers["retry-after"].isdigit() for response in rejected] == [True] * 3
        assert server.request("GET", "/health/ready").status == 200
        assert server.request("GET", "/metrics").status == 200
        first.chunk(b"")
        until(lambda: server.request("GET", f"{BULK}?count=1").status == 200)
        second.chunk(b"")


@pytest.mark.parametrize(
    "lines", ["X-Large: " + "x" * 3000, "\r\n".join(f"X-{n}: {'x' * 100}" for n in range(2000))], ids=["one", "many"]
)
def test_large_headers_are_rejected(server: Process, lines: str) -> None:
    """431 for one large header; too many of them are rejected or the connection is closed."""
    with server.connect() as client:
        try:
            client.send(f"GET {BULK} HTTP/1.1\r\nHost: 127.0.0.1\r\n{lines}\r\n\r\n".encode())
            response = client.response().complete()
            assert response.status in (400, 431)
            rejection(response, response.status)
        except (ConnectionResetError, BrokenPipeError):
            assert "X-1" in lines


def test_a_long_request_line_is_rejected(server: Process) -> None:
    """It has the same limit as headers."""
    rejection(server.request("GET", f"{BULK}?x={'x' * 3000}"), 431)


@pytest.mark.parametrize(
    "text",
    [
        b"rubbish\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x8a" * 200 + b"\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
        b"POST /orders/bulk HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /orders/bulk HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"\0\0\0\0\r\n\r\n",
    ],
    ids=["rubbish", "TLS hello", "version", "header", "smuggling", "negative length", "NUL"],
)
def test_invalid_http_is_rejected(server: Process, text: bytes) -> None:
    """With a problem document, and the connection is closed."""
    with server.connect() as client:
        client.send(text)
        rejection(client.response().complete(), 400)
        assert client.closed()


def test_headers_must_arrive_in_time(server: Process) -> None:
    """A connection whose head is not complete after `--keep-alive` seconds is closed, also if bytes arrive slowly."""
    with server.connect() as slow, server.connect() as silent:
        slow.sock.settimeout(0.2)
        # The loop takes 30 s at most; the default of --keep-alive is 75 s.
        for byte in b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: " + b"x" * 100:
            try:
                slow.send(bytes([byte]))
                if slow.sock.recv(1) == b"":
                    break
            except TimeoutError:
                continue
            except (BrokenPipeError, ConnectionResetError):
                break
        else:
            raise AssertionError("the connection was not closed")
        assert silent.closed()


def test_silent_connections_do_not_block_others(server: Process) -> None:
    """200 of them."""
    silent = [socket.create_connection((server.host, server.port)) for _ in range(200)]
    try:
        assert server.request("POST", BULK, orders(3), Content_Type=NDJSON).end["received"] == 3
    finally:
        for sock in silent:
            sock.close()
