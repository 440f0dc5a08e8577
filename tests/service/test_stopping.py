"""The way down: graceful first, hard after a deadline, and told in one line."""

from __future__ import annotations

import os
import signal
import socket
import time
from contextlib import ExitStack
from typing import Any

import pytest

from service.conftest import Serve
from service.processes import Process, simulating, until
from service.wire import NDJSON, Client, orders
from stores.children import children_of, running


def begin(client: Client, count: int = 3, start: int = 1) -> Any:
    """An upload that goes on, with some orders sent."""
    client.upload()
    answer = client.answer()
    client.chunk(orders(count, start=start))
    return answer


def refuses(server: Process) -> bool:
    """Whether new connections are refused."""
    try:
        socket.create_connection((server.host, server.port), 2).close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_an_open_stream_is_drained(serve: Serve, number: signal.Signals) -> None:
    """What is in flight is finished, the end record says `draining`, and the exit code is 0."""
    server = serve("--latency-scale", 3)
    with server.connect() as client, server.connect() as idle:
        idle.request("GET", "/health/ready")
        assert idle.answer().complete().status == 200
        answer = begin(client, 6)
        until(lambda: server.metric("penstock_in_flight") == 6)
        server.signal(number)
        until(lambda: refuses(server))
        end = answer.complete().end
        assert (end["reason"], end["received"], end["ok"], end["failed"], end["cancelled"]) == ("draining", 6, 4, 2, 0)
        assert not answer.cut
    assert server.wait() == 0
    report = server.event("stop.ended")
    assert (report["forced"], report["runs"], report["reasons"]) == (False, 1, {"draining": 1})
    assert (report["received"], report["ok"], report["failed"], report["cancelled"]) == (6, 4, 2, 0)
    assert len(server.said("stop.ended")) == 1


def test_what_was_not_received_can_be_sent_again(serve: Serve) -> None:
    """`received` says where to go on: with the rest sent to the next process each order is answered exactly once."""
    count = 20_000
    lines = orders(count).splitlines(keepends=True)
    first = serve()
    with first.connect(receive_buffer=65_536) as client:
        client.request("POST", "/orders/bulk", Content_Type=NDJSON, Content_Length=str(sum(map(len, lines))))
        answer = client.answer()
        client.push(b"".join(lines), 0.1)
        answer.next()
        first.signal(signal.SIGTERM)
        answer.complete()
    received = answer.end["received"]
    assert answer.end["reason"] == "draining"
    assert 0 < received < count
    assert first.wait() == 0
    second = serve()
    rest = second.ask("POST", "/orders/bulk", b"".join(lines[received:]), Content_Type=NDJSON)

    def ids(records: list[dict[str, Any]]) -> list[int]:
        return [record["value"]["orderId"] if record["ok"] else record["key"] for record in records]

    assert sorted(ids(answer.results) + ids(rest.results)) == list(range(1, count + 1))


def test_readiness_is_red_while_it_drains(serve: Serve) -> None:
    """On a connection that was open before: ready is 503, alive is 200, and a new stream is refused as `stopping`."""
    server = serve("--latency-scale", 8)
    kept = [server.connect() for _ in range(3)]
    with server.connect() as client:
        begin(client)
        until(lambda: server.metric("penstock_in_flight") == 3)
        server.signal(signal.SIGTERM)
        server.event("stop.phase", phase="draining")
        answers = []
        for connection, path in zip(kept, ("/health/ready", "/health/live", "/orders/bulk"), strict=True):
            with connection:
                connection.request("GET", path)
                answers.append(connection.answer().complete())
    ready, live, bulk = answers
    assert (ready.status, ready.json()) == (503, {"status": "draining"})
    assert live.status == 200
    assert (bulk.status, bulk.json()["code"], "retry-after" in bulk.headers) == (503, "stopping", True)


def test_a_stop_that_takes_too_long_is_forced(serve: Serve) -> None:
    """After `--grace` seconds what is left is cancelled, not failed; its stream is cut and the exit code is 1."""
    with simulating("--hang-rate", 1) as hanging:
        server = serve("--grace", 0.3, "--pricing-url", f"http://{hanging.host}:{hanging.port}/prices/{{orderId}}")
        with server.connect() as client:
            answer = begin(client)
            until(lambda: server.metric("penstock_in_flight") == 3)
            started = time.monotonic()
            server.signal(signal.SIGTERM)
            assert answer.complete().cut
            assert server.wait() == 1
            assert 0.3 <= time.monotonic() - started < 3
        report = server.event("stop.ended")
        assert (report["forced"], report["reasons"], report["cancelled"]) == (True, {"aborted": 1}, 3)
        assert report["failed"] == 0
        calls = hanging.ask("GET", "/statistics").json()["prices"]
        assert (calls["begun"], calls["cancelled"]) == (3, 3)


def test_a_second_signal_aborts_at_once(serve: Serve) -> None:
    """Whoever sends it again does not want to wait for `--grace`."""
    server = serve("--latency-scale", 100)
    with server.connect() as client:
        answer = begin(client)
        until(lambda: server.metric("penstock_in_flight") == 3)
        server.signal(signal.SIGTERM)
        server.event("stop.phase", phase="draining")
        started = time.monotonic()
        server.signal(signal.SIGINT)
        assert answer.complete().cut
        assert server.wait() == 1
        assert time.monotonic() - started < 3
    assert server.event("stop.ended")["cancelled"] == 3


def test_two_signals_at_the_same_moment_are_two(serve: Serve) -> None:
    """The second one aborts, however soon it comes; the log stays one of JSON."""
    server = serve("--latency-scale", 100)
    with server.connect() as client:
        answer = begin(client)
        until(lambda: server.metric("penstock_in_flight") == 3)
        server.signal(signal.SIGTERM)
        server.signal(signal.SIGINT)
        assert server.wait(8) == 1
        assert answer.complete().cut
    assert server.event("stop.ended")["cancelled"] == 3
    assert server.noise == []


def test_an_idle_connection_does_not_hold_up_a_stop(serve: Serve) -> None:
    """Connections that are kept alive, and ones that never said anything, are closed at once."""
    server = serve()
    with server.connect() as idle, server.connect():
        idle.request("GET", "/health/live")
        idle.answer().complete()
        started = time.monotonic()
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert time.monotonic() - started < 1.5


def test_a_client_that_goes_on_sending_sees_the_end_of_its_stream(serve: Serve) -> None:
    """Closing on a client that sends resets it and may take the end record along, so it is heard for a while."""
    server = serve()
    with server.connect() as client:
        answer = begin(client)
        assert answer.next()["ok"]
        server.signal(signal.SIGTERM)
        for number in range(20):
            try:
                client.chunk(orders(100, start=1000 * number))
            except OSError:
                break
        assert answer.complete().end["reason"] == "draining"
    assert server.wait() == 0


def test_a_connection_that_was_made_before_the_stop_gets_an_answer(serve: Serve) -> None:
    """It waits in the backlog of the kernel when the signal arrives, with more others than one iteration accepts."""
    server = serve()
    with ExitStack() as stack:
        server.signal(signal.SIGSTOP)
        clients = [stack.enter_context(server.connect()) for _ in range(100)]
        for client in clients:
            client.request("GET", "/health/ready")
        server.signal(signal.SIGTERM)
        server.signal(signal.SIGCONT)
        statuses = {client.answer().complete().status for client in clients}
    assert statuses <= {200, 503}
    assert server.wait() == 0


def test_an_array_that_is_still_arriving_is_refused(serve: Serve) -> None:
    """Nothing of it was taken, and its client is told to send it again, now and not when the process is gone."""
    server = serve()
    with server.connect() as client:
        client.request("POST", "/orders/bulk", Content_Type="application/json", Content_Length="1000")
        client.send(b'[{"orderId":1},')
        time.sleep(0.2)  # it is read before the signal comes; either way the answer is the same
        server.signal(signal.SIGTERM)
        answer = client.answer().complete()
    assert (answer.status, answer.json()["code"]) == (503, "stopping")
    assert answer.headers["retry-after"]
    assert server.wait() == 0


def test_a_second_signal_after_all_was_settled_is_no_forced_stop(serve: Serve) -> None:
    """Nobody is waited for any more, but nothing was cut: the exit code says so, and so does the next start."""
    server = serve()
    with server.connect() as client:
        answer = begin(client)
        assert answer.next()["ok"]
        server.signal(signal.SIGTERM)
        server.event("stop.phase", phase="stopped")
        started = time.monotonic()
        server.signal(signal.SIGINT)
        assert server.wait() == 0
        assert time.monotonic() - started < 2.5
        assert answer.complete().end["reason"] == "draining"
    assert server.event("stop.ended")["forced"] is False


def test_a_stuck_process_exits_all_the_same(tmp_path: Any) -> None:
    """A step that blocks the event loop runs no timers: after `--grace` + `--hard` a thread ends the process."""
    (tmp_path / "stuck.py").write_text("import time\n\ndef stuck(value):\n    time.sleep(60)\n")
    (tmp_path / "orders.yaml").write_text("flow: orders\nsteps: [{tap: 'stuck:stuck'}]\n")
    flags = ("--port", 0, "--workers", 0, "--grace", 0.2, "--hard", 0.3, "--dead-letters", f"sqlite:///{tmp_path}/x.db")
    process = Process("serve", *flags, tmp_path)
    try:
        process.listen()
        with process.connect() as client:
            begin(client, 1)
            # Only what it does not do tells that it is stuck: it does not answer.
            with process.connect() as other:
                other.request("GET", "/health/live")
                other.sock.settimeout(0.5)
                with pytest.raises(TimeoutError):
                    other.line()
            process.signal(signal.SIGTERM)
            assert process.wait(10) == 1
        assert process.event("stop.hard")["level"] == "error"
    finally:
        process.close()


def test_a_store_that_hangs_does_not_keep_a_stop_from_its_report(serve: Serve) -> None:
    """The letters are not told as stored; the stop is told, with all accounts, and the writer is ended."""
    flags = ("--latency-scale", 0, "--grace", 0.5, "--hard", 8)
    server = serve(*flags, excused=("store.uncertain", "store.not_closed"))
    (writer,) = children_of(server.popen.pid)
    os.kill(writer, signal.SIGSTOP)
    with server.connect() as client:
        begin(client, 1, start=3)
        until(lambda: server.metric("penstock_in_flight") == 1)
        server.signal(signal.SIGTERM)
        assert server.wait() == 1
    assert server.event("stop.ended")["cancelled"] == 1
    assert server.said("store.not_closed")
    assert not server.said("stop.hard")
    until(lambda: not running(writer))
