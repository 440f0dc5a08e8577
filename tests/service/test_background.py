"""What the service does with dead letters by itself: retention, copies, and redrives when a service has recovered."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from service.processes import Process, serving, simulating, until
from service.test_redrives import LETTERS, states
from service.wire import NDJSON, orders

FLOW = """flow: shop
key: orderId
services: {{inventory: {{get: {url}, attempts: 1, timeout: 5s}}}}
steps: [{{enrich: [inventory]}}]
dead_letters: {letters}
{more}
"""


def unused_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def write(folder: Path, letters: str, more: str = "", port: int = 1) -> Path:
    """A flow file whose service is at a port."""
    file = folder / "shop.yaml"
    url = f"'http://127.0.0.1:{port}/stock/{{orderId}}'"
    file.write_text(FLOW.format(url=url, letters=letters, more=more))
    return file


def fail(server: Process, count: int) -> None:
    """Send orders whose service is not reachable."""
    response = server.request("POST", "/shop/bulk", orders(count), Content_Type=NDJSON)
    assert response.end["failed"] == count


def test_expired_letters_are_deleted_and_counted(tmp_path: Path) -> None:
    """At the start and once a minute, as the flow declares; the audit has it."""
    letters = f"{{store: 'sqlite:///{tmp_path}/shop.db', keep: {{waiting: 90d, max: 3}}}}"
    with serving(tmp_path, write(tmp_path, f"sqlite:///{tmp_path}/shop.db")) as server:
        fail(server, 10)
    with serving(tmp_path, write(tmp_path, letters)) as server:
        assert server.event("dead_letters.expired", flow="shop")["letters"] == 7
        assert states(server, flow="shop") == {"waiting": 3}
        assert server.metric("penstock_dead_letters_expired_total", flow="shop") == 7
        records = server.request("GET", f"{LETTERS}/audit").json()["records"]
        assert [(each["action"], each["count"]) for each in records] == [("expire", 7)]


@pytest.mark.long
def test_letters_are_copied_and_a_copy_that_fails_is_behind(tmp_path: Path) -> None:
    """The store is not affected. The metric shows what the copy lacks, and the copy gets it when it works again."""
    folder = tmp_path / "copies"
    letters = f"{{store: 'sqlite:///{tmp_path}/shop.db', copy: ['sqlite:///{folder}/copy.db']}}"
    with serving(tmp_path, write(tmp_path, letters)) as server:
        fail(server, 5)
        name = f"sqlite:///{folder}/copy.db"
        until(lambda: server.metric("penstock_dead_letter_copies_behind", copy=name) == 5, period=0.2)
        assert states(server, flow="shop") == {"waiting": 5}
        folder.mkdir()
        until(lambda: server.metric("penstock_dead_letter_copies_behind", copy=name) == 0, period=0.2)
    with serving(tmp_path, "--dead-letters", f"sqlite:///{folder}/copy.db") as server:
        assert states(server) == {"waiting": 5}


def test_letters_are_redriven_when_their_service_has_recovered(tmp_path: Path) -> None:
    """One first, then the others. The audit says that it was automatic.

    A probe waits until no letter has come for half a minute. These failed long ago.
    """
    port = unused_port()
    with serving(tmp_path, write(tmp_path, f"sqlite:///{tmp_path}/other.db", port=port)) as server:
        items = b'{"orderId":1}\n{"orderId":2}\n{"orderId":4}\n'
        assert server.request("POST", "/shop/bulk", items, Content_Type=NDJSON).end["failed"] == 3
        letters = [json.loads(line) for line in server.request("GET", f"{LETTERS}/export").body.splitlines()]
    old = b"".join(json.dumps(each | {"failedAt": "2020-01-01T00:00:00Z"}).encode() + b"\n" for each in letters)
    flow = write(tmp_path, f"sqlite:///{tmp_path}/shop.db", "redrive: recovered", port)
    with (
        simulating("--port", port),
        serving(tmp_path, flow, "--dead-letters", f"sqlite:///{tmp_path}/shop.db") as server,
    ):
        assert server.request("POST", f"{LETTERS}/import", old, Content_Type=NDJSON).json()["imported"] == 3
        until(lambda: states(server, flow="shop") == {"resolved": 3}, timeout=60, period=0.2)
        records = server.request("GET", f"{LETTERS}/audit").json()["records"]
        assert {each["requester"] for each in records if each["action"] == "redrive"} == {"automatic"}
        assert server.metric("penstock_dead_letters_redriven_total", flow="shop", result="resolved") == 3
        redrives = json.loads(server.request("GET", f"{LETTERS}/redrives").body)["redrives"]
        assert [each["counts"]["total"] for each in redrives] == [2, 1]


@pytest.mark.long
def test_the_age_of_the_oldest_waiting_letter_is_refreshed(tmp_path: Path) -> None:
    """At the start and four times a minute; 0 when none waits."""
    flow = write(tmp_path, f"sqlite:///{tmp_path}/shop.db")
    with serving(tmp_path, flow) as server:
        assert server.metric("penstock_dead_letters_oldest_waiting_seconds", flow="shop") == 0
        fail(server, 2)
    with serving(tmp_path, flow) as server:
        until(
            lambda: server.metric("penstock_dead_letters_oldest_waiting_seconds", flow="shop") > 0,
            timeout=10,
            period=0.1,
        )
        server.request("POST", f"{LETTERS}/purge", b'{"all": true}', Content_Type="application/json")
        until(lambda: server.metric("penstock_dead_letters_oldest_waiting_seconds", flow="shop") == 0, period=0.5)
