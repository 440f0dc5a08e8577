"""Slow readers: backpressure reaches the sender, memory is bounded, and no result is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from service.conftest import Serve
from service.processes import Process, until
from service.wire import NDJSON, Client, Response, orders
from waiting import HANG_SECONDS

WINDOW = 256
FLAGS = ("--window", WINDOW, "--send-buffer", 65_536)

COUNT = 16_000
PADDING = 800


class Upload:
    """Sends orders in a thread and counts the bytes that were accepted."""

    def __init__(self, client: Client, body: bytes) -> None:
        self.sent = 0
        self._client = client
        self._body = body
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            while self.sent < len(self._body):
                self.sent += self._client.sock.send(self._body[self.sent : self.sent + 65_536])
        except OSError:
            pass

    def held_back(self, seconds: float = 0.6) -> bool:
        """Whether no byte was accepted for so long."""
        before = self.sent
        time.sleep(seconds)  # nothing must happen in this time
        return self.sent == before < len(self._body)

    def join(self) -> None:
        self._thread.join(HANG_SECONDS)


@contextmanager
def stopped_reader(server: Process) -> Iterator[tuple[Upload, Response]]:
    """A client that sends orders and reads only the head of the response."""
    body = orders(COUNT, padding=PADDING)
    with server.connect(receive_buffer=65_536) as client:
        client.request("POST", "/orders/bulk", Content_Type=NDJSON, Content_Length=str(len(body)))
        response = client.response()
        upload = Upload(client, body)
        try:
            yield upload, response
        finally:
            client.sock.shutdown(2)
            upload.join()


def test_a_document_holds_its_slot_until_it_is_read(serve: Serve) -> None:
    """Otherwise documents that are not read would use unlimited memory.

    A slow reader gets all; one that does not read is ended.
    """
    server = serve("--max-runs", 2, "--stall-timeout", 8, "--send-buffer", 16_384)
    with server.connect(receive_buffer=4096) as reader, server.connect(receive_buffer=4096) as idler:
        for client in (reader, idler):
            client.request("GET", "/orders/bulk?count=4000", Accept="application/json")
        until(lambda: len(server.logged("run.ended", kind="http")) == 2)
        assert server.request("GET", "/orders/bulk").json()["code"] == "too_many_runs"

        time.sleep(1)  # slowly, but within --stall-timeout
        assert reader.response().complete().json()["end"]["received"] == 4000
        assert server.event("stream.stalled", stalled_on="reader")["response_bytes"] > 300_000
        until(lambda: server.request("GET", "/orders/bulk").status == 200)
    assert len(server.logged("stream.stalled")) == 1
    assert server.metric("penstock_http_requests_total", status="499") == 1


def test_a_paused_reader_pauses_its_sender(server: Process) -> None:
    """At most the window is in flight, the server accepts no more bytes, and its memory stays constant."""
    server.post({"orderId": 1})
    memory = server.rss()
    with stopped_reader(server) as (upload, response):
        until(upload.held_back)
        taken = upload.sent
        assert until(lambda: server.metric("penstock_in_flight", flow="orders")) <= WINDOW
        assert server.metric("penstock_window_capacity", flow="orders") == WINDOW
        until(lambda: server.metric("penstock_backpressure_seconds_total", flow="orders") > 0, period=0.1)
        assert taken < 0.9 * COUNT * PADDING
        assert server.rss() - memory < 20
        # Other clients are served meanwhile.
        assert server.post({"orderId": 1}).end["ok"] == 1

        # The reader continues, and receives everything.
        response.complete()
        end = response.end
        assert not response.cut
        assert (end["reason"], end["received"], end["cancelled"]) == ("completed", COUNT, 0)
        assert {record["seq"] for record in response.results} == set(range(COUNT))
    assert server.metric("penstock_in_flight", flow="orders") == 0


def test_a_paused_reader_that_disconnects_ends_its_run(server: Process) -> None:
    """As `disconnected`, with nothing left behind."""
    with stopped_reader(server) as (upload, response):
        until(upload.held_back)
    assert server.event("run.ended", run=response.headers["penstock-run"])["reason"] == "disconnected"
    until(lambda: server.metric("penstock_runs_active") == 0, period=0.1)
    assert server.metric("penstock_in_flight") == 0


def test_samples_are_generated_as_fast_as_they_are_read(server: Process) -> None:
    """A GET of many orders is not buffered."""
    with server.connect(receive_buffer=65_536) as client:
        client.request("GET", "/orders/bulk?count=20000")
        response = client.response()
        response.next()

        def settled() -> float:
            return server.metric("penstock_received_total")

        def stands() -> bool:
            before = settled()
            time.sleep(0.3)  # nothing must happen in this time
            return settled() == before

        until(stands)
        assert server.metric("penstock_in_flight") <= WINDOW
        assert response.complete().end["received"] == 20_000
