"""`/metrics`, `/health` and `/flows`, and that their numbers agree."""

from __future__ import annotations

import re

import pytest
from prometheus_client import parser as text_format
from prometheus_client.openmetrics import parser as openmetrics

from penstock.observe import SERIES
from service.processes import Process, until
from service.wire import NDJSON, orders

FLAGS = ("--workers", 1)

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
UNUSED = {
    "penstock_service_connections",
    "penstock_service_connections_awaited",
    "penstock_sink_unreachable_seconds",
    "penstock_tls_certificate_expiry_timestamp_seconds",
}
"""Series of services over HTTP, brokers and TLS, which the sample orders do not use."""

OUTCOMES = ("ok", "failed", "filtered", "cancelled")


@pytest.fixture(scope="module")
def mixture(server: Process) -> dict[str, float]:
    """Run requests of all kinds. Returns the sums of their end records and log lines."""
    server.request("GET", "/orders/bulk?count=100")
    server.request("GET", "/orders/bulk?count=100", Accept="application/json")
    server.post({"orderId": 1}, {"orderId": "x"}, "no order", {"orderId": 3})
    server.request("POST", "/orders/bulk", b"", Content_Type=NDJSON)
    server.request("POST", "/orders/bulk", b"no gzip", Content_Type=NDJSON, Content_Encoding="gzip")
    server.request("POST", "/orders/bulk", b"[", Content_Type="application/json")
    with server.connect() as client:
        client.request("GET", "/orders/bulk?count=1000000")
        client.response().next()
        client.reset()
    with server.connect() as client:
        client.upload()
        response = client.response()
        client.chunk(orders(50))
        response.next()
        client.close()
    until(lambda: server.metric("penstock_runs_active") == 0, period=0.1)
    runs = until(lambda: len(found := server.logged("run.ended")) >= 6 and found)
    assert {run["reason"] for run in runs} >= {"completed", "disconnected"}
    return {name: sum(run[name] for run in runs) for name in ("received", *OUTCOMES)} | {"runs": len(runs)}


def test_every_element_is_accounted_for(server: Process, mixture: dict[str, float]) -> None:
    """received = ok + failed + filtered + cancelled, and the log, the metrics and the dead letters agree."""
    received = server.metric("penstock_received_total", flow="orders")
    settled = {outcome: server.metric("penstock_settled_total", outcome=outcome) for outcome in OUTCOMES}
    assert received == sum(settled.values()) == mixture["received"]
    assert settled == {outcome: mixture[outcome] for outcome in OUTCOMES}
    assert server.metric("penstock_dead_letters_total") == settled["failed"]
    assert server.metric("penstock_dead_letters_stored") == settled["failed"]
    assert server.metric("penstock_runs_total") == mixture["runs"]
    assert server.metric("penstock_in_flight") == server.metric("penstock_window_capacity") == 0
    described = server.request("GET", "/flows/orders").json()
    assert (described["received"], described["settled"], described["inFlight"]) == (received, settled, 0)


def test_every_attempt_has_a_duration(server: Process, mixture: dict[str, float]) -> None:
    """The histograms of a service count the attempts that the counters count, for every result."""
    for service in ("pricing", "inventory"):
        for result in ("ok", "error", "timeout", "cancelled"):
            labels = {"service": service, "result": result}
            calls = server.metric("penstock_service_calls_total", **labels)
            assert server.metric("penstock_service_duration_seconds_count", **labels) == calls
    assert server.metric("penstock_service_duration_seconds_count", service="inventory", result="error") > 0


@pytest.mark.parametrize("accept", ["", OPENMETRICS, "text/plain;version=0.0.4", "text/plain;version=x", "*/*"])
def test_metrics_can_be_parsed(server: Process, mixture: dict[str, float], accept: str) -> None:
    """By the strict OpenMetrics parser, and in the older text format; each series exists whose subject does."""
    response = server.request("GET", "/metrics", Accept=accept)
    strict = accept == OPENMETRICS
    assert response.headers["content-type"].startswith("application/openmetrics-text" if strict else "text/plain")
    parser = openmetrics if strict else text_format
    families = list(parser.text_string_to_metric_families(response.body.decode()))
    names = {sample.name for family in families for sample in family.samples}
    missing = {s for s in SERIES if not {s, f"{s}_total", f"{s}_bucket", f"{s}_info"} & names}
    assert missing == UNUSED
    assert all(family.documentation for family in families)


def test_clients_cannot_create_label_values(server: Process, mixture: dict[str, float]) -> None:
    """No label is an id, a path or a message."""
    for path in ("/a", "/b", "/orders/bulk?count=7", "/dead-letters/1", "/dead-letters/2", "/x/bulk"):
        server.request("GET", path)
    before = len(server.request("GET", "/metrics").body.splitlines())
    for number in range(20):
        for path in (f"/{number}", f"/x{number}/bulk", f"/dead-letters/{number}x", f"/flows/{number}"):
            server.request("GET", path)
        server.request(f"M{number}", "/")
        server.post({"orderId": f"bad {number}"})
    after = server.request("GET", "/metrics").body.decode()
    assert len(after.splitlines()) - before < 12
    assert not re.search(r"[0-9a-f]{8}-[0-9a-f]{4}-7", after)


def test_requests_are_counted_by_route_method_and_status(server: Process) -> None:
    """Each response counts once. Rejections count in `http_rejected_total` by reason, too."""

    def counted(**labels: str) -> float:
        return server.metric("penstock_http_requests_total", **labels)

    bulk = {"route": "/{name}/bulk"}
    good, bad = counted(**bulk, method="GET", status="200"), counted(**bulk, method="GET", status="400")
    rejected = server.metric("penstock_http_rejected_total", reason="bad_parameter")
    server.request("GET", "/orders/bulk?count=1")
    server.request("GET", "/orders/bulk?count=0")
    assert counted(**bulk, method="GET", status="200") == good + 1
    assert counted(**bulk, method="GET", status="400") == bad + 1
    assert server.metric("penstock_http_rejected_total", reason="bad_parameter") == rejected + 1


def test_metrics_show_open_runs(server: Process) -> None:
    """Open runs, their elements in flight and their capacity are in the metrics before they end."""
    until(lambda: server.metric("penstock_runs_active") == 0, period=0.1)  # the worker has ended
    with server.connect() as client:
        client.upload()
        assert client.response().status == 200
        assert server.metric("penstock_runs_active", flow="orders", kind="http") == 1
        assert server.metric("penstock_window_capacity", flow="orders") == 256
        assert server.request("GET", "/flows/orders").json()["runs"] == {"http": 1}
        client.chunk(b"")
    until(lambda: server.metric("penstock_runs_active") == 0, period=0.1)


def test_health_is_live_and_ready(server: Process) -> None:
    """The responses must not be cached."""
    for name in ("live", "ready"):
        response = server.request("GET", f"/health/{name}")
        assert (response.status, response.json(), response.headers["cache-control"]) == (
            200,
            {"status": name},
            "no-store",
        )


def test_flows_are_described(server: Process) -> None:
    """Steps, services, window, and the dead-letter store."""
    response = server.request("GET", "/flows")
    assert response.headers["cache-control"] == "no-store"
    (flow,) = response.json()["flows"]
    assert (flow["name"], flow["path"], flow["key"]) == ("orders", "/orders/bulk", "orderId")
    assert flow["window"]["elements"] == 256
    assert [service["name"] for service in flow["services"]] == ["pricing", "inventory"]
    assert flow["deadLetters"].startswith("sqlite:///")


def test_build_info_has_the_versions(server: Process) -> None:
    """The versions of Penstock and Python are labels of a 1."""
    version = server.event("http.listening")["version"]
    assert server.metric("penstock_build_info", version=version) == 1
