"""Deadlines of requests, over real sockets: `Penstock-Deadline` and `Grpc-Timeout`."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from service.conftest import Serve
from service.processes import Process
from service.wire import NDJSON, Response, orders

FLAGS = ("--latency-scale", 30)
"""The services take seconds."""


def check(response: Response, items: int) -> None:
    """Check that all items exceeded the deadline, have dead letters, and are counted."""
    end = response.end
    assert (end["reason"], end["received"], end["failed"]) == ("completed", items, items)
    assert {record["error"]["type"] for record in response.results} == {"DeadlineExceeded"}
    assert all(record["deadLetter"] for record in response.results)
    assert len(response.results) == items


@pytest.mark.parametrize(
    "headers",
    [
        {"Penstock_Deadline": "300ms"},
        {"Grpc_Timeout": "300m"},
        {"Penstock_Deadline": "1h", "Grpc_Timeout": "300m"},
        {"Penstock_Deadline": "300ms", "Grpc_Timeout": "250000H"},
    ],
    ids=["seconds", "gRPC", "the second is earlier", "the first is earlier"],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_items_that_are_not_finished_in_time_fail(server: Process, method: str, headers: dict[str, str]) -> None:
    """Also those that wait for a free call; the stream ends as usual."""
    start = time.monotonic()
    if method == "GET":
        response = server.request("GET", "/orders/bulk?count=400", None, **headers)
    else:
        response = server.post(*({"orderId": number} for number in range(1, 401)), **headers)
    check(response, 400)
    assert 0.3 <= time.monotonic() - start < 5, "the services alone would take longer"


def test_items_that_are_received_after_the_deadline_fail_at_once(server: Process) -> None:
    """With their keys and dead letters, without a call."""
    with server.connect() as client:
        client.upload(Penstock_Deadline="300ms")
        client.chunk(orders(1))
        response = client.response("POST")
        assert response.next()["error"]["step"] in ("pricing", "inventory")
        client.chunk(orders(2, start=2))
        late = [response.next(), response.next()]
        client.chunk(b"")
        assert response.next()["end"] == {
            "reason": "completed",
            "received": 3,
            "ok": 0,
            "failed": 3,
            "filtered": 0,
            "cancelled": 0,
            "seconds": pytest.approx(0.5, abs=0.5),
        }
    assert [record["key"] for record in late] == [2, 3]
    assert {(record["error"]["step"], record["error"]["attempts"]) for record in late} == {("source", 0)}
    assert late[0]["error"]["message"] == "source: the deadline of 0.3 s passed before the item was received"


def test_a_document_says_the_same(server: Process) -> None:
    """With `Accept: application/json` and a JSON array."""
    response = server.request(
        "POST",
        "/orders/bulk",
        b'[{"orderId":1}]',
        Content_Type="application/json",
        Accept="application/json",
        Penstock_Deadline="200ms",
    )
    assert response.status == 207
    document = response.json()
    assert document["results"][0]["error"]["type"] == "DeadlineExceeded"
    assert document["end"]["failed"] == 1


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (
            {"Penstock_Deadline": "2"},
            "Penstock-Deadline: expected a duration such as 250ms, 2s or 1m30s, above 0, got '2'",
        ),
        ({"Penstock_Deadline": "0s"}, "Penstock-Deadline: expected a duration"),
        ({"Penstock_Deadline": ""}, "Penstock-Deadline: expected a duration"),
        ({"Penstock_Deadline": "2s, 3s"}, "Penstock-Deadline: expected a duration"),
        ({"Penstock_Deadline": "99999999d"}, "Penstock-Deadline: expected at most 1000000000 seconds; leave it out"),
        (
            {"Grpc_Timeout": "2s"},
            "grpc-timeout: expected an integer of at most 8 digits with a unit, such as 250m or 2S",
        ),
        ({"Grpc_Timeout": "123456789S"}, "grpc-timeout: expected an integer"),
        ({"Penstock_Deadline": "2s", "Grpc_Timeout": "\xff"}, "grpc-timeout: expected an integer"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_invalid_deadline_is_rejected(server: Process, method: str, headers: dict[str, str], expected: str) -> None:
    """Before anything is processed; the message says what is expected."""
    all_headers = {"Content_Type": NDJSON, **headers}
    response = server.request(method, "/orders/bulk", orders(1) if method == "POST" else None, **all_headers)
    document = response.json()
    assert (response.status, document["code"]) == (400, "invalid_deadline")
    assert document["detail"].startswith(expected)


def test_of_the_deadlines_of_a_flow_and_a_request_the_earlier_one_counts(serve: Serve, tmp_path: Path) -> None:
    """That of the flow counts for each item, from the moment it was received. `/flows` shows it."""
    flow = tmp_path / "naps.yaml"
    flow.write_text(
        'flow: naps\nservices: {nap: {call: "asyncio:sleep"}}\nsteps: [{map_async: nap}]\ndeadline: 400ms\n'
    )
    process = serve(flow)
    assert process.request("GET", "/flows/naps").json()["deadline"] == 0.4

    def messages(**headers: str) -> list[str]:
        all_headers = {"Content_Type": NDJSON, **headers}
        response = process.request("POST", "/naps/bulk", b"9\n0.01\n", **all_headers)
        return [record["error"]["message"] for record in response.results if not record["ok"]]

    assert messages() == messages(Penstock_Deadline="5s") == ["nap: the deadline of 0.4 s passed while it was called"]
    assert messages(Penstock_Deadline="200ms") == ["nap: the deadline of 0.2 s passed while it was called"]
