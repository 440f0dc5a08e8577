"""How near a bulk request comes to the least time that its services allow, and when its first result is there."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import rig
from figures import Figure, exit_code, show

WINDOW = 256
SLOWER = 0.15
"""Seconds that the slower of the two services takes; they are called side by side."""


def all_figures(quick: bool, runs: int, names: Sequence[str]) -> list[Figure]:
    count = WINDOW * (1 if quick else 4)
    ideal = SLOWER * count / WINDOW
    figures = []
    with rig.serving(names, scale=1) as servers:
        answers: dict[str, list[dict[str, float]]] = {server.name: [] for server in servers}
        for server in servers:
            rig.upload(server, 10)
        for _ in range(runs):
            for server in servers:
                answers[server.name].append(rig.upload(server, count))
    for name, found in answers.items():
        ours = name == "penstock"
        seconds = rig.median([answer["seconds"] for answer in found])
        first = rig.median([answer["first"] for answer in found])
        figures.append(
            Figure(
                f"{name}: {count:,} orders / ideal {ideal:g} s",
                seconds / ideal,
                "x",
                at_most=1.15 if ours else None,
                note=f"{seconds:.3f} s",
            )
        )
        figures.append(
            Figure(
                f"{name}: first result / slower service",
                first / SLOWER,
                "x",
                at_most=1.1 if ours else None,
                note=f"{first:.3f} s",
            )
        )
    return figures


def main() -> int:
    given = rig.arguments(__doc__, runs=5)
    figures = all_figures(given.quick, given.runs, given.only)
    show("Latency: services of 100 and 150 ms, window 256", figures)
    return exit_code(figures)


if __name__ == "__main__":
    sys.exit(main())
