"""Results are returned while orders are still being sent."""

from __future__ import annotations

import threading
import time

from service.processes import Process, until
from service.wire import Client, orders

FLAGS = ("--latency-scale", 1)

FASTER_SERVICE, SLOWER_SERVICE = 0.100, 0.150


def test_results_arrive_during_the_upload(server: Process) -> None:
    """The first result arrives before the second half of the input is sent, and an idle input delays none."""
    with server.connect() as client:
        client.upload()
        response = client.response()
        client.chunk(orders(2))
        assert {response.next()["seq"], response.next()["seq"]} == {0, 1}
        client.chunk(orders(2, start=4))
        assert {response.next()["seq"], response.next()["seq"]} == {2, 3}
        client.chunk(b"")
        assert response.complete().end["received"] == 4


def test_the_head_of_the_response_comes_before_the_body_of_the_request(server: Process) -> None:
    """A client can wait for the head before it sends."""
    with server.connect() as client:
        client.upload()
        assert client.response().status == 200
        client.chunk(b"")


def test_the_first_result_takes_as_long_as_the_slower_service(server: Process) -> None:
    """Both services are called at once, and no result waits for a batch to fill. The exact figure is in tests/bench."""

    def first_result() -> float:
        with server.connect() as client:
            client.upload()
            response = client.response()
            started = time.monotonic()
            client.chunk(orders(1))
            response.next()
            seconds = time.monotonic() - started
            client.chunk(b"")
        assert seconds >= SLOWER_SERVICE
        return seconds

    # A single attempt may take longer on a busy machine. If one service waited for the other, none could be as fast.
    until(lambda: first_result() < FASTER_SERVICE + SLOWER_SERVICE)


def test_a_small_request_does_not_wait_for_a_large_one(server: Process) -> None:
    """Ten orders are processed while a hundred thousand of another client wait for the same services."""
    stop = threading.Event()

    def flood(client: Client) -> None:
        while not stop.is_set():
            client.push(orders(1000), 0.2)

    with server.connect() as large:
        large.request("POST", "/orders/bulk", Content_Type="application/x-ndjson", Content_Length=str(2**40))
        response = large.response()
        uploading = threading.Thread(target=flood, args=(large,))
        uploading.start()
        try:
            response.next()
            assert server.post(*({"orderId": id} for id in range(1, 11))).end["received"] == 10
            assert not server.logged("run.ended", run=response.headers["penstock-run"])
        finally:
            stop.set()
            uploading.join()
