"""HTTP connections: keep-alive, pipelining, HTTP/1.0, chunked bodies, and limits of the process."""

from __future__ import annotations

import json
import os
import resource
import time
from contextlib import ExitStack
from typing import Any

import pytest

from service.conftest import Serve
from service.processes import Process, until
from service.wire import NDJSON, Client, Cut, head, orders
from waiting import HANG_SECONDS

FLAGS = ("--keep-alive", 1)

BULK = "/orders/bulk"


@pytest.fixture
def client(server: Process) -> Any:
    """A connection to the server."""
    with server.connect() as client:
        yield client


def test_a_connection_serves_many_requests(client: Client) -> None:
    """After a complete bulk response the connection can be used again, also for another bulk request."""
    for count in (1, 300, 2):
        client.request("POST", BULK, orders(count), Content_Type=NDJSON)
        assert client.response().complete().end["received"] == count
        client.request("GET", "/health/live")
        assert client.response().complete().json() == {"status": "live"}


def test_the_body_of_a_rejected_request_is_not_read_as_a_request(client: Client) -> None:
    """The next request on the connection gets its own response."""
    client.request("POST", BULK, b"GET /evil HTTP/1.1\r\n\r\n" * 100, Content_Type="text/csv")
    assert client.response().complete().status == 415
    try:
        client.request("GET", "/health/live")
        response = client.response().complete()
    except (Cut, ConnectionError):
        return
    assert response.json() == {"status": "live"}


def test_pipelined_requests_get_responses_in_order(client: Client) -> None:
    """One after another."""
    one = head("POST", BULK, orders(2), Content_Type=NDJSON) + orders(2)
    two = head("GET", f"{BULK}?count=3&order=input")
    three = head("GET", "/health/live")
    client.send(one + two + three)
    assert client.response().complete().end["received"] == 2
    assert client.response().complete().end["received"] == 3
    assert client.response().complete().json() == {"status": "live"}


def test_a_response_to_http_1_0_ends_with_the_connection(client: Client) -> None:
    """HTTP/1.0 has no chunks; closing the connection ends the body."""
    client.send(f"GET {BULK}?count=4 HTTP/1.0\r\n\r\n".encode())
    response = client.response().complete()
    assert "transfer-encoding" not in response.headers
    assert response.end["received"] == 4
    assert client.closed()


@pytest.mark.parametrize("kind", [NDJSON, "text/event-stream"])
def test_a_stream_to_http_1_0_closes_a_kept_connection(client: Client, kind: str) -> None:
    """Also if the client asks to keep the connection, because a stream without chunks has no other end."""
    client.send(f"GET {BULK}?count=4 HTTP/1.0\r\nAccept: {kind}\r\nConnection: keep-alive\r\n\r\n".encode())
    response = client.response().complete()
    assert b'"received":4' in response.body
    assert client.closed()


def test_http_1_0_can_send_a_body(client: Client) -> None:
    """Its `Content-Length` marks its end."""
    client.request("POST", BULK, orders(4), version="1.0", Content_Type=NDJSON)
    assert client.response().complete().end["received"] == 4


def test_a_client_that_expects_100_continue_gets_it(client: Client) -> None:
    """curl sends `Expect: 100-continue` with a large body. The server sends 100 before the body arrives."""
    client.upload(Expect="100-continue")
    assert client.line() == b"HTTP/1.1 100 Continue"
    assert client.line() == b""
    client.chunk(orders(2))
    client.chunk(b"")
    assert client.response().complete().end["received"] == 2


def test_chunks_can_have_extensions_and_trailers(client: Client) -> None:
    """RFC 9112, section 7.1, allows both. They are ignored."""
    client.upload()
    line = orders(1)
    client.send(b'%x;name="value"\r\n%b\r\n0\r\nX-Checksum: 1\r\nX-More: 2\r\n\r\n' % (len(line), line))
    assert client.response().complete().end["received"] == 1
    client.request("GET", "/health/live")
    assert client.response().complete().status == 200


def test_chunks_can_be_one_byte(client: Client) -> None:
    """10,000 chunks of one byte each are orders like any others."""
    body = orders(800)[:10_000].rpartition(b"\n")[0]
    client.upload()
    client.send(b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n")
    response = client.response().complete()
    assert response.end["received"] == body.count(b"\n") + 1
    assert {record["error"]["step"] for record in response.results if not record["ok"]} == {"inventory"}


@pytest.mark.parametrize("bad", [b"xyz\r\nabc\r\n", b"-5\r\n", b"5\r\nabcdefghi\r\n", b"f" * 40 + b"\r\n"])
def test_an_invalid_chunk_ends_only_its_own_stream(server: Process, client: Client, bad: bytes) -> None:
    """Items sent before it get results; the end record says `failed`, or the stream is cut."""
    client.upload()
    client.chunk(orders(2))
    response = client.response()
    assert response.next()["ok"]
    client.send(bad)
    response.complete()
    assert response.cut or response.end["reason"] == "failed"
    run = response.headers["penstock-run"]
    ended = server.event("run.ended", run=run)
    assert ended["received"] == ended["ok"] + ended["failed"] + ended["cancelled"]
    assert server.request("GET", "/health/live").status == 200


def test_a_body_shorter_than_its_length_ends_as_disconnected(server: Process) -> None:
    """The client announces 1000 bytes, sends some and closes the connection. The run does not complete."""
    with server.connect() as client:
        client.send(head("POST", BULK, Content_Type=NDJSON, Content_Length="1000") + orders(3))
        response = client.response()
        run = response.headers["penstock-run"]
        response.next()
    assert server.event("run.ended", run=run)["reason"] == "disconnected"


def test_an_incomplete_array_starts_no_run(server: Process) -> None:
    """None of its items runs."""
    before = server.metric("penstock_received_total")
    with server.connect() as client:
        client.send(head("POST", BULK, Content_Type="application/json", Content_Length="1000") + b'[{"orderId":1}')
    until(lambda: server.request("GET", "/health/live").status == 200)
    assert server.metric("penstock_received_total") == before


def test_an_idle_connection_is_closed(client: Client) -> None:
    """After `--keep-alive` seconds."""
    client.request("GET", "/health/live")
    client.response().complete()
    assert client.closed()


def test_keep_alive_does_not_cut_an_idle_stream(client: Client) -> None:
    """A stream without data for longer than `--keep-alive` stays open."""
    client.upload()
    client.chunk(orders(1))
    response = client.response()
    assert response.next()["seq"] == 0
    client.sock.settimeout(1.6)
    with pytest.raises(TimeoutError):
        client.sock.recv(1)
    client.sock.settimeout(HANG_SECONDS)
    client.chunk(b"")
    assert json.loads(response.complete().body.splitlines()[-1])["end"]["reason"] == "completed"


@pytest.mark.parametrize("blanks", [1_000_000])
def test_blank_lines_are_skipped(server: Process, blanks: int) -> None:
    """A million of them cost almost nothing."""
    body = b"\n" * blanks + b'{"orderId":1}'
    assert server.request("POST", BULK, body, Content_Type=NDJSON).end["received"] == 1


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="only Linux has prlimit")
def test_without_file_descriptors_a_warning_is_logged_once_per_second(serve: Serve) -> None:
    """New connections wait, open ones are served, and the log stays short."""
    server = serve()
    with ExitStack() as stack:
        _starve(server, [stack.enter_context(server.connect()) for _ in range(2)], stack)
    assert server.metric("penstock_http_rejected_total", reason="no_descriptor") > 0


def _starve(server: Process, open_ones: list[Client], stack: ExitStack) -> None:
    for client in open_ones:  # so that the server accepts it
        client.request("GET", "/health/live")
        client.response().complete()
    used = len(os.listdir(f"/proc/{server.pid}/fd"))
    soft, hard = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (used, hard))
    waiting = [stack.enter_context(server.connect()) for _ in range(30)]
    try:
        server.event("http.accept_failed")
        began = time.monotonic()
        time.sleep(2.5)  # long enough for a third log line
        assert 1 <= len(server.logged("http.accept_failed")) <= time.monotonic() - began + 1.5
        open_ones[0].request("GET", "/health/live")
        assert open_ones[0].response().complete().json() == {"status": "live"}
    finally:
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (soft, hard))
    waiting[0].request("GET", "/health/live")
    assert waiting[0].response().complete().json() == {"status": "live"}
