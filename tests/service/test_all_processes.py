"""One service of two processes: each request is answered for both of them, whichever receives it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from penstock.observe import SERIES
from penstock_http.aggregate.supervision import SERIES as SUPERVISION_SERIES
from service.conftest import Serve
from service.processes import Process, until
from service.test_metrics import UNUSED
from service.test_openapi import check
from service.wire import NDJSON, orders

FLAGS = ("--processes", 2, "--process-timeout", 3600)

YAML = {"Content_Type": "application/yaml"}
OPENMETRICS = "application/openmetrics-text; version=1.0.0"
ABSENT = UNUSED | {
    "penstock_worker_unavailable_seconds",
    "penstock_http_rejected_total",
    "penstock_worker_restarts_total",
    "penstock_worker_reschedules_total",
}
"""Also those of workers and rejected requests, which not every process has here."""

NUMBERS = {"1", "2"}


def by_process(server: Process, name: str, **labels: str) -> dict[str, float]:
    """The values of a series by process."""
    lines = server.request("GET", "/metrics").body.decode().splitlines(keepends=True)
    text = "".join(line for line in lines if line.startswith(name))
    return {
        sample.labels["process"]: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    }


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """Stop a process in a block."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.fixture(scope="module")
def sent(server: Process) -> int:
    """Send orders until both processes have received some. Returns how many were sent."""

    def send() -> bool:
        nonlocal requests
        requests += 1
        assert server.request("POST", "/orders/bulk", orders(30), Content_Type=NDJSON).end["failed"] == 10
        received = by_process(server, "penstock_received_total", flow="orders")
        return received.keys() == NUMBERS and all(received.values())

    requests = 0
    until(send)
    return 30 * requests


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
def test_metrics_have_the_series_of_all_processes(server: Process, sent: int, accept: str) -> None:
    """With the label `process`, and with those of the parent, in both formats."""
    response = server.request("GET", "/metrics", Accept=accept)
    assert response.headers["content-type"].startswith("application/openmetrics-text" if accept else "text/plain")
    parse = openmetrics.text_string_to_metric_families if accept else text_string_to_metric_families
    families = list(parse(response.body.decode()))
    processes: dict[str, set[str]] = {}
    for family in families:
        for sample in family.samples:
            if sample.name != "penstock_process_restarts_total":
                processes.setdefault(sample.name, set()).add(sample.labels["process"])
    there = {s for s in SERIES if {s, f"{s}_bucket"} & processes.keys()}
    assert set(SERIES) - there <= ABSENT
    assert all(processes.get(series, processes.get(f"{series}_bucket")) == NUMBERS for series in there - ABSENT)
    assert processes["process_resident_memory_bytes"] == NUMBERS | {"parent"}
    assert set(SUPERVISION_SERIES) <= {s.name for family in families for s in family.samples}
    assert by_process(server, "penstock_process_up") == {"1": 1, "2": 1}


def test_flows_have_the_sums_of_all_processes(server: Process, sent: int) -> None:
    """Counts, services and the graph."""
    for _ in range(4):  # each process answers some of them
        described = server.request("GET", "/flows/orders").json()
        assert (described["received"], described["settled"]["failed"]) == (sent, sent // 3)
        assert (described["processes"], described["missing"]) == ([1, 2], [])
        pricing = next(each for each in described["services"] if each["name"] == "pricing")
        assert pricing["calls"]["ok"] == sent
        assert [each["process"] for each in pricing["processes"]] == [1, 2]
        assert server.request("GET", "/flows").json()["flows"][0]["received"] == sent
        graph = server.request("GET", "/flows/orders/graph").body.decode()
        assert f"{sent} received" in graph
        assert f"{sent} calls" in graph


def test_an_open_run_is_known_to_every_process(server: Process) -> None:
    """Its failures are requested before any item has failed."""
    with server.connect() as client:
        client.upload()
        response = client.response()
        run = response.headers["penstock-run"]
        for _ in range(6):
            failures = server.request("GET", f"/runs/{run}/failures", Accept=NDJSON)
            assert (failures.status, failures.body) == (200, b"")
        client.chunk(b"")
        assert response.complete().end["received"] == 0
    assert server.request("GET", "/runs/01a22f0e-6127-746c-9840-011ecc14d8c5/failures").status == 404


def test_a_redrive_can_be_followed_from_every_process(server: Process, sent: int) -> None:
    """Its events and its state are read from the store that all of them use."""
    query = {"query": {"flow": "orders", "state": "waiting"}, "limit": 2}
    created = server.request(
        "POST", "/dead-letters/redrives", json.dumps(query).encode(), Content_Type="application/json"
    )
    assert created.status == 201, created.body
    path = created.headers["location"]
    for _ in range(4):
        events = server.request("GET", path, Accept="text/event-stream").body
        assert b"event: end" in events
        assert server.request("GET", path).json()["state"] != "running"


def test_an_upload_is_answered_when_every_process_has_it(server: Process) -> None:
    """So the next request finds it wherever it goes; after a deletion it finds it nowhere."""
    text = b"flow: up\nsamples: {n: seq}\nsteps:\n  - set: {mark: '1'}\n"
    created = server.request("PUT", "/flows/up", text, **YAML)
    assert (created.status, created.json()["revision"]) == (201, 1)
    assert by_process(server, "penstock_flow_revision", flow="up") == {"1": 1, "2": 1}
    assert [server.request("GET", "/up/bulk?count=1").end["ok"] for _ in range(6)] == [1] * 6
    assert server.request("PUT", "/flows/up", text.replace(b"'1'", b"1 +"), **YAML).status == 422
    assert by_process(server, "penstock_flow_revision", flow="up") == {"1": 1, "2": 1}
    assert server.request("PUT", "/flows/other", text, **YAML).json()["code"] == "name_mismatch"
    assert server.request("DELETE", "/flows/up").json()["outcome"] == "removed"
    assert [server.request("GET", "/up/bulk?count=1").status for _ in range(6)] == [404] * 6


def test_the_description_of_the_api_describes_several_processes(server: Process) -> None:
    """The documents that name processes are as described, with their members."""
    spec = server.request("GET", "/openapi.json").json()
    for path in ("/health/ready", "/flows", "/flows/orders"):
        response = server.request("GET", path)
        assert "processes" in response.json()
        check(spec, response, "GET", path.replace("orders", "{name}"))


def test_a_frozen_process_is_missing_and_the_service_is_ready(server: Process, sent: int) -> None:
    """The other one answers for the service, and says so."""
    with frozen(server.members()[1]):
        up = until(lambda: (found := by_process(server, "penstock_process_up")).get("1") != found.get("2") and found)
        (answering,) = (number for number, value in up.items() if value)
        ready: Any = server.request("GET", "/health/ready")
        assert (ready.status, ready.json()["status"]) == (200, "ready")
        assert {each["status"] for each in ready.json()["processes"]} == {"ready", "no_answer"}
        assert by_process(server, "penstock_received_total", flow="orders").keys() == {answering}
        described = server.request("GET", "/flows").json()
        assert described["processes"] == [int(answering)]
        assert described["missing"] == [3 - int(answering)]
    until(lambda: by_process(server, "penstock_process_up") == {"1": 1, "2": 1})


def test_processes_that_are_replaced_serve_what_the_others_serve(serve: Serve, tmp_path: Path) -> None:
    """Files that changed, and uploads: after a change, after one process was killed, and after a reload of all."""

    def write(mark: int) -> None:
        draft = tmp_path / "draft"
        draft.write_text(f"flow: filed\nsteps:\n  - set: {{mark: '{mark}'}}\n")
        draft.replace(folder / "filed.yaml")

    def have(**revisions: int) -> bool:
        """Whether two processes respond, and serve these revisions."""
        up = by_process(server, "penstock_process_up")
        found = [by_process(server, "penstock_flow_revision", flow=flow) for flow in revisions]
        expected = [dict.fromkeys(up, revision) for revision in revisions.values()]
        return list(up.values()) == [1, 1] and found == expected

    folder = tmp_path / "flows"
    folder.mkdir()
    write(1)
    server = serve("--processes", 2, "--watch", folder)
    assert have(filed=1)
    write(2)
    until(lambda: have(filed=2))
    assert server.request("PUT", "/flows/up", b"flow: up\n", **YAML).status == 201
    assert server.request("PUT", "/flows/up", b"flow: up\nkey: n\n", **YAML).json()["revision"] == 2
    before = set(server.members().values())
    os.kill(min(before), signal.SIGKILL)
    until(lambda: have(filed=2, up=2))
    assert server.metric("penstock_process_restarts_total", reason="crashed") == 1
    server.signal(signal.SIGHUP)
    server.event("reload.completed", cause="signal")
    until(lambda: have(filed=2, up=2) and before.isdisjoint(server.members().values()))
    assert server.request("DELETE", "/flows/up").status == 200
    assert have(filed=2)
    assert by_process(server, "penstock_flow_revision", flow="up") == {}
