"""Clients that stall are ended, and slow clients are not."""

from __future__ import annotations

import select
import signal
import threading
import time

import pytest

from service.processes import Process
from service.wire import NDJSON, Client, orders

STALL = 2.0
KEEP_ALIVE = 2
FLAGS = ("--stall-timeout", STALL, "--keep-alive", KEEP_ALIVE, "--window", 64, "--send-buffer", 16_384)


def drip(client: Client, period: float, data: bytes) -> bool:
    """Send bytes one by one until data is received. Returns whether it was."""
    for byte in data:
        client.chunk(bytes([byte]))
        if select.select([client.sock], [], [], period)[0]:
            return True
    return False


def test_a_client_that_sends_nothing_stalls(server: Process) -> None:
    """After `--stall-timeout` seconds the end record says `stalled`; earlier items have their results."""
    before = server.metric("penstock_runs_total", reason="stalled")
    with server.connect() as client:
        client.upload()
        response = client.response()
        client.chunk(orders(2))
        started = time.monotonic()
        response.complete()
        assert time.monotonic() - started > STALL - 0.2
        assert (response.end["reason"], response.end["received"], response.end["ok"]) == ("stalled", 2, 2)
        assert not response.cut
    stalled = server.event("stream.stalled", run=response.headers["penstock-run"])
    assert (stalled["stalled_on"], stalled["received"], stalled["level"]) == ("input", 2, "warning")
    assert server.metric("penstock_runs_total", reason="stalled") == before + 1


def test_a_client_that_reads_nothing_stalls(server: Process) -> None:
    """Results that it did not receive do not count as ok. It may or may not get an end record."""
    with server.connect(receive_buffer=16_384) as client:
        client.request("POST", "/orders/bulk", Content_Type=NDJSON, Content_Length=str(2**30))
        response = client.response()
        run = response.headers["penstock-run"]
        client.push(orders(20_000), 0.3)
        stalled = server.event("stream.stalled", run=run)
        assert (stalled["stalled_on"], stalled["in_flight"]) == ("reader", 64)
        event = server.event("run.ended", run=run)
        assert event["reason"] == "stalled"
        assert event["received"] == event["ok"] + event["failed"] + event["cancelled"]


def test_one_byte_per_second_is_a_stall(server: Process) -> None:
    """Otherwise such connections would use all slots forever."""
    with server.connect() as client:
        client.upload()
        response = client.response()
        assert drip(client, 0.5, b" " * 100)
        assert response.complete().end["reason"] == "stalled"
    assert server.event("run.ended", run=response.headers["penstock-run"])["reason"] == "stalled"


def test_a_slow_reader_does_not_stall(server: Process) -> None:
    """Acknowledged bytes count, not complete writes, which take longer than the timeout here."""
    with server.connect(receive_buffer=4096) as client:
        client.request("GET", "/orders/bulk?count=2000")
        run = client.response().headers["penstock-run"]
        # Not longer: with such a small receive window the kernel drops the connection after STALL + 5 s
        # (TCP_USER_TIMEOUT in server/connection.py), although the reader makes progress.
        until = time.monotonic() + 2.5 * STALL
        while time.monotonic() < until:
            assert client.sock.recv(1000)
            time.sleep(0.05)  # reads 20 KB per second
    assert not server.logged("stream.stalled", run=run)


def test_an_array_that_does_not_arrive_is_a_stall(server: Process) -> None:
    """A JSON body is read before the run starts, with the same timeout."""
    with server.connect() as client:
        client.request("POST", "/orders/bulk", Content_Type="application/json", Content_Length="1000")
        client.send(b"[")
        response = client.response().complete()
        assert response.status == 408


@pytest.mark.parametrize("pause", [0.8])
def test_a_client_that_pauses_briefly_does_not_stall(server: Process, pause: float) -> None:
    """Repeated pauses shorter than `--stall-timeout`, in sending and in reading."""
    reads: list[str] = []

    def slow_reader() -> None:
        with server.connect(receive_buffer=4096) as client:
            client.request("GET", "/orders/bulk?count=3000")
            response = client.response()
            for number, record in enumerate(response.stream()):
                if number % 1000 == 999:
                    time.sleep(pause)
                reads.append(record.get("end", {}).get("reason", ""))

    reader = threading.Thread(target=slow_reader)
    reader.start()
    with server.connect() as client:
        client.upload()
        response = client.response()
        for id in (1, 2, 4):
            client.chunk(orders(1, start=id, padding=30))
            assert response.next()["value"]["orderId"] == id
            time.sleep(pause)
        client.chunk(b"")
        assert response.complete().end["reason"] == "completed"
    reader.join()
    assert reads[-1] == "completed"
    assert len(reads) == 3001


def pause(server: Process, seconds: float) -> None:
    """Stop a server as the kernel or a debugger does, and continue it."""
    server.signal(signal.SIGSTOP)
    time.sleep(seconds)  # longer than the stall timeout
    server.signal(signal.SIGCONT)


def test_a_pause_of_the_server_is_not_a_stall(server: Process) -> None:
    """Neither of a client that sends, nor of one that reads, nor of one that sends an array."""
    with server.connect() as sender, server.connect(receive_buffer=4096) as reader, server.connect() as array:
        sender.upload()
        sent = sender.response()
        reader.request("GET", "/orders/bulk?count=2000")
        read = reader.response()
        read.next()
        array.request("POST", "/orders/bulk", Content_Type="application/json", Content_Length="15")
        array.send(b"[")

        pause(server, 2 * STALL)

        sender.chunk(orders(1))
        sender.chunk(b"")
        array.send(b'{"orderId":1}]')
        assert sent.complete().end["reason"] == "completed"
        assert read.complete().end["reason"] == "completed"
        assert array.response().complete().status == 200


def test_a_request_that_arrives_during_a_pause_of_the_server_is_served(server: Process) -> None:
    """The connection was idle for longer than `--keep-alive` only because the server did not read."""
    with server.connect() as client:
        client.request("GET", "/health/live")
        client.response().complete()
        server.signal(signal.SIGSTOP)
        client.request("GET", "/health/live")
        time.sleep(KEEP_ALIVE + 1)
        server.signal(signal.SIGCONT)
        assert client.response().complete().status == 200
