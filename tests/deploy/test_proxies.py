"""nginx and Caddy in front of a real service: streams in both directions, and no request is lost or repeated."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from deploy.proxies import proxy, validate
from nginx import free_port
from service.processes import Process, serving
from service.wire import Client, orders

KINDS = [pytest.param("nginx", marks=pytest.mark.nginx), pytest.param("nginx-http", marks=pytest.mark.nginx), "caddy"]

SLOW = b"""
flow: slow
steps: [{throttle: 1/h}]
samples: {id: seq}
dead_letters: memory
"""
"""A flow whose second result takes an hour."""

LARGE = 30_000
"""Orders of a large upload, of 1 KiB each: more than proxies accept or keep in memory by default."""


class Front(NamedTuple):
    """A service and the proxy in front of it."""

    kind: str
    service: Process
    port: int

    def connect(self) -> Client:
        """Open a connection to the proxy."""
        return Client("127.0.0.1", self.port)


@pytest.fixture(scope="module", params=KINDS)
def front(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """One service behind each of the proxies, which fail over from a node that nobody listens on."""
    with ExitStack() as stack:
        service = stack.enter_context(serving(tmp_path_factory.mktemp("served")))
        service.request("PUT", "/flows/slow", SLOW, Content_Type="application/yaml")
        nodes = [f"127.0.0.1:{free_port()}", f"127.0.0.1:{service.port}"]
        port = stack.enter_context(proxy(request.param, tmp_path_factory.mktemp(request.param), *nodes))
        yield Front(request.param, service, port)


@pytest.mark.parametrize("kind", KINDS)
def test_the_program_accepts_its_configuration(kind: str, tmp_path: Path) -> None:
    """As it is in the repository: with the public name and TLS."""
    validate(kind, tmp_path)


def test_results_arrive_during_the_upload(front: Front) -> None:
    """The first result is there before the second order is sent."""
    with front.connect() as client:
        client.upload()
        client.chunk(orders(1))
        response = client.response()
        assert response.next()["seq"] == 0
        client.chunk(orders(1, start=2))
        assert response.next()["seq"] == 1
        client.chunk(b"")
        assert response.complete().end["received"] == 2


def test_events_arrive_during_the_upload(front: Front) -> None:
    """The same as server-sent events."""
    with front.connect() as client:
        client.upload(Accept="text/event-stream")
        client.chunk(orders(1))
        response = client.response()
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = response.raw_lines()
        assert next(line for line in lines if line.startswith(b"event:")) == b"event: result"
        client.chunk(b"")
        assert b"event: end" in list(lines)


def test_a_large_upload_passes(front: Front) -> None:
    """Of a client that sends while it reads. As an HTTP proxy, nginx rejects it: it would stand still."""
    if front.kind == "nginx-http":
        with front.connect() as client:
            client.request("POST", "/orders/bulk", Content_Type="application/x-ndjson", Content_Length="65537")
            assert client.response().status == 413
        return
    with front.connect() as client:
        client.upload()
        sending = threading.Thread(target=lambda: (client.chunk(orders(LARGE, padding=1000)), client.chunk(b"")))
        sending.start()
        response = client.response().complete()
        sending.join()
        assert response.end["received"] == LARGE


@pytest.mark.parametrize("during_upload", [True, False], ids=["sends", "has sent"])
def test_a_client_that_leaves_cancels_its_run(front: Front, *, during_upload: bool) -> None:
    """The proxy closes its own connection at once, also while there are no results, and Penstock cancels the run."""
    with front.connect() as client:
        if during_upload:
            client.upload("/slow/bulk")
            client.chunk(b'{"id":1}\n{"id":2}\n')
        else:
            client.request("GET", "/slow/bulk?count=2")
        response = client.response()
        run = response.headers["penstock-run"]
        response.next()
    assert front.service.event("run.ended", run=run)["reason"] == "disconnected"


def test_a_proxy_that_reads_http_is_not_this_machine(front: Front) -> None:
    """Without a token, dead letters are for this machine only, which requests through the proxy are not from.

    nginx.conf passes bytes on, which the service cannot notice: it says that a token is needed.
    """
    with front.connect() as client:
        client.request("GET", "/dead-letters")
        assert client.response().status == (200 if front.kind == "nginx" else 403)


def test_a_proxy_that_reads_http_keeps_metrics_private(front: Front) -> None:
    """It refuses them. The service has them."""
    with front.connect() as client:
        client.request("GET", "/metrics")
        assert client.response().status == (200 if front.kind == "nginx" else 403)
    assert front.service.request("GET", "/metrics").status == 200


def test_no_request_is_lost_to_a_node_that_is_down(front: Front) -> None:
    """One of the two nodes refuses connections. Requests with a body go to the other one."""
    for _ in range(6):
        with front.connect() as client:
            body = orders(3)
            client.request("POST", "/orders/bulk", body, Content_Type="application/x-ndjson")
            assert client.response().complete().end["received"] == 3
