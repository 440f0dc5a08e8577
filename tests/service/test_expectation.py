"""`Expect: 100-continue`: a body is asked for after the request was looked at, not before."""

from __future__ import annotations

import pytest

from service.processes import Process, until
from service.test_refusals import refusal
from service.wire import NDJSON, Client, orders

ARRAY = {"Content_Type": "application/json", "Content_Length": "15"}
LINES = {"Content_Type": NDJSON, "Transfer_Encoding": "chunked"}
ASKING = {"Expect": "100-Continue"}


def asked(client: Client) -> bool:
    """Whether the next response says that the body may come."""
    head = client.answer()
    return (head.status, head.headers) == (100, {})


@pytest.mark.parametrize("form", [NDJSON, "application/json"])
def test_a_body_is_asked_for(server: Process, form: str) -> None:
    """The stream begins when the body has been asked for, and the answer is whole."""
    with server.connect() as client:
        client.request("POST", "/orders/bulk", **LINES, **ASKING, Accept=form)
        assert asked(client)
        client.chunk(orders(3))
        client.chunk(b"")
        answer = client.answer().complete()
        end = answer.end if form == NDJSON else answer.json()["end"]
        assert (answer.cut, end["received"], end["reason"]) == (False, 3, "completed")
        client.request("GET", "/health/live")
        assert client.answer().complete().status == 200


def test_an_array_is_asked_for(server: Process) -> None:
    """As lines are."""
    with server.connect() as client:
        client.request("POST", "/orders/bulk", **ARRAY, **ASKING)
        assert asked(client)
        client.send(b'[{"orderId":1}]')
        assert client.answer().complete().end["received"] == 1


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/orders/bulk", {"Content_Type": "text/csv"}, 415),
        ("/orders/bulk", {"Content_Type": NDJSON, "Accept": "text/html"}, 406),
        ("/orders/bulk?x=1", {"Content_Type": NDJSON}, 400),
        ("/sales/bulk", {"Content_Type": NDJSON}, 404),
    ],
)
def test_what_is_refused_is_not_asked_for(server: Process, path: str, headers: dict[str, str], status: int) -> None:
    """The refusal is the first that the client hears: it has nothing to send."""
    with server.connect() as client:
        client.request("POST", path, **headers, **ASKING, Transfer_Encoding="chunked")
        refusal(client.answer().complete(), status)


def test_other_expectations_are_ignored(server: Process) -> None:
    """A server may ignore them (RFC 9110, section 10.1.1)."""
    assert server.ask("GET", "/orders/bulk", Expect="a miracle").status == 200
    assert server.post({"orderId": 1}, Expect="a miracle").status == 200


def test_a_flow_is_asked_for(server: Process) -> None:
    """A PUT is looked at before its body, too."""
    with server.connect() as client:
        client.request("PUT", "/flows/new", Content_Type="text/csv", Content_Length="9", **ASKING)
        refusal(client.answer().complete(), 415)
    with server.connect() as client:
        client.request("PUT", "/flows/new", Content_Type="application/yaml", Content_Length="9", **ASKING)
        assert asked(client)
        client.send(b"flow: [1]")
        refusal(client.answer().complete(), 422)


@pytest.mark.parametrize("expected", ["100-continue", "a miracle"])
@pytest.mark.parametrize(("method", "path", "status"), [("POST", "/nowhere", 404), ("PUT", "/orders/bulk", 405)])
def test_what_is_nowhere_is_not_asked_for(server: Process, method: str, path: str, status: int, expected: str) -> None:
    """The same refusals as everywhere, in the same form."""
    with server.connect() as client:
        client.request(method, path, Content_Type=NDJSON, Expect=expected, Transfer_Encoding="chunked")
        answer = client.answer().complete()
        refusal(answer, status)
    if answer.status == 405:
        assert set(answer.headers["allow"].split(",")) == {"GET", "POST"}


def test_who_leaves_instead_of_being_asked_is_no_fault(server: Process) -> None:
    """It is counted as one that left; nothing broke."""
    for _ in range(20):
        with server.connect() as client:
            client.request("POST", "/orders/bulk", **LINES, **ASKING)
            client.reset()
    until(lambda: server.metric("penstock_http_requests_total", method="POST", status="499") == 20)
    assert server.metric("penstock_http_requests_total", method="POST", status="500") == 0
    assert not server.said("http.internal_error")
