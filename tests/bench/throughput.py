"""How many orders a second go through one request, against the peers: none failing, and a third failing."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import rig
from figures import Figure, exit_code, show

TARGETS = {("express", False): 1.3, ("plain", False): 0.75, ("express", True): 0.8}


def measure(names: Sequence[str], runs: int, count: int) -> list[Figure]:
    """Both variants."""
    return variant(names, runs, count, False) + variant([n for n in names if n != "plain"], runs, count, True)


def variant(names: Sequence[str], runs: int, count: int, failing: bool) -> list[Figure]:
    """Seconds of each server, run after run in turn, and the ratios between runs that were next to each other."""
    what = "a third failing" if failing else "none failing"
    with rig.serving(names, scale=0) as servers:
        seconds: dict[str, list[float]] = {server.name: [] for server in servers}
        for server in servers:
            rig.upload(server, max(count // 4, 1), failing)  # warm: compiled, grown, imported
        for _ in range(runs):
            for server in servers:
                server.forget_failures()
                seconds[server.name].append(rig.upload(server, count, failing)["seconds"])
    figures = [
        Figure(f"{name}, {what}", count / rig.median(times), "orders/s", note=f"{rig.median(times):.3f} s")
        for name, times in seconds.items()
    ]
    for name, other in (
        ("penstock", "express"),
        ("penstock", "express-batched"),
        ("penstock", "plain"),
        ("penstock-uvloop", "penstock"),
        ("express", "plain"),
    ):
        if name in seconds and other in seconds:
            ratios = [b / a for a, b in zip(seconds[name], seconds[other], strict=True)]
            target = TARGETS.get((other, failing)) if name == "penstock" else None
            note = f"runs {min(ratios):.2f} … {max(ratios):.2f}"
            figures.append(Figure(f"{name} / {other}, {what}", rig.median(ratios), "x", at_least=target, note=note))
    return figures


def all_figures(quick: bool, runs: int, names: Sequence[str]) -> list[Figure]:
    return measure(names, runs, 500 if quick else 200_000)


def main() -> int:
    given = rig.arguments(__doc__, runs=5)
    figures = all_figures(given.quick, given.runs, given.only)
    show("Throughput: orders in one POST, services without latency, window 256", figures)
    return exit_code(figures)


if __name__ == "__main__":
    sys.exit(main())
