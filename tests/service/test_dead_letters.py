"""`/dead-letters`: pages, filters, single dead letters, and who can read them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from service.conftest import Serve
from service.processes import Process, until
from service.wire import NDJSON, orders

LETTERS = "/dead-letters"


def letters(server: Process, query: str = "", **headers: str) -> list[dict[str, Any]]:
    """The dead letters of a page."""
    response = server.request("GET", f"{LETTERS}?{query}", **headers)
    assert (response.status, response.headers["cache-control"]) == (200, "no-store")
    return response.json()["letters"]


@pytest.fixture(scope="module")
def run(server: Process) -> str:
    """A run with 20 failures in the inventory and one in decode."""
    body = orders(60) + b"rubbish \xff\n"
    response = server.request("POST", "/orders/bulk", body, Content_Type=NDJSON)
    assert response.end["failed"] == 21
    return response.headers["penstock-run"]


def test_a_dead_letter_is_complete(server: Process, run: str) -> None:
    """It has the step, the error, the attempts, the input, and the responses of earlier services."""
    letter = letters(server, f"run={run}&step=inventory&limit=1")[0]
    for id in (letter["id"], letter["id"].upper()):
        assert server.request("GET", f"{LETTERS}/{id}").json() == letter | {"attempts": [], "edits": []}
    times = {letter.pop("startedAt"), letter.pop("failedAt")}
    assert all(time.endswith("+00:00") for time in times)
    assert letter.pop("id")
    assert letter.pop("group").startswith("1-")
    seq, key = letter.pop("seq"), letter.pop("key")
    assert key == seq + 1
    line = orders(1, start=key).strip().decode()
    assert letter == {
        "flow": "orders",
        "run": run,
        "revision": 1,
        "state": "waiting",
        "redrives": 0,
        "error": {
            "step": "inventory",
            "type": "InventoryUnavailable",
            "message": "Inventory unavailable",
            "attempts": 2,
            "cause": None,
        },
        "input": {"text": line, "size": len(line), "complete": True},
        "partialResults": {"pricing": {"price": 1000 + key}},
    }


def test_input_that_is_not_utf_8_is_stored_as_base64(server: Process, run: str) -> None:
    """JSON cannot contain such bytes."""
    (letter,) = letters(server, f"run={run}&step=decode")
    assert letter["input"] == {"base64": "cnViYmlzaCD/", "size": 9, "complete": True}


def test_each_dead_letter_is_on_one_page(server: Process, run: str) -> None:
    """Oldest first; `next` of a page is `after` of the following one, and the last page has none."""
    found: list[str] = []
    following: str | None = ""
    while following is not None:
        query = f"?run={run}&limit=4" + (f"&after={following}" if following else "")
        page = server.request("GET", LETTERS + query).json()
        assert len(page["letters"]) <= 4
        found += [letter["id"] for letter in page["letters"]]
        following = page["next"]
    assert len(found) == 21
    assert found == sorted(set(found))


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("flow=orders", 21),
        ("flow=sales", 0),
        ("step=inventory", 20),
        ("type=MalformedJson", 1),
        ("type=InventoryUnavailable&state=waiting", 20),
        ("state=parked", 0),
        ("since=2001-01-01T00:00:00Z", 21),
        ("since=2999-01-01T00:00:00Z", 0),
        ("until=2001-01-01", 0),
        ("until=2999-01-01T00:00:00%2B02:00", 21),
        ("step=%27%20OR%201=1%20--", 0),
    ],
)
def test_dead_letters_can_be_filtered(server: Process, run: str, query: str, count: int) -> None:
    """By flow, run, step, type, state and time, which are combined with AND."""
    assert len(letters(server, f"run={run}&{query}")) == count


@pytest.mark.parametrize("id", ["nothing", "01890000-0000-7000-8000-000000000000", "%00", "..%2Fmetrics", "x" * 3000])
def test_an_unknown_dead_letter_is_a_404(server: Process, id: str) -> None:
    """Whatever the id in the path is."""
    assert server.request("GET", f"{LETTERS}/{id}").status == 404


@pytest.mark.parametrize(
    "headers",
    [
        {"X_Forwarded_For": "203.0.113.7"},
        {"Forwarded": "for=203.0.113.7"},
        {"X_Forwarded_Host": "penstock.example"},
        {"X_Real_IP": "203.0.113.7"},
        {"Via": "1.1 penstock.example"},
    ],
    ids=[
        "X-Forwarded-For",
        "Forwarded",
        "X-Forwarded-Host",
        "X-Real-IP",
        "Via",
    ],
)
def test_without_a_token_only_requests_from_this_machine_are_accepted(server: Process, headers: dict[str, str]) -> None:
    """A request through a proxy is not from this machine. Hosts and origins: see `test_origins`."""
    response = server.request("GET", LETTERS, **headers)
    assert (response.status, response.json()["code"]) == (403, "unauthorized")
    assert "PENSTOCK_TOKEN" in response.json()["detail"]


@pytest.mark.parametrize(("method", "path"), [("GET", LETTERS), ("POST", f"{LETTERS}/purge"), ("PUT", "/flows/x")])
def test_http_1_0_counts_as_a_proxy(server: Process, method: str, path: str) -> None:
    """nginx sends it by default, with the address of this machine as the host, and without any header of its own."""
    with server.connect() as client:
        client.request(method, path, b"", version="1.0")
        response = client.response().complete()
    assert (response.status, response.json()["code"]) == (403, "unauthorized")


def test_listening_on_all_addresses_needs_a_token(serve: Serve) -> None:
    """Without one, dead letters cannot be read, not even from this machine."""
    server = serve("--host", "0.0.0.0")
    server.host = "127.0.0.1"
    assert server.request("GET", LETTERS).status == 403
    assert server.request("GET", f"{LETTERS}/x").status == 403
    assert server.request("GET", "/orders/bulk?count=1").end["ok"] == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_token_is_required_everywhere(serve: Serve, host: str) -> None:
    """With PENSTOCK_TOKEN each request needs it, from this machine too. It is never shown."""
    server = serve("--host", host, env={"PENSTOCK_TOKEN": "s3cret-ß"})
    server.host = "127.0.0.1"
    wrong: list[dict[str, str]] = [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "s3cret"},
        {"Authorization": "Basic czNjcmV0"},
        {"Authorization": "Bearer \xff"},
    ]
    for headers in wrong:
        response = server.request("GET", LETTERS, **headers)
        assert (response.status, response.headers["www-authenticate"].split()[0]) == (401, "Bearer")
    right = "Bearer s3cret-ß".encode().decode("latin-1")
    assert server.request("GET", LETTERS, Authorization=right, X_Forwarded_For="203.0.113.7").status == 200
    assert server.request("GET", LETTERS, Authorization=right.replace("B", "b")).status == 200  # RFC 9110, section 11.1
    assert "s3cret" not in json.dumps(server.events)


def test_a_truncated_store_makes_the_service_unready_until_it_is_repaired(serve: Serve, tmp_path: Path) -> None:
    """Readiness and the metric report it even if no item fails; failed items wait until it works again."""
    path, url = tmp_path / "letters.db", f"sqlite:///{tmp_path}/letters.db"
    server = serve()
    assert server.request("GET", "/health/ready").json() == {"status": "ready"}

    os.truncate(path, 0)
    until(lambda: server.request("GET", "/health/ready").status == 503, timeout=30, period=0.2)
    assert server.request("GET", "/health/ready").json() == {"status": "dead_letters_unusable", "stores": [url]}
    assert server.metric("penstock_dead_letter_store_usable", store=url) == 0
    assert server.request("GET", "/health/live").status == 200
    server.event("store.unusable")

    with server.connect() as client:
        client.upload()
        client.chunk(orders(3))
        client.chunk(b"")
        server.event("store.write_failed", timeout=30)
        path.rename(path.with_name("damaged.db"))  # waiting items continue
        assert client.response().complete().end["failed"] == 1
    until(lambda: server.request("GET", "/health/ready").status == 200, timeout=30, period=0.2)
    assert server.metric("penstock_dead_letter_store_usable", store=url) == 1
    assert len(letters(server)) == 1
