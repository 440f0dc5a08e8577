"""Shutdown: graceful first, forced after a timeout, and reported in the log."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from service.conftest import Serve
from service.processes import Process, simulating, until
from service.wire import NDJSON, Client, orders
from stores.children import children_of, command_of, running, writers_of

SLOW = ("--latency-scale", 1000, "--grace-period", 60)
"""Orders are in flight for 20 s, up to their second timeout, then fail: one that is cancelled was not waited for."""


def begin(client: Client, count: int = 3, start: int = 1) -> Any:
    """Start an upload with some orders, and leave it open."""
    client.upload()
    response = client.response()
    client.chunk(orders(count, start=start))
    return response


def refuses(server: Process) -> bool:
    """Return whether new connections are refused."""
    try:
        socket.create_connection((server.host, server.port), 2).close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_an_open_stream_is_drained(serve: Serve, number: signal.Signals) -> None:
    """What is in flight is finished, the end record says `draining`, and the exit code is 0."""
    server = serve("--latency-scale", 20, "--grace-period", 60)
    with server.connect() as client, server.connect() as idle:
        idle.request("GET", "/health/ready")
        assert idle.response().complete().status == 200
        response = begin(client, 6)
        until(lambda: server.metric("penstock_in_flight") == 6, period=0.1)
        server.signal(number)
        until(lambda: refuses(server))
        end = response.complete().end
        assert (end["reason"], end["received"], end["ok"], end["failed"], end["cancelled"]) == ("draining", 6, 4, 2, 0)
        assert not response.cut
    assert server.wait() == 0
    report = server.event("shutdown.completed")
    assert (report["forced"], report["runs"], report["reasons"]) == (False, 1, {"draining": 1})
    assert (report["received"], report["ok"], report["failed"], report["cancelled"]) == (6, 4, 2, 0)
    assert len(server.logged("shutdown.completed")) == 1


def test_a_client_can_continue_with_the_next_process(serve: Serve) -> None:
    """`received` is the number of items to skip. Sent to two processes like this, each item has one result."""
    count = 20_000
    lines = orders(count).splitlines(keepends=True)
    first = serve()
    with first.connect(receive_buffer=65_536) as client:
        client.request("POST", "/orders/bulk", Content_Type=NDJSON, Content_Length=str(sum(map(len, lines))))
        response = client.response()
        client.push(b"".join(lines), 0.1)
        response.next()
        first.signal(signal.SIGTERM)
        response.complete()
    received = response.end["received"]
    assert response.end["reason"] == "draining"
    assert 0 < received < count
    assert first.wait() == 0
    second = serve()
    rest = second.request("POST", "/orders/bulk", b"".join(lines[received:]), Content_Type=NDJSON)

    def ids(records: list[dict[str, Any]]) -> list[int]:
        return [record["value"]["orderId"] if record["ok"] else record["key"] for record in records]

    assert sorted(ids(response.results) + ids(rest.results)) == list(range(1, count + 1))


def test_readiness_fails_while_draining(serve: Serve) -> None:
    """On an open connection: ready is 503, live is 200, and a new stream is rejected as `shutting_down`."""
    server = serve(*SLOW)
    kept = [server.connect() for _ in range(3)]
    with server.connect() as client:
        begin(client)
        until(lambda: server.metric("penstock_in_flight") == 3, period=0.1)
        server.signal(signal.SIGTERM)
        server.event("shutdown.phase", phase="draining")
        responses = []
        for connection, path in zip(kept, ("/health/ready", "/health/live", "/orders/bulk"), strict=True):
            with connection:
                connection.request("GET", path)
                responses.append(connection.response().complete())
    ready, live, bulk = responses
    assert (ready.status, ready.json()) == (503, {"status": "draining"})
    assert live.status == 200
    assert (bulk.status, bulk.json()["code"], "retry-after" in bulk.headers) == (503, "shutting_down", True)


def test_the_grace_period_ends_with_an_abort(serve: Serve) -> None:
    """The remaining elements are cancelled, not failed; the stream is cut and the exit code is 1."""
    with simulating("--hang-rate", 1) as hanging:
        server = serve(
            "--grace-period", 0.3, "--pricing-url", f"http://{hanging.host}:{hanging.port}/prices/{{orderId}}"
        )
        with server.connect() as client:
            response = begin(client)
            until(lambda: server.metric("penstock_in_flight") == 3, period=0.1)
            started = time.monotonic()
            server.signal(signal.SIGTERM)
            assert response.complete().cut
            assert server.wait() == 1
            assert time.monotonic() - started >= 0.3
        report = server.event("shutdown.completed")
        assert (report["forced"], report["reasons"], report["cancelled"]) == (True, {"aborted": 1}, 3)
        assert report["failed"] == 0
        calls = hanging.request("GET", "/statistics").json()["prices"]
        assert (calls["begun"], calls["cancelled"]) == (3, 3)


def test_a_second_signal_aborts_at_once(serve: Serve) -> None:
    """Without waiting for `--grace-period`."""
    server = serve(*SLOW)
    with server.connect() as client:
        response = begin(client)
        until(lambda: server.metric("penstock_in_flight") == 3, period=0.1)
        server.signal(signal.SIGTERM)
        server.event("shutdown.phase", phase="draining")
        server.signal(signal.SIGINT)
        assert response.complete().cut
        assert server.wait() == 1
    assert server.event("shutdown.completed")["cancelled"] == 3


def test_two_signals_at_once_abort(serve: Serve) -> None:
    """However soon the second one comes, it aborts; the log stays valid JSON."""
    server = serve(*SLOW)
    with server.connect() as client:
        response = begin(client)
        until(lambda: server.metric("penstock_in_flight") == 3, period=0.1)
        server.signal(signal.SIGTERM)
        server.signal(signal.SIGINT)
        assert server.wait() == 1
        assert response.complete().cut
    assert server.event("shutdown.completed")["cancelled"] == 3
    assert server.noise == []


def test_an_idle_connection_does_not_delay_the_shutdown(serve: Serve) -> None:
    """Idle connections, used or not, are closed at once."""
    server = serve("--keep-alive", 600, "--grace-period", 600)
    with server.connect() as idle, server.connect():
        idle.request("GET", "/health/live")
        idle.response().complete()
        server.signal(signal.SIGTERM)
        assert server.wait() == 0


def test_a_client_that_keeps_sending_receives_the_end_record(serve: Serve) -> None:
    """Closing would reset its connection and might lose the end record, so the server keeps reading for a while."""
    server = serve()
    with server.connect() as client:
        response = begin(client)
        assert response.next()["ok"]
        server.signal(signal.SIGTERM)
        for number in range(20):
            try:
                client.chunk(orders(100, start=1000 * number))
            except OSError:
                break
        assert response.complete().end["reason"] == "draining"
    assert server.wait() == 0


def test_a_connection_in_the_backlog_gets_a_response(serve: Serve) -> None:
    """It waits in the backlog of the kernel when the signal arrives, with more others than one iteration accepts."""
    server = serve()
    with ExitStack() as stack:
        server.signal(signal.SIGSTOP)
        clients = [stack.enter_context(server.connect()) for _ in range(100)]
        for client in clients:
            client.request("GET", "/health/ready")
        server.signal(signal.SIGTERM)
        server.signal(signal.SIGCONT)
        statuses = {client.response().complete().status for client in clients}
    assert statuses <= {200, 503}
    assert server.wait() == 0


def test_an_array_that_is_still_arriving_is_rejected(serve: Serve) -> None:
    """None of it was processed, and the client learns it at once."""
    server = serve()
    with server.connect() as client:
        headers = {"Content_Type": "application/json", "Content_Length": "1000", "Expect": "100-continue"}
        client.request("POST", "/orders/bulk", **headers)
        assert client.response().status == 100
        client.send(b'[{"orderId":1},')  # the response is the same whether it is read before or after the signal
        server.signal(signal.SIGTERM)
        response = client.response().complete()
    assert (response.status, response.json()["code"]) == (503, "shutting_down")
    assert response.headers["retry-after"]
    assert server.wait() == 0


def test_a_second_signal_after_the_last_run_is_not_a_forced_shutdown(serve: Serve) -> None:
    """It only skips waiting for clients; nothing is cut, and the exit code is 0."""
    server = serve()
    with server.connect() as client:
        response = begin(client)
        assert response.next()["ok"]
        server.signal(signal.SIGTERM)
        server.event("shutdown.phase", phase="stopped")
        server.signal(signal.SIGINT)
        assert server.wait() == 0
        assert response.complete().end["reason"] == "draining"
    assert server.event("shutdown.completed")["forced"] is False


# Each blocks the event loop; the second one also blocks other threads, and the third one also signal handlers.
STUCK = """
import re, time, asyncio, pathlib

BEGUN = pathlib.Path(__file__).with_name("begun")
MAY_BEGIN = pathlib.Path(__file__).with_name("may_begin")

def in_python(value):
    BEGUN.touch()
    time.sleep(60)

def in_c_with_signals(value):
    BEGUN.touch()
    re.match("(a|a)+$", "a" * 60 + "b")

def in_c(value):
    BEGUN.touch()
    sum(range(10**12))

async def in_c_later(value):
    BEGUN.touch()
    while not MAY_BEGIN.exists():
        await asyncio.sleep(0.01)
    sum(range(10**12))
"""
SERVICE = "services: {later: {call: 'stuck:in_c_later', timeout: 60s}}\n"


@pytest.fixture
def stuck(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Start a server that processes an order with a function of `STUCK`."""
    with ExitStack() as stack:

        def start(step: str, *flags: object) -> Process:
            (tmp_path / "stuck.py").write_text(STUCK)
            (tmp_path / "orders.yaml").write_text(f"flow: orders\n{SERVICE}steps: [{step}]\n")
            usual = ("--port", 0, "--workers", 0, "--dead-letters", f"sqlite:///{tmp_path}/x.db")
            process = Process("serve", *usual, *flags, tmp_path)
            stack.callback(process.close)
            process.listen()
            begin(stack.enter_context(process.connect()), 1)
            until((tmp_path / "begun").exists)
            if "stuck:in_c" in step:
                spend(process.pid, 0.1)
            return process

        yield start


def spend(pid: int, seconds: float) -> None:
    """Wait until a process has used processor time: on a busy machine it comes late from its last line into C code."""
    stat = Path(f"/proc/{pid}/stat")
    if stat.exists():
        begun = used(stat)
        until(lambda: used(stat) >= begun + seconds)


def used(stat: Path) -> float:
    """Return the processor time of a process, in seconds."""
    user, system = stat.read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize(("function", "code"), [("in_python", 1), ("in_c_with_signals", 1), ("in_c", -signal.SIGKILL)])
def test_a_stuck_process_exits_in_time(stuck: Callable[..., Process], function: str, code: int) -> None:
    """After `--grace-period` + `--exit-timeout`, even if no Python code can run; the log shows where it is stuck."""
    process = stuck(f"{{tap: 'stuck:{function}'}}", "--grace-period", 0.2, "--exit-timeout", 0.3)

    process.signal(signal.SIGTERM)

    assert process.wait() == code
    if function == "in_python":
        assert process.event("shutdown.deadline_exceeded")["level"] == "error"
    else:
        assert any(f"in {function}" in line for line in process.noise)


def test_a_process_that_gets_stuck_during_shutdown_exits_in_time(stuck: Callable[..., Process], tmp_path: Path) -> None:
    """The watchdog that the first signal started needs no Python code; the exit code is that of a forced shutdown."""
    process = stuck("{map_async: later}", "--grace-period", 1, "--exit-timeout", 1)

    process.signal(signal.SIGTERM)
    process.event("shutdown.phase", phase="draining")
    (tmp_path / "may_begin").touch()

    assert process.wait() == 1
    assert any("in in_c_later" in line for line in process.noise)


@pytest.mark.parametrize(("function", "code"), [("in_python", 1), ("in_c_with_signals", 1), ("in_c", -signal.SIGKILL)])
def test_a_third_signal_kills_a_stuck_process(stuck: Callable[..., Process], function: str, code: int) -> None:
    """Long before `--grace-period` is over."""
    process = stuck(f"{{tap: 'stuck:{function}'}}", "--grace-period", 1000, "--exit-timeout", 1000)

    for _ in range(3):
        process.signal(signal.SIGTERM)
        await_delivery(process.pid, signal.SIGTERM)

    assert process.wait() == code


def await_delivery(pid: int, number: int) -> None:
    """Wait until a process has received a signal: the kernel merges equal signals that it has not received yet."""
    status = Path(f"/proc/{pid}/status")

    def pending() -> int:
        try:
            text = status.read_text()
        except OSError:  # it has ended
            return 0
        words = re.findall(r"^(?:SigPnd|ShdPnd):\s*([0-9a-f]+)$", text, re.MULTILINE)
        return sum(int(word, 16) >> (number - 1) & 1 for word in words)

    until(lambda: not pending())
    time.sleep(0.1)  # then Python calls its handler, and merges equal signals too


def test_shutdown_works_without_the_guard_process(serve: Serve) -> None:
    """A signal still starts the shutdown at once, and every element is settled."""
    server = serve()
    (guard,) = (pid for pid in children_of(server.pid) if b"guard.py" in command_of(pid))

    os.kill(guard, signal.SIGKILL)
    server.event("shutdown.guard_unavailable")
    server.signal(signal.SIGTERM)

    assert server.wait() == 0


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGKILL])
def test_the_guard_process_ends_with_the_service(serve: Serve, ending: signal.Signals) -> None:
    """However the service ends."""
    server = serve()
    (guard,) = (pid for pid in children_of(server.pid) if b"guard.py" in command_of(pid))

    server.signal(ending)
    server.wait()

    until(lambda: not running(guard))


def test_a_hanging_store_does_not_prevent_the_shutdown_report(serve: Serve) -> None:
    """Its dead letters are not reported as stored; the report has all counts, and the writer process is killed."""
    flags = ("--latency-scale", 0, "--grace-period", 0.5, "--exit-timeout", 60)
    server = serve(*flags, excused=("store.write_uncertain", "store.close_failed"))
    server.post({"orderId": 3})  # the writer starts with the first dead letter
    (writer,) = writers_of(server.popen.pid)
    os.kill(writer, signal.SIGSTOP)
    with server.connect() as client:
        begin(client, 1, start=3)
        until(lambda: server.metric("penstock_in_flight") == 1, period=0.1)
        server.signal(signal.SIGTERM)
        assert server.wait() == 1
    assert server.event("shutdown.completed")["cancelled"] == 1
    assert server.logged("store.close_failed")
    assert not server.logged("shutdown.deadline_exceeded")
    until(lambda: not running(writer))
