"""`Expect: 100-continue`: a request is checked before its body is requested."""

from __future__ import annotations

import pytest

from service.processes import Process, until
from service.test_rejections import rejection
from service.wire import NDJSON, Client, orders

ARRAY = {"Content_Type": "application/json", "Content_Length": "15"}
LINES = {"Content_Type": NDJSON, "Transfer_Encoding": "chunked"}
ASKING = {"Expect": "100-Continue"}


def continues(client: Client) -> bool:
    """Return whether the next response is 100 Continue."""
    head = client.response()
    return (head.status, head.headers) == (100, {})


@pytest.mark.parametrize("form", [NDJSON, "application/json"])
def test_a_valid_request_gets_100_continue(server: Process, form: str) -> None:
    """Then the stream starts, and the response is complete."""
    with server.connect() as client:
        client.request("POST", "/orders/bulk", **LINES, **ASKING, Accept=form)
        assert continues(client)
        client.chunk(orders(3))
        client.chunk(b"")
        response = client.response().complete()
        end = response.end if form == NDJSON else response.json()["end"]
        assert (response.cut, end["received"], end["reason"]) == (False, 3, "completed")
        client.request("GET", "/health/live")
        assert client.response().complete().status == 200


def test_an_array_gets_100_continue(server: Process) -> None:
    """Like lines."""
    with server.connect() as client:
        client.request("POST", "/orders/bulk", **ARRAY, **ASKING)
        assert continues(client)
        client.send(b'[{"orderId":1}]')
        assert client.response().complete().end["received"] == 1


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/orders/bulk", {"Content_Type": "text/csv"}, 415),
        ("/orders/bulk", {"Content_Type": NDJSON, "Accept": "text/html"}, 406),
        ("/orders/bulk?x=1", {"Content_Type": NDJSON}, 400),
        ("/sales/bulk", {"Content_Type": NDJSON}, 404),
    ],
)
def test_a_rejected_request_does_not_get_100_continue(
    server: Process, path: str, headers: dict[str, str], status: int
) -> None:
    """The rejection is the first response, so the client does not send the body."""
    with server.connect() as client:
        client.request("POST", path, **headers, **ASKING, Transfer_Encoding="chunked")
        rejection(client.response().complete(), status)


def test_other_expectations_are_ignored(server: Process) -> None:
    """A server may ignore them (RFC 9110, section 10.1.1)."""
    assert server.request("GET", "/orders/bulk", Expect="a miracle").status == 200
    assert server.post({"orderId": 1}, Expect="a miracle").status == 200


def test_an_upload_of_a_flow_gets_100_continue(server: Process) -> None:
    """After its headers were checked."""
    with server.connect() as client:
        client.request("PUT", "/flows/new", Content_Type="text/csv", Content_Length="9", **ASKING)
        rejection(client.response().complete(), 415)
    with server.connect() as client:
        client.request("PUT", "/flows/new", Content_Type="application/yaml", Content_Length="9", **ASKING)
        assert continues(client)
        client.send(b"flow: [1]")
        rejection(client.response().complete(), 422)


@pytest.mark.parametrize("expected", ["100-continue", "a miracle"])
@pytest.mark.parametrize(("method", "path", "status"), [("POST", "/nowhere", 404), ("PUT", "/orders/bulk", 405)])
def test_unknown_paths_and_methods_do_not_get_100_continue(
    server: Process, method: str, path: str, status: int, expected: str
) -> None:
    """They are rejected as usual."""
    with server.connect() as client:
        client.request(method, path, Content_Type=NDJSON, Expect=expected, Transfer_Encoding="chunked")
        response = client.response().complete()
        rejection(response, status)
    if response.status == 405:
        assert set(response.headers["allow"].split(",")) == {"GET", "POST"}


def test_a_disconnect_before_100_continue_is_not_an_error(server: Process) -> None:
    """It is counted as a disconnect."""
    for _ in range(20):
        with server.connect() as client:
            client.request("POST", "/orders/bulk", **LINES, **ASKING)
            client.reset()
    until(lambda: server.metric("penstock_http_requests_total", method="POST", status="499") == 20, period=0.1)
    assert server.metric("penstock_http_requests_total", method="POST", status="500") == 0
    assert not server.logged("http.internal_error")
