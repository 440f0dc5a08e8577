"""What clients see while a service that the flow calls is down."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import unused_port

from service.conftest import Serve
from service.processes import Process, simulating, until
from service.wire import orders

STALL = 0.5
"""The stall timeout of the servers here, in seconds. The kernel drops a client that reads nothing 5 s after it."""

FLOW = """
flow: orders
key: orderId
item: {{orderId: integer}}
samples: {{orderId: seq}}
window: 64
services:
  pricing:
    get: http://127.0.0.1:{port}/prices/{{orderId}}
    attempts: 1000
    backoff: none
    breaker: {breaker}
steps:
{steps}
serve: {serve}
"""

QUICK = "{failures: 5, open: 200ms, max_open: 200ms}"
ENRICH = "- enrich: [pricing]"
ODD_ONES = """
- route:
    odd: {when: value.orderId % 2 == 1, steps: [{enrich: [pricing]}]}
"""

SSE = "text/event-stream"

Start = Callable[..., Process]


@pytest.fixture
def port() -> int:
    """The port of the service that is down, or not."""
    return unused_port()


@pytest.fixture
def start(serve: Serve, tmp_path: Path, port: int) -> Start:
    """Starts a server with a flow whose service is down."""

    def start(*flags: object, breaker: str = QUICK, steps: str = ENRICH, serving: str = "true") -> Process:
        file = tmp_path / "orders.yaml"
        file.write_text(FLOW.format(port=port, breaker=breaker, steps=steps, serve=serving))
        return serve(file, "--stall-timeout", STALL, *flags)

    return start


@contextmanager
def recovered(port: int) -> Generator[Process]:
    """Run the service."""
    with simulating("--port", port) as service:
        yield service


def pricing(server: Process) -> dict[str, Any]:
    """The service, as `GET /flows/orders` shows it."""
    found: dict[str, Any] = server.request("GET", "/flows/orders").json()["services"][0]
    return found


def is_open(server: Process) -> bool:
    """Return whether the circuit breaker is not closed."""
    return bool(pricing(server)["breaker"]["state"] != "closed")


def test_a_stream_waits_until_the_service_is_back(start: Start, port: int) -> None:
    """However long that is: the stall clock does not run. Nothing fails."""
    server = start()
    with server.connect() as client:
        client.upload()
        response = client.response()
        client.chunk(orders(200))
        until(lambda: is_open(server))
        time.sleep(3 * STALL)
        with recovered(port):
            client.chunk(b"")
            response.complete()
    assert (response.end["reason"], response.end["ok"], response.cut) == ("completed", 200, False)
    assert not server.logged("stream.stalled")


def test_a_client_that_does_not_read_stalls(start: Start) -> None:
    """The outage is no reason not to read the results that are there."""
    server, upload = start("--send-buffer", 16_384, steps=ODD_ONES), b"".join(map(bulky, range(1000)))
    with server.connect(receive_buffer=4096) as client:
        client.upload()
        run = client.response().headers["penstock-run"]
        client.push(upload, 0.3)
        assert server.event("stream.stalled", run=run)["stalled_on"] == "reader"
        ended = server.event("run.ended", run=run)
    assert ended["received"] == ended["ok"] + ended["cancelled"]


def bulky(number: int) -> bytes:
    """A chunk of an upload: an order of 16 KiB."""
    line = json.dumps({"orderId": number, "note": "x" * 16_384}).encode() + b"\n"
    return b"%x\r\n%b\r\n" % (len(line), line)


def test_a_client_that_leaves_is_noticed(start: Start) -> None:
    """Although nothing is sent to it and its body is not read. Its orders are cancelled."""
    server = start()
    with server.connect() as client:
        client.upload()
        run = client.response().headers["penstock-run"]
        client.chunk(orders(200))
        until(lambda: is_open(server))
    ended = server.event("run.ended", run=run)
    assert (ended["reason"], ended["failed"], ended["cancelled"]) == ("disconnected", 0, 64)


def test_event_sources_receive_comments(start: Start, port: int) -> None:
    """They say which service the run waits for, and come between two records."""
    server = start()
    with server.connect() as client:
        client.request("GET", "/orders/bulk?count=100", Accept=SSE)
        response = client.response()
        lines = response.raw_lines()
        assert next(line for line in lines if line.startswith(b":")) == b": waiting for pricing"
        with recovered(port):
            response.complete()
    blocks = response.body.strip().split(b"\n\n")
    records = [block for block in blocks if not block.startswith((b":", b"retry"))]
    assert [block.split(b"\n")[0] for block in records] == [*[b"event: result"] * 100, b"event: end"]
    assert all(json.loads(block.split(b"data: ")[1]) for block in records)


def test_ndjson_has_no_comments(start: Start, port: int) -> None:
    """A line of NDJSON is a record."""
    server = start()
    with server.connect() as client:
        client.request("GET", "/orders/bulk?count=10")
        response = client.response()
        until(lambda: is_open(server))
        time.sleep(STALL)
        with recovered(port):
            response.complete()
    assert (len(response.lines()), response.end["ok"]) == (11, 10)


def test_a_document_waits_too(start: Start, port: int) -> None:
    """A response that is not streamed is not cut by the stall clock."""
    server = start()
    body = json.dumps([{"orderId": number + 1} for number in range(10)]).encode()
    with server.connect() as client:
        client.request("POST", "/orders/bulk", body, Content_Type="application/json", Accept="application/json")
        until(lambda: is_open(server))
        time.sleep(3 * STALL)
        with recovered(port):
            response = client.response().complete()
    assert (response.status, response.json()["end"]["ok"]) == (200, 10)


def test_requests_are_refused_if_the_flow_says_so(start: Start, port: int) -> None:
    """With 503 and the time until the next probe. Open streams wait, and later requests are accepted."""
    breaker = "{failures: 5, open: 2s, max_open: 2s}"
    server = start(breaker=breaker, serving="{refuse_when_open: true}")
    with server.connect() as client:
        client.request("GET", "/orders/bulk?count=10")
        response = client.response()
        until(lambda: is_open(server))
        refused = server.post({"orderId": 1})
        assert (refused.status, refused.json()["code"]) == (503, "service_unavailable")
        assert 1 <= int(refused.headers["retry-after"]) <= 3
        with recovered(port):
            response.complete()
            assert response.end["ok"] == 10
            assert server.post({"orderId": 1}).end["ok"] == 1
    assert server.metric("penstock_http_rejected_total", reason="service_unavailable") == 1


def test_a_refusing_flow_recovers_without_open_streams(start: Start, port: int) -> None:
    """A probe needs a call: when one is due, requests are accepted."""
    server = start(serving="{refuse_when_open: true}")
    with server.connect() as client:
        client.request("GET", "/orders/bulk?count=10")
        client.response()
        until(lambda: is_open(server))
    with recovered(port):
        until(lambda: server.post({"orderId": 1}).status == 200)
    until(lambda: not is_open(server))


def test_the_state_of_a_service_is_shown(start: Start, port: int) -> None:
    """`GET /flows/NAME` has the calls and the circuit breaker. The service itself stays ready."""
    server = start()
    before = pricing(server)
    assert before["breaker"] == {"state": "closed", "opened": 0, "openSeconds": 0, "nextProbeSeconds": None}
    assert (before["limit"], before["waiting"], before["pacedSeconds"]) == (256, 0, 0)
    with server.connect() as client:
        client.request("GET", "/orders/bulk?count=64")
        response = client.response()
        down = until(lambda: (found := pricing(server))["breaker"]["state"] == "open" and found)
        assert (down["limit"], down["breaker"]["opened"] > 0, down["breaker"]["openSeconds"] > 0) == (0, True, True)
        assert down["waiting"] + down["inFlight"] == 64
        assert 0 <= down["breaker"]["nextProbeSeconds"] <= 1
        assert server.request("GET", "/health/ready").status == 200
        with recovered(port):
            response.complete()
    assert (response.end["ok"], pricing(server)["breaker"]["state"]) == (64, "closed")


def test_a_shutdown_ends_waiting_runs(start: Start) -> None:
    """The drain waits for what is in flight, up to its deadline. Then that is cancelled, and is no dead letter."""
    server = start("--grace-period", 1)
    with server.connect() as client:
        client.request("GET", "/orders/bulk?count=10")
        response = client.response()
        until(lambda: is_open(server))
        server.signal(signal.SIGTERM)
        assert server.wait() == 1
        response.complete()
    report = server.event("shutdown.completed")
    assert (report["forced"], report["failed"], report["cancelled"]) == (True, 0, 10)


def test_a_second_signal_ends_waiting_runs_at_once(start: Start) -> None:
    """As always."""
    server = start("--grace-period", 60)
    with server.connect() as client:
        client.request("GET", "/orders/bulk?count=10")
        client.response()
        until(lambda: is_open(server))
        server.signal(signal.SIGTERM)
        server.event("shutdown.phase", phase="draining")
        server.signal(signal.SIGTERM)
        assert server.wait(20) == 1
