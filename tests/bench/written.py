"""What it costs that a flow is written down: checking a file, starting the command line, and running the flow."""

from __future__ import annotations

import asyncio
import gc
import logging
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import orders
import rig
import structlog
from figures import Figure, exit_code, show

from penstock import Flow
from penstock.flowfile import load
from penstock.orders import orders_flow, simulated_inventory, simulated_pricing
from penstock.results import LineWriter
from penstock.sources import ndjson

LINES = 200
"""Lines of the flow file that is checked."""


def long_file(folder: Path) -> Path:
    """A flow file of 200 lines: services, branches, expressions."""
    services = [f"  s{n}: {{get: 'http://127.0.0.1:1/{{id}}', timeout: 2s, attempts: 3}}" for n in range(60)]
    steps = [f"  - filter: value.amount{n} > {n} && has(value.kind)" for n in range(67)]
    steps += [f"  - enrich: [s{n}]" for n in range(60)]
    branches = [f"      b{n}: {{when: value.amount > {n}, steps: [{{set: {{branch: '{n}'}}}}]}}" for n in range(8)]
    lines = ["flow: long", "key: id", "services:", *services, "steps:", *steps, "  - route:", *branches]
    file = folder / "long.yaml"
    file.write_text("\n".join(lines) + "\n")
    assert len(lines) == LINES
    return file


def milliseconds(work: Callable[[], object], runs: int) -> float:
    """The median time of some work."""
    times: list[float] = []
    for _ in range(runs):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return statistics.median(times) * 1000


def cost(flow: Flow[Any], chunks: list[bytes]) -> float:
    """CPU seconds that a run of these orders takes in this process."""

    async def body() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    async def write(_: bytes) -> None:
        """Nobody reads."""

    async def main() -> float:
        begun = time.process_time()
        await flow.start(ndjson(body()), LineWriter(write)).finished
        return time.process_time() - begun

    return asyncio.run(main())


def file_against_python(count: int, runs: int) -> Figure:
    """The orders flow from its file, and the same built by a function."""
    services = {"pricing": simulated_pricing(0), "inventory": simulated_inventory(0)}
    written = load(rig.ROOT / "flows/penstock/orders.yaml").flow.services(services)
    built = orders_flow(simulated_pricing(0), simulated_inventory(0))
    body = orders.body(count, failing=False)
    chunks = [body[at : at + orders.CHUNK] for at in range(0, len(body), orders.CHUNK)]
    pairs = [(cost(built, chunks), cost(written, chunks)) for _ in range(runs + 1)][1:]
    ratio = statistics.median(python / file for python, file in pairs)
    microseconds = statistics.median(file for _, file in pairs) / count * 1e6
    return Figure(
        "orders/s from a file, against Python", ratio, "x", at_least=0.97, note=f"{microseconds:.2f} µs an order"
    )


def all_figures(quick: bool, runs: int) -> list[Figure]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    gc.set_threshold(20_000, 20, 100)  # as `penstock serve` does
    with tempfile.TemporaryDirectory() as folder:
        file = long_file(Path(folder))
        first = milliseconds(lambda: load(file), 1)
        check = milliseconds(lambda: load(file), runs)
    help = milliseconds(
        lambda: subprocess.run([sys.executable, "-m", "penstock", "--help"], stdout=-3, check=True), runs
    )
    bare = milliseconds(lambda: subprocess.run([sys.executable, "-c", ""], check=True), runs)
    return [
        Figure(f"check of {LINES} lines, the first", first, "ms", at_most=100, note="imports CEL"),
        Figure(f"check of {LINES} lines, again", check, "ms", at_most=100),
        Figure("penstock --help", help, "ms", at_most=150, note=f"python alone {bare:.0f} ms"),
        file_against_python(5_000 if quick else 100_000, runs),
    ]


def main() -> int:
    given = rig.arguments(__doc__, runs=7)
    figures = all_figures(given.quick, given.runs)
    show("Flows written down", figures)
    return exit_code(figures)


if __name__ == "__main__":
    sys.exit(main())
