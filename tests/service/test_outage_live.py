"""The law of an outage, live: a service is killed and restarted in the middle of a large upload."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

from aiohttp.test_utils import unused_port

from service.conftest import Serve
from service.processes import Process, simulating, until
from waiting import HANG_SECONDS, end

ORDERS = 12_000
WINDOW = 256
ATTEMPTS = 2
PROBES = 3
OUTAGE = 2.0
"""Seconds."""

FLOW = """
flow: orders
key: orderId
item: {{orderId: integer}}
window: {window}
services:
  pricing:
    get: http://127.0.0.1:{port}/prices/{{orderId}}
    attempts: {attempts}
    breaker: {{open: 500ms, probes: {probes}}}
steps:
- enrich: [pricing]
"""


def pricing(server: Process) -> dict[str, Any]:
    """The service, as `GET /flows/orders` shows it."""
    found: dict[str, Any] = server.request("GET", "/flows/orders").json()["services"][0]
    return found


def test_a_service_that_is_killed_costs_no_more_than_its_calls(serve: Serve, tmp_path: Path) -> None:
    """Dead letters <= in flight + probes; failed calls <= attempts of those; all others succeed; the counts agree."""
    port = unused_port()
    file = tmp_path / "orders.yaml"
    file.write_text(FLOW.format(port=port, window=WINDOW, attempts=ATTEMPTS, probes=PROBES))
    upload = tmp_path / "orders.ndjson"
    upload.write_bytes(b"".join(b'{"orderId":%d}\n' % number for number in range(ORDERS)))
    results = tmp_path / "results.ndjson"
    server = serve(file)
    with simulating("--port", port) as first:
        curl = subprocess.Popen(
            [
                *("curl", "-sS", "-X", "POST", "-T", upload, "-o", results),
                *("-H", "Content-Type: application/x-ndjson", "-H", "Expect:"),
                f"http://{server.host}:{server.port}/orders/bulk",
            ]
        )
        try:
            until(lambda: pricing(server)["calls"]["ok"] > ORDERS / 10)
            first.kill()
            until(lambda: pricing(server)["breaker"]["state"] != "closed")
            time.sleep(OUTAGE)
            during = pricing(server)
            with simulating("--port", port):
                assert curl.wait(HANG_SECONDS) == 0
        finally:
            end(curl)

    records = [json.loads(line) for line in results.read_bytes().splitlines()]
    summary = records.pop()["end"]
    letters = [record for record in records if not record["ok"]]
    probes = PROBES * len(server.logged("service.breaker_reopened"))
    assert during["calls"]["ok"] < ORDERS - WINDOW
    # Calls in flight break together. Some are repeated, and others start, before the breaker has opened.
    assert during["calls"]["error"] <= ATTEMPTS * WINDOW + probes
    assert len(letters) <= WINDOW + probes
    assert {record["seq"] for record in records} == set(range(ORDERS))
    assert summary["received"] == summary["ok"] + summary["failed"] == ORDERS
    assert (summary["reason"], summary["failed"]) == ("completed", len(letters))
    assert server.metric("penstock_dead_letters_total") == len(letters)
