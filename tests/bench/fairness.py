"""What a request of ten orders waits for while another one uploads a million."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

import rig
from figures import Figure, exit_code, show

UPLOAD = 1_000_000
TARGET = 3.0
"""How many times as long as alone p99 may be."""


def small(server: rig.Server, seconds: float, connections: int) -> dict[str, list[float]]:
    """Seconds of small requests."""
    with rig.client("small", server, seconds=seconds, connections=connections) as process:
        return rig.result(process, server)


def during(server: rig.Server, seconds: float, connections: int) -> dict[str, list[float]]:
    """Seconds of small requests that all fell into large uploads, one after another until enough were asked."""
    found: dict[str, list[float]] = {"GET": [], "POST": []}
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0.2:
        with rig.client("upload", server, count=UPLOAD, seconds=left + 5) as large:
            wait_for_the_body()
            while large.poll() is None and time.monotonic() < until:
                for method, times in small(server, min(0.5, seconds / 8), connections).items():
                    if large.poll() is None:
                        found[method] += times
    if not found["GET"]:
        raise RuntimeError(f"the uploads to {server.name} ended before a small request did")
    return found


def wait_for_the_body() -> None:
    """The client makes its orders before it sends them."""
    time.sleep(0.3 + UPLOAD * 1.5e-6)


def all_figures(quick: bool, names: Sequence[str]) -> list[Figure]:
    figures = []
    for scale, connections, seconds in ((0, 1, 20.0), (1, 4, 30.0)):
        services = "100/150 ms" if scale else "no latency"
        for name in names:
            with rig.serving([name], scale) as servers:
                for server in servers:
                    time_for = 2.0 if quick else seconds
                    small(server, 1.0, connections)
                    alone = small(server, time_for / 2, connections)
                    busy = during(server, time_for, connections)
                    figures += compared(server.name, services, alone, busy)
    return figures


def compared(name: str, services: str, alone: dict[str, list[float]], busy: dict[str, list[float]]) -> list[Figure]:
    figures = []
    for method in ("GET", "POST"):
        p50, p99 = (1000 * rig.percentile(busy[method], part) for part in (0.5, 0.99))
        was50, was99 = (1000 * rig.percentile(alone[method], part) for part in (0.5, 0.99))
        note = f"p50 {was50:.1f} → {p50:.1f} ms, p99 {was99:.1f} → {p99:.1f} ms, {len(busy[method])} requests"
        target = TARGET if name == "penstock" else None
        figures.append(Figure(f"{name}, {services}: {method} p99 / alone", p99 / was99, "x", at_most=target, note=note))
    return figures


def main() -> int:
    given = rig.arguments(__doc__, runs=1)
    figures = all_figures(given.quick, given.only)
    show("Fairness: requests of 10 orders, alone → during an upload of 1,000,000", figures)
    return exit_code(figures)


if __name__ == "__main__":
    sys.exit(main())
