"""Refusals before a stream starts: problem documents with a status that fits and a sentence that helps."""

from __future__ import annotations

import gzip
import json
import socket

import pytest

from service.processes import Process, until
from service.wire import NDJSON, Answer, orders

FLAGS = ("--max-body", 20_000, "--max-count", 500, "--max-runs", 2, "--max-header", 2000, "--keep-alive", 1)

BULK = "/orders/bulk"


def refusal(answer: Answer, status: int) -> str:
    """The sentence of a problem document, whose form is checked (RFC 9457)."""
    document = answer.json()
    assert (answer.status, document["status"]) == (status, status)
    assert answer.headers["content-type"] == "application/problem+json"
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
        ("/orders/bulk?order=random", "input or completion"),
        ("/orders/bulk?count=1&count=2", "the parameter 'count' is given 2 times"),
        ("/orders/bulk?order=input&order=input", "the parameter 'order' is given 2 times"),
        ("/dead-letters?step=a&limit=1&step=b&step=c", "the parameter 'step' is given 3 times"),
        ("/dead-letters?limit=0", "limit: expected an integer from 1 to 1000, got '0'"),
        ("/dead-letters?after=zz", "after: expected the value of next from the previous page"),
        ("/dead-letters?since=yesterday", "2030-01-31"),
        ("/dead-letters?state=bogus", "state: expected one of waiting, parked, got 'bogus'"),
        ("/dead-letters?setp=decode", "did you mean 'step'?"),
    ],
)
def test_a_wrong_parameter_is_refused_with_a_hint(server: Process, path: str, hint: str) -> None:
    """A mistyped name or a value out of range is never passed over."""
    assert hint in refusal(server.ask("GET", path), 400)


def test_a_count_belongs_to_a_get(server: Process) -> None:
    """A POST says how many by what it sends."""
    assert "count" in refusal(server.post({"orderId": 1}, query="?count=3"), 400)


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
def test_what_is_not_there_is_refused_with_what_is(
    server: Process, method: str, path: str, status: int, hint: str
) -> None:
    """404 and 405 say where else to go."""
    assert hint in refusal(server.ask(method, path), status)


def test_a_405_names_the_methods_that_there_are(server: Process) -> None:
    """RFC 9110, section 15.5.6: `Allow` is a must. HEAD cannot say how a stream would go, so it is none of them."""
    put, head = server.ask("PUT", BULK), server.ask("HEAD", BULK)
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
def test_what_is_no_text_is_refused_like_anything_else(
    server: Process, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    """Bytes that are no UTF-8, in a header or a path, break nothing that wants to quote them."""
    refusal(server.ask(method, path, b"" if method == "POST" else None, **headers), status)


@pytest.mark.parametrize("accept", ["text/html", "application/xml, image/*", "*/*;q=0", "application/json;q=0"])
def test_a_form_that_there_is_not_is_refused(server: Process, accept: str) -> None:
    """406 names the forms that there are."""
    assert NDJSON in refusal(server.ask("GET", BULK, Accept=accept), 406)


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
def test_a_body_of_another_kind_is_refused(server: Process, headers: dict[str, str]) -> None:
    """415 names what a body may be."""
    said = refusal(server.ask("POST", BULK, b'{"orderId":1}\n', **headers), 415)
    assert NDJSON in said or "gzip" in said


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
def test_a_body_that_is_no_array_is_refused(server: Process, body: bytes, hint: str) -> None:
    """400, before anything was started."""
    assert hint in refusal(server.ask("POST", BULK, body, Content_Type="application/json"), 400)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_an_array_that_is_too_large_is_refused(server: Process, pack: type[bytes]) -> None:
    """413, measured after decompression: a small body must not become a large one unseen."""
    body = pack(json.dumps([{"orderId": id} for id in range(1, 3000)]).encode())
    headers = {"Content_Type": "application/json"} | ({} if pack is bytes else {"Content_Encoding": "gzip"})
    assert NDJSON in refusal(server.ask("POST", BULK, body, **headers), 413)


def test_an_answer_that_is_too_large_for_one_piece_is_refused(server: Process) -> None:
    """413 says how to get it: as a stream."""
    answer = server.ask("GET", f"{BULK}?count=500", Accept="application/json")
    assert NDJSON in refusal(answer, 413)
    assert server.event("response.too_large")["level"] == "warning"
    assert server.ask("GET", f"{BULK}?count=500").end["received"] == 500


def test_too_many_streams_are_refused_and_taken_again_later(server: Process) -> None:
    """503 with `Retry-After`, for lines, arrays and samples alike; when a stream has ended there is room again."""
    first, second = server.connect(), server.connect()
    with first, second:
        for client in (first, second):
            client.upload()
            assert client.answer().status == 200
        refused = [
            server.ask("GET", BULK),
            server.post({"orderId": 1}),
            server.ask("POST", BULK, b"[]", Content_Type="application/json"),
        ]
        assert ["2 runs are open" in refusal(answer, 503) for answer in refused] == [True] * 3
        assert [answer.headers["retry-after"].isdigit() for answer in refused] == [True] * 3
        assert server.ask("GET", "/health/ready").status == 200
        assert server.ask("GET", "/metrics").status == 200
        first.chunk(b"")
        until(lambda: server.ask("GET", f"{BULK}?count=1").status == 200)
        second.chunk(b"")


@pytest.mark.parametrize(
    "lines", ["X-Large: " + "x" * 3000, "\r\n".join(f"X-{n}: {'x' * 100}" for n in range(2000))], ids=["one", "many"]
)
def test_headers_that_are_too_large_are_refused(server: Process, lines: str) -> None:
    """431 for one header over the limit; for too many of them the connection is refused, in words or by its end."""
    with server.connect() as client:
        try:
            client.send(f"GET {BULK} HTTP/1.1\r\nHost: 127.0.0.1\r\n{lines}\r\n\r\n".encode())
            answer = client.answer().complete()
            assert answer.status in (400, 431)
            refusal(answer, answer.status)
        except (ConnectionResetError, BrokenPipeError):
            assert "X-1" in lines


def test_a_request_line_that_is_too_long_is_refused(server: Process) -> None:
    """The same limit holds for the first line."""
    refusal(server.ask("GET", f"{BULK}?x={'x' * 3000}"), 431)


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
def test_what_is_no_http_is_refused(server: Process, text: bytes) -> None:
    """A problem document, and the end of the connection."""
    with server.connect() as client:
        client.send(text)
        refusal(client.answer().complete(), 400)
        assert client.closed()


def test_a_header_that_never_ends_is_not_waited_for(server: Process) -> None:
    """A connection that does not get its head together is closed after `--keep-alive` seconds, byte by byte or not."""
    with server.connect() as slow, server.connect() as silent:
        slow.sock.settimeout(0.2)
        # It takes 30 s in all; the default of --keep-alive is 75 s.
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


def test_connections_that_say_nothing_hold_nobody_up(server: Process) -> None:
    """Many connections that say nothing leave room for one that does."""
    silent = [socket.create_connection((server.host, server.port)) for _ in range(200)]
    try:
        assert server.ask("POST", BULK, orders(3), Content_Type=NDJSON).end["received"] == 3
    finally:
        for sock in silent:
            sock.close()
