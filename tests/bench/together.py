"""What an order costs in several requests side by side, and when its services wait for a millisecond."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import rig
from figures import Figure, exit_code, show


@dataclass(frozen=True)
class Load:
    """Requests that are made at once, one after another by each client."""

    clients: int
    times: int
    """Requests that each client makes."""
    orders: int
    """In one request."""
    scale: float = 0.0
    """Of the latency of the services: 100 and 150 ms at 1."""

    def __str__(self) -> str:
        waits = f", services of {100 * self.scale:g} and {150 * self.scale:g} ms" if self.scale else ""
        return f"{self.clients} x {self.orders:,}{waits}"

    def cost(self, server: rig.Server) -> float:
        """Server CPU of one order, in µs."""
        before = server.cpu()
        with ExitStack() as stack:
            clients = [
                stack.enter_context(rig.client("upload", server, count=self.orders, times=self.times))
                for _ in range(self.clients)
            ]
            for client in clients:
                rig.check(server, rig.result(client, server), self.orders, 0)
        return (server.cpu() - before) / (self.clients * self.times * self.orders) * 1e6


LOADS = (
    Load(1, 200, 1_000),
    Load(4, 50, 1_000),
    Load(16, 12, 1_000),
    Load(4, 2, 20_000),
    Load(1, 3, 10_000, scale=0.01),
    Load(4, 1, 10_000, scale=0.01),
)


def all_figures(quick: bool, runs: int, names: Sequence[str]) -> list[Figure]:
    figures = []
    for load in LOADS:
        if quick:
            load = Load(load.clients, 1, load.orders // 10, load.scale)
        with rig.serving(names, scale=load.scale) as servers:
            costs: dict[str, list[float]] = {server.name: [] for server in servers}
            for server in servers:
                rig.upload(server, load.orders)
            for _ in range(runs):
                for server in servers:
                    costs[server.name].append(load.cost(server))
        for name, seen in costs.items():
            figures.append(Figure(f"{name}, {load}", rig.median(seen), "µs"))
        for name in ("express", "plain"):
            if name in costs and "penstock" in costs:
                ratios = [ours / theirs for ours, theirs in zip(costs["penstock"], costs[name], strict=True)]
                note = f"runs {min(ratios):.2f} … {max(ratios):.2f}"
                figures.append(Figure(f"penstock / {name}, {load}", rig.median(ratios), "x", note=note))
    return figures


def main() -> int:
    given = rig.arguments(__doc__, runs=5)
    figures = all_figures(given.quick, given.runs, given.only)
    show("Side by side, and with services that wait: server CPU of an order", figures)
    return exit_code(figures)


if __name__ == "__main__":
    sys.exit(main())
