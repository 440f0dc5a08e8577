"""What the sources of brokers cost, and what is lost and repeated when workers are killed."""

from __future__ import annotations

import argparse
import logging
import signal
import sys

import brokers_jetstream
import brokers_kafka
import structlog
from figures import exit_code, show

PARTS = {"jetstream": brokers_jetstream.all_figures, "kafka": brokers_kafka.all_figures}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smaller numbers: to see that it runs, not to measure")
    parser.add_argument("--runs", type=int, default=5, help="runs of which the median counts (5)")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    figures = [figure for part in given.only for figure in PARTS[part](given.quick, given.runs)]
    show("Brokers", figures)
    return exit_code(figures)


if __name__ == "__main__":
    sys.exit(main())
