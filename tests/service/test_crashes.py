"""Killed processes: everything that was reported to a client is stored."""

from __future__ import annotations

import os
import signal

import pytest

from service.conftest import Serve
from service.processes import Process, until
from service.wire import NDJSON, orders
from stores.children import running, writers_of


def test_a_reported_dead_letter_survives_a_kill(serve: Serve) -> None:
    """The record of a failed item is sent after its dead letter is durable."""
    server = serve("--port", 0)
    with server.connect() as client:
        client.request("POST", "/orders/bulk", Content_Type=NDJSON, Content_Length=str(2**30))
        response = client.response()
        client.push(orders(5000), 0.1)
        seen = []
        for record in response.stream():
            if not record["ok"]:
                seen.append(record["deadLetter"])
            if len(seen) == 300:
                break
        server.kill()
        whole = response.complete().body.split(b"\n")[:-1]
        seen += [line.split(b'"')[-2].decode() for line in whole if b"deadLetter" in line]

    after = serve("--port", 0)
    stored: set[str] = set()
    following = None
    while True:
        page = after.request("GET", "/dead-letters?limit=1000" + (f"&after={following}" if following else "")).json()
        stored |= {letter["id"] for letter in page["letters"]}
        if (following := page["next"]) is None:
            break
    assert set(seen) <= stored
    assert after.metric("penstock_dead_letters_stored", state="waiting") == len(stored)


def writer_of(server: Process) -> int:
    """The process that writes the dead letters of a server."""
    (pid,) = writers_of(server.pid)
    return int(pid)


def test_an_upload_survives_a_killed_writer_process(serve: Serve) -> None:
    """The writer is restarted: each failed order has one dead letter, and the counts agree."""
    server = serve()
    assert writers_of(server.pid) == set()  # the writer starts with the first dead letter
    server.post({"orderId": 3})
    first = writer_of(server)
    with server.connect() as client:
        client.request("POST", "/orders/bulk", Content_Type=NDJSON, Content_Length=str(len(orders(20_000))))
        response = client.response()
        client.push(orders(20_000))
        named = []
        for record in response.stream():
            if "deadLetter" in record:
                named.append(record["deadLetter"])
                if len(named) == 1000:
                    os.kill(first, signal.SIGKILL)
    assert (response.end["reason"], response.end["received"], response.end["failed"]) == (
        "completed",
        20_000,
        len(named),
    )
    assert len(set(named)) == len(named) == server.metric("penstock_dead_letters_stored", state="waiting") - 1
    assert writer_of(server) != first
    assert server.event("store.writer_crashed")["how"] == "signal 9"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_the_writer_process_ends_with_its_server(serve: Serve, number: signal.Signals) -> None:
    """However the server ends, no writer keeps the database open."""
    server = serve()
    server.post({"orderId": 3})
    writer = writer_of(server)
    server.signal(number)
    assert server.wait() == (0 if number is signal.SIGTERM else -number)
    until(lambda: not running(writer))
