"""Whether an order costs the same in a request of 1,000 and of 1,000,000."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import rig
from figures import Figure, exit_code, show

SIZES = (1_000, 10_000, 100_000, 1_000_000)
LEAST = 300_000
"""Orders that one measured cost is made of: small requests are repeated."""


def all_figures(quick: bool, runs: int, names: Sequence[str]) -> list[Figure]:
    sizes = SIZES[:2] if quick else SIZES
    figures = []
    with rig.serving(names, scale=0) as servers:
        for server in servers:
            rig.upload(server, sizes[-1] // 10)
        cpu: dict[tuple[str, int], list[float]] = {(s.name, size): [] for s in servers for size in sizes}
        wall: dict[tuple[str, int], list[float]] = {(s.name, size): [] for s in servers for size in sizes}
        for _ in range(runs):
            for size in sizes:
                for server in servers:
                    times = max(1, (10_000 if quick else LEAST) // size)
                    before = server.cpu()
                    # One client makes them all: starting one for each request would leave the server's caches cold.
                    seconds = rig.upload(server, size, times=times)["seconds"]
                    cpu[server.name, size].append((server.cpu() - before) / (times * size) * 1e6)
                    wall[server.name, size].append(seconds / (times * size) * 1e6)
    for server in servers:
        costs = [rig.median(cpu[server.name, size]) for size in sizes]
        for size, cost in zip(sizes, costs, strict=True):
            note = f"wall {rig.median(wall[server.name, size]):.2f} µs"
            figures.append(Figure(f"{server.name}: CPU of an order among {size:,}", cost, "µs", note=note))
        target = 1.2 if server.name == "penstock" else None
        figures.append(Figure(f"{server.name}: dearest / cheapest", max(costs) / min(costs), "x", at_most=target))
    return figures


def main() -> int:
    given = rig.arguments(__doc__, runs=5)
    figures = all_figures(given.quick, given.runs, given.only)
    show("Scaling: server CPU an order, by the size of the request", figures)
    return exit_code(figures)


if __name__ == "__main__":
    sys.exit(main())
