"""What a long upload with a slow reader costs in memory, and whether its window holds."""

from __future__ import annotations

import sys
import time

import rig
from figures import Figure, exit_code, show

WINDOW = 256
RATE = 2_000_000
"""Bytes/s at which the client reads."""
STALL = 3
GROWTH_MIB = 8
EVERY = 0.25


def all_figures(quick: bool) -> list[Figure]:
    count = 30_000 if quick else 1_000_000
    with rig.serving(["penstock"], scale=0) as [server]:
        rig.upload(server, 10_000 if quick else 100_000)
        before = server.rss()
        memory, in_flight = [before], [0.0]
        started = time.monotonic()
        with rig.client(
            "upload", server, count=count, rate=RATE, stall=STALL, stall_after=1 if quick else 10
        ) as process:
            while process.poll() is None:
                memory.append(server.rss())
                in_flight.append(server.metric("penstock_in_flight", flow="orders"))
                time.sleep(EVERY)
            answer = rig.result(process, server)
        rig.check(server, answer, count, 0)
        after = server.rss()
    note = f"{before:.0f} MiB before, {after:.0f} after, {len(memory)} samples, {time.monotonic() - started:.0f} s"
    return [
        Figure(
            f"growth over {count:,} orders read at 2 MB/s", max(memory) - before, "MiB", at_most=GROWTH_MIB, note=note
        ),
        Figure("orders in flight at most", max(in_flight), "orders", at_most=WINDOW, note=f"window {WINDOW}"),
    ]


def main() -> int:
    given = rig.arguments(__doc__, runs=1)
    figures = all_figures(given.quick)
    show("Memory: one upload, the reader slow and once still for 3 s", figures)
    return exit_code(figures)


if __name__ == "__main__":
    sys.exit(main())
