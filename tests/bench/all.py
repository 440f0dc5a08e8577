"""Runs every benchmark and prints one table of all figures, with target and verdict."""

from __future__ import annotations

import sys

import adaptive
import deadletters
import fairness
import latency
import memory
import outage
import processes
import rig
import scaling
import services
import throughput
import together
import written
from figures import Figure, exit_code, show


def main() -> int:
    given = rig.arguments(__doc__, runs=5)
    quick, runs, names = given.quick, given.runs, given.only
    programs = {
        "Throughput": lambda: throughput.all_figures(quick, runs, names),
        "Services over HTTP": lambda: services.all_figures(quick, runs, names),
        "Outage": lambda: outage.all_figures(quick, runs) if "penstock" in names else [],
        "Adaptive limit": lambda: adaptive.all_figures(quick, 1) if "penstock" in names else [],
        "Latency": lambda: latency.all_figures(quick, runs, names),
        "Scaling": lambda: scaling.all_figures(quick, runs, names),
        "Side by side": lambda: together.all_figures(quick, runs, names),
        "Fairness": lambda: fairness.all_figures(quick, names),
        "Memory": lambda: memory.all_figures(quick) if "penstock" in names else [],
        "Dead letters": lambda: deadletters.all_figures(quick, runs) if "penstock" in names else [],
        "Processes": lambda: processes.all_figures(quick, runs) if "penstock" in names else [],
        "Flows written down": lambda: written.all_figures(quick, runs),
    }
    figures: list[Figure] = []
    for title, program in programs.items():
        found = program()
        show(title, found)
        figures += found
    show("All figures that have a target", [figure for figure in figures if figure.met is not None])
    return exit_code(figures)


if __name__ == "__main__":
    sys.exit(main())
