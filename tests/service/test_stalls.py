"""Clients that do not move are ended; slow ones that do are not."""

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
    """Send bytes one by one until something comes back; returns whether it did."""
    for byte in data:
        client.chunk(bytes([byte]))
        if select.select([client.sock], [], [], period)[0]:
            return True
    return False


def test_a_client_that_sends_nothing_is_told_that_it_stalled(server: Process) -> None:
    """After `--stall-timeout` seconds the end record says `stalled`, what came before is answered, and it is logged."""
    before = server.metric("penstock_runs_total", reason="stalled")
    with server.connect() as client:
        client.upload()
        answer = client.answer()
        client.chunk(orders(2))
        started = time.monotonic()
        answer.complete()
        assert time.monotonic() - started > STALL - 0.2
        assert (answer.end["reason"], answer.end["received"], answer.end["ok"]) == ("stalled", 2, 2)
        assert not answer.cut
    said = server.event("stream.stalled", run=answer.headers["penstock-run"])
    assert (said["stalled_on"], said["received"], said["level"]) == ("input", 2, "warning")
    assert server.metric("penstock_runs_total", reason="stalled") == before + 1


def test_a_client_that_reads_nothing_is_ended(server: Process) -> None:
    """What it did not take is not counted as ok; whether there is room for an end record is a matter of luck."""
    with server.connect(receive_buffer=16_384) as client:
        client.request("POST", "/orders/bulk", Content_Type=NDJSON, Content_Length=str(2**30))
        answer = client.answer()
        run = answer.headers["penstock-run"]
        client.push(orders(20_000), 0.3)
        said = server.event("stream.stalled", run=run)
        assert (said["stalled_on"], said["in_flight"]) == ("reader", 64)
        event = server.event("run.ended", run=run)
        assert event["reason"] == "stalled"
        assert event["received"] == event["ok"] + event["failed"] + event["cancelled"]


def test_a_byte_a_second_is_no_progress(server: Process) -> None:
    """Otherwise a thousand connections of such a kind would hold all streams for ever."""
    with server.connect() as client:
        client.upload()
        answer = client.answer()
        assert drip(client, 0.5, b" " * 100)
        assert answer.complete().end["reason"] == "stalled"
    assert server.event("run.ended", run=answer.headers["penstock-run"])["reason"] == "stalled"


def test_a_reader_that_is_slow_all_the_time_is_not_ended(server: Process) -> None:
    """What its system took counts, not only what all of a write came to: that would take longer than a stall here."""
    with server.connect(receive_buffer=4096) as client:
        client.request("GET", "/orders/bulk?count=2000")
        run = client.answer().headers["penstock-run"]
        # Not longer: the kernel gives up a receive window as small as this after STALL + 5 s (TCP_USER_TIMEOUT in
        # limits.py), though the reader makes progress.
        until = time.monotonic() + 2.5 * STALL
        while time.monotonic() < until:
            assert client.sock.recv(1000)
            time.sleep(0.05)  # it reads 20 KB a second: slowly is what it is about
    assert not server.said("stream.stalled", run=run)


def test_an_array_that_does_not_arrive_is_not_waited_for(server: Process) -> None:
    """A JSON body is read before the run starts; its client may not stall either."""
    with server.connect() as client:
        client.request("POST", "/orders/bulk", Content_Type="application/json", Content_Length="1000")
        client.send(b"[")
        answer = client.answer().complete()
        assert answer.status == 408


@pytest.mark.parametrize("pause", [0.8])
def test_a_slow_client_is_not_ended(server: Process, pause: float) -> None:
    """One that pauses for less than `--stall-timeout`, again and again, and a slow reader get all their answers."""
    reads: list[str] = []

    def slow_reader() -> None:
        with server.connect(receive_buffer=4096) as client:
            client.request("GET", "/orders/bulk?count=3000")
            answer = client.answer()
            for number, record in enumerate(answer.stream()):
                if number % 1000 == 999:
                    time.sleep(pause)
                reads.append(record.get("end", {}).get("reason", ""))

    reader = threading.Thread(target=slow_reader)
    reader.start()
    with server.connect() as client:
        client.upload()
        answer = client.answer()
        for id in (1, 2, 4):
            client.chunk(orders(1, start=id, padding=30))
            assert answer.next()["value"]["orderId"] == id
            time.sleep(pause)
        client.chunk(b"")
        assert answer.complete().end["reason"] == "completed"
    reader.join()
    assert reads[-1] == "completed"
    assert len(reads) == 3001


def pause(server: Process, seconds: float) -> None:
    """Stop a server as the kernel or a debugger does, and let it go on."""
    server.signal(signal.SIGSTOP)
    time.sleep(seconds)  # longer than a stall: that is what it is about
    server.signal(signal.SIGCONT)


def test_a_pause_of_the_server_is_no_stall_of_its_clients(server: Process) -> None:
    """Neither of one that sends, nor of one that reads, nor of one whose array is still arriving."""
    with server.connect() as sender, server.connect(receive_buffer=4096) as reader, server.connect() as array:
        sender.upload()
        sent = sender.answer()
        reader.request("GET", "/orders/bulk?count=2000")
        read = reader.answer()
        read.next()
        array.request("POST", "/orders/bulk", Content_Type="application/json", Content_Length="15")
        array.send(b"[")

        pause(server, 2 * STALL)

        sender.chunk(orders(1))
        sender.chunk(b"")
        array.send(b'{"orderId":1}]')
        assert sent.complete().end["reason"] == "completed"
        assert read.complete().end["reason"] == "completed"
        assert array.answer().complete().status == 200


def test_a_request_that_arrives_while_the_server_pauses_is_answered(server: Process) -> None:
    """The connection was idle for longer than `--keep-alive`, but only because the server did not read."""
    with server.connect() as client:
        client.request("GET", "/health/live")
        client.answer().complete()
        server.signal(signal.SIGSTOP)
        client.request("GET", "/health/live")
        time.sleep(KEEP_ALIVE + 1)
        server.signal(signal.SIGCONT)
        assert client.answer().complete().status == 200
