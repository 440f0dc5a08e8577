"""Clients that disconnect: their runs end as `disconnected` at once, and leave nothing behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from service.conftest import Serve
from service.processes import Process, simulating, until
from service.wire import NDJSON, Client, Response, orders

FLAGS = ("--window", 64, "--send-buffer", 16_384, "--latency-scale", 1000)
"""Orders are in flight for 20 s (two attempts, each up to its timeout), and a stall is noticed after 30 s. So a run
that ends as `disconnected`, with its elements cancelled, ended because its client was noticed to be gone, without a
clock.
"""

WAYS: dict[str, Callable[[Client], None]] = {"FIN": Client.close, "RST": Client.reset}


def ended(server: Process, response: Response) -> dict[str, int]:
    """The log line of the end of a response's run, which must be `disconnected` with consistent counts."""
    event = server.event("run.ended", run=response.headers["penstock-run"])
    assert event["reason"] == "disconnected"
    assert event["received"] == event["ok"] + event["failed"] + event["filtered"] + event["cancelled"]
    return event


@pytest.mark.parametrize("way", WAYS)
class TestDisconnect:
    """FIN, as from a client that closes, and RST, as from a client that is killed."""

    def test_before_the_first_byte_of_the_body(self, server: Process, way: str) -> None:
        """The client has only sent the head of its request."""
        with server.connect() as client:
            client.upload()
            response = client.response()
            WAYS[way](client)
            assert ended(server, response)["received"] == 0

    def test_during_its_upload(self, server: Process, way: str) -> None:
        """Orders in flight are cancelled, and none counts as failed."""
        with server.connect() as client:
            client.upload()
            response = client.response()
            client.chunk(orders(10))
            until(lambda: server.metric("penstock_in_flight") == 10, period=0.1)
            WAYS[way](client)
            event = ended(server, response)
        assert (event["received"], event["cancelled"], event["failed"]) == (10, 10, 0)

    def test_after_its_upload(self, server: Process, way: str) -> None:
        """All orders were sent and no response has arrived."""
        with server.connect() as client:
            client.request("POST", "/orders/bulk", orders(10), Content_Type=NDJSON)
            response = client.response()
            until(lambda: server.metric("penstock_in_flight") == 10, period=0.1)
            WAYS[way](client)
            assert ended(server, response)["cancelled"] == 10

    def test_during_its_download(self, serve: Serve, way: str) -> None:
        """A GET whose results are being sent."""
        server = serve("--window", 64)
        with server.connect() as client:
            client.request("GET", "/orders/bulk?count=1000000")
            response = client.response()
            response.next()
            WAYS[way](client)
            event = ended(server, response)
        assert 0 < event["ok"] < 1_000_000
        until(lambda: server.metric("penstock_in_flight") == 0, period=0.1)

    def test_while_backpressure_pauses_reading(self, serve: Serve, way: str) -> None:
        """The window is full, so the socket is not read, and only the monitor can notice the disconnect."""
        # A FIN is noticed when the first result is sent, so there must be results.
        server = serve(*FLAGS[:-1], 10 if way == "FIN" else 1000)
        with server.connect() as client:
            client.request("POST", "/orders/bulk", Content_Type=NDJSON, Content_Length=str(2**30))
            response = client.response()
            client.push(orders(20_000), 0.2)
            until(lambda: server.metric("penstock_in_flight") == 64, period=0.1)
            WAYS[way](client)
            if way == "FIN":
                # A FIN after unread orders in the kernel cannot be noticed. But close() with unread results makes the
                # client's kernel reset the connection when it receives the next byte.
                ended(server, response)
            else:
                assert ended(server, response)["cancelled"] == 64
        until(lambda: server.metric("penstock_runs_active") == 0, period=0.1)


def test_a_disconnect_aborts_a_run_with_one_document(server: Process) -> None:
    """`Accept: application/json` writes nothing before its end, but its client is monitored too."""
    with server.connect() as client:
        client.request("GET", "/orders/bulk?count=7", Accept="application/json")
        until(lambda: server.metric("penstock_in_flight") == 7, period=0.1)
        client.close()
        until(lambda: server.metric("penstock_runs_active") == 0, period=0.1)
    server.event("run.ended", reason="disconnected", received=7, cancelled=7)


@pytest.mark.parametrize("way", WAYS)
def test_each_disconnect_is_counted_once_as_499(server: Process, way: str) -> None:
    """During a stream, an upload, a document, and an array whose run has not started."""

    def left() -> float:
        return server.metric("penstock_http_requests_total", status="499")

    def has_begun(client: Client) -> object:
        return client.response()

    def in_flight(_: Client) -> object:
        return until(lambda: server.metric("penstock_in_flight") == 7)

    before = left()
    upload = {"Content_Length": "1000", "Expect": "100-continue"}  # 100 Continue shows that the request was checked
    for method, query, headers, wait in (
        ("GET", "?count=1000", {}, has_begun),
        ("GET", "?count=7", {"Accept": "application/json"}, in_flight),
        ("POST", "", upload | {"Content_Type": NDJSON}, has_begun),
        ("POST", "", upload | {"Content_Type": "application/json"}, has_begun),
    ):
        until(lambda: server.metric("penstock_in_flight") == 0, period=0.1)
        with server.connect() as client:
            client.request(method, f"/orders/bulk{query}", **headers)
            wait(client)
            WAYS[way](client)
    until(lambda: left() == before + 4)
    until(lambda: len(server.logged("http.client_disconnected")) >= 4)


def test_a_disconnect_is_not_a_failure(server: Process) -> None:
    """The metrics count disconnects separately, and no dead letter is stored."""
    with server.connect() as client:
        client.request("GET", "/orders/bulk?count=1000")
        client.response()
        client.close()
    until(lambda: server.metric("penstock_runs_active") == 0, period=0.1)
    left = server.metric("penstock_runs_total", reason="disconnected")
    until(lambda: len(server.logged("run.ended", reason="disconnected")) == left > 0)
    assert server.metric("penstock_settled_total", outcome="failed") == 0
    assert server.metric("penstock_dead_letters_stored") == 0
    assert server.request("GET", "/dead-letters").json()["letters"] == []


@pytest.fixture
def hanging() -> Iterator[Process]:
    """Services that never respond."""
    with simulating("--hang-rate", 1) as process:
        yield process


def test_a_disconnect_cancels_service_calls(serve: Serve, hanging: Process) -> None:
    """The services see their requests aborted."""
    address = f"http://{hanging.host}:{hanging.port}"
    server = serve("--pricing-url", f"{address}/prices/{{orderId}}", "--inventory-url", f"{address}/stock/{{orderId}}")

    def statistics(field: str) -> int:
        return sum(tally[field] for tally in hanging.request("GET", "/statistics").json().values())

    with server.connect() as client:
        client.upload()
        response = client.response()
        client.chunk(orders(5))
        until(lambda: statistics("begun") == 10)
        client.reset()
        assert ended(server, response)["cancelled"] == 5
    until(lambda: statistics("cancelled") == 10)
    assert server.metric("penstock_service_in_flight") == 0
    assert server.metric("penstock_service_waiting") == 0
