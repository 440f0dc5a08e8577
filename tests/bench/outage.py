"""How long 10,000 orders take when one of their two services is down for 10 seconds in the middle.

The ideal is the time without an outage plus the outage. The circuit breaker holds the orders, and tries the service now
and then; it may notice the end of the outage late. Calls that are in flight when the service is killed may fail.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import rig
from figures import Figure, exit_code, show
from services import SERVICES

sys.path.append(str(Path(__file__).resolve().parents[1]))

from nginx import nginx, program  # of the tests
from waiting import ending

LOST = 256 + 3
"""Orders that may fail: those in flight, and the probes of the circuit breaker."""


def with_outage(server: rig.Server, folder: Path, count: int, seconds: float, before: float) -> dict[str, float]:
    """Upload orders; kill nginx after `before` seconds, and start it again `seconds` later. Return times and counts."""
    with rig.client("upload", server, count=count) as client:
        received = server.metric("penstock_received_total")
        while server.metric("penstock_received_total") == received and client.poll() is None:  # it makes orders first
            time.sleep(0.01)
        time.sleep(before)
        killed = time.monotonic()
        os.kill(int((folder / "nginx.pid").read_text()), signal.SIGKILL)
        time.sleep(seconds)
        command = [program() or "nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", "stderr"]
        with ending(subprocess.Popen(command)):
            down = time.monotonic() - killed
            answer = rig.result(client, server)
    end = answer["end"]
    if end["reason"] != "completed" or end["received"] != count or end["failed"] > LOST:
        raise RuntimeError(f"{server.name} lost orders in the outage: {end}")
    return {"seconds": answer["seconds"], "down": down, "failed": end["failed"]}


def all_figures(quick: bool, runs: int) -> list[Figure]:
    """Return the figures of orders with and without an outage, in turn; none if nginx is missing."""
    if program() is None:
        print("!!! THE OUTAGE IS LEFT OUT: nginx is not on this machine", file=sys.stderr, flush=True)
        return []
    count, seconds = (1_500, 1.0) if quick else (10_000, 10.0)
    late, ideals, failed = list[float](), list[float](), list[float]()
    for _ in range(runs):
        with tempfile.TemporaryDirectory(prefix="penstock-bench-") as name:
            folders = [Path(name) / "prices", Path(name) / "stock"]
            for folder in folders:
                folder.mkdir()
            with nginx(folders[0], SERVICES) as prices, nginx(folders[1], SERVICES) as stock:
                command, environment = rig.COMMANDS["penstock"](Path(name), 0)
                command += ["--pricing-url", f"{prices}/prices/{{orderId}}"]
                command += ["--inventory-url", f"{stock}/stock/{{orderId}}"]
                server = rig.Server("penstock", command, environment, Path(name))
                try:
                    rig.upload(server, count)  # warm
                    ideal = rig.upload(server, count)["seconds"]
                    found = with_outage(server, folders[1], count, seconds, before=ideal / 3)
                finally:
                    server.stop()
        ideals.append(ideal)
        failed.append(found["failed"])
        late.append((found["seconds"] - found["down"] - ideal) / (found["down"] + ideal) * 100)
    note = f"runs {min(late):.1f} … {max(late):.1f}; most failed {max(failed):.0f} of {count:,}"
    return [
        Figure(f"{count:,} orders without an outage", rig.median(ideals), "s"),
        Figure(f"an outage of {seconds:g} s: time beyond it and that", rig.median(late), "%", at_most=10.0, note=note),
    ]


def main() -> int:
    given = rig.arguments(__doc__, runs=5)
    figures = all_figures(given.quick, given.runs)
    show("An outage of one service", figures)
    return exit_code(figures)


if __name__ == "__main__":
    sys.exit(main())
