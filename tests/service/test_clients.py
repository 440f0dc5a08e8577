"""The client programs of the documents process every order, also when the service stops while they send."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from service.conftest import Serve
from service.processes import ROOT, until
from waiting import HANG_SECONDS, ending

PAGE = (ROOT / "http/docs/clients.md").read_text(encoding="utf-8")
ORDERS = 1500


def program(language: str, path: Path) -> Path:
    """Save the program in a language, with more attempts at shorter intervals."""
    (text,) = re.findall(rf"^```{language}\n(\S.*?ATTEMPTS = 5.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    for old, new in {
        "ATTEMPTS = 5": "ATTEMPTS = 300",
        "RETRY_SECONDS = 2": "RETRY_SECONDS = 0.2",
        "RETRY_MILLISECONDS = 2000": "RETRY_MILLISECONDS = 200",
    }.items():
        text = text.replace(old, new)
    path.write_text(text)
    return path


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("language", ["python", "js"])
def test_a_client_sends_again_what_has_no_result(
    serve: Serve, tmp_path: Path, language: str, number: signal.Signals
) -> None:
    """Each order has one result in the end, whether the service shut down or was killed."""
    if (interpreter := {"python": sys.executable, "js": shutil.which("node")}[language]) is None:
        pytest.skip("needs Node.js: apt-get install nodejs")
    client = program(language, tmp_path / {"python": "client.py", "js": "client.mjs"}[language])
    orders = tmp_path / "orders.ndjson"
    orders.write_text("".join(f'{{"orderId":{n}}}\n' for n in range(1, ORDERS + 1)))
    results = tmp_path / "results.ndjson"
    server = serve("--workers", 0, "--latency-scale", 1)
    command = [interpreter, str(client), f"http://127.0.0.1:{server.port}/orders/bulk", str(orders)]
    with (
        results.open("wb") as output,
        ending(subprocess.Popen(command, stdout=output, stderr=subprocess.DEVNULL)) as sending,
    ):
        until(lambda: results.stat().st_size)
        server.signal(number)
        server.wait()
        serve("--workers", 0, "--latency-scale", 0, "--port", server.port)
        assert sending.wait(HANG_SECONDS) == 0
    records = [json.loads(line) for line in results.read_text().splitlines()]
    ids = [record["value"]["orderId"] if record["ok"] else record["key"] for record in records]
    assert sorted(ids) == list(range(1, ORDERS + 1))
