"""A service that degrades above 40 requests at once: fixed limits of 256 and 40, and the adaptive one that finds 40."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rig
from degrading import CAPACITY, SECONDS
from figures import Figure, exit_code, show

from penstock import AdaptiveLimit, Flow, Service, from_async_iterable
from penstock.results import DiscardResults

LIMITS: dict[str, int | AdaptiveLimit] = {"256": 256, "40": CAPACITY, "adaptive": AdaptiveLimit(4, 256)}
WARM_UP = 0.5
"""Part of the time before the measurement, in which the limit is found."""


@dataclass
class Outcome:
    per_second: float
    p99: float
    failed: int
    limit: int


async def enrich(url: str, limit: int | AdaptiveLimit, seconds: float) -> Outcome:
    """Enrich orders for some seconds; what the second half of that time was like."""
    http = Service.http("stock", f"{url}/stock/{{orderId}}", max_in_flight=limit, timeout=2, attempts=3)
    began = time.perf_counter()
    took: list[float] = []
    call: Any = http.function

    async def timed(order: dict[str, int]) -> Any:
        start = time.perf_counter()
        try:
            return await call(order)
        finally:
            if start > began + seconds * WARM_UP:
                took.append(time.perf_counter() - start)

    async def orders() -> AsyncIterator[dict[str, int]]:
        number = 0
        while time.perf_counter() < began + seconds:
            number += 1
            yield {"orderId": number}

    service = http.with_function(timed)
    run = Flow[Any]("orders", elements=512).enrich(stock=service).start(from_async_iterable(orders()), DiscardResults())
    await asyncio.sleep(seconds * WARM_UP)
    ok = service.statistics().results["ok"]
    await asyncio.sleep(began + seconds - time.perf_counter())
    ok = service.statistics().results["ok"] - ok
    limit_now = service.statistics().limit
    summary = await run.finished
    await call.on_idle()
    return Outcome(ok / (seconds * (1 - WARM_UP)), rig.percentile(took, 0.99), summary.failed, limit_now)


def all_figures(quick: bool, runs: int) -> list[Figure]:
    seconds = 6 if quick else 30
    outcomes: dict[str, list[Outcome]] = {name: [] for name in LIMITS}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(runs):
            for name, limit in LIMITS.items():
                command = [sys.executable, str(rig.HERE / "degrading.py")]
                server = rig.Server(name, command, {}, Path(folder))
                try:
                    outcomes[name].append(asyncio.run(enrich(server.origin, limit, seconds)))
                finally:
                    server.stop()
    figures: list[Figure] = []
    for name, found in outcomes.items():
        per_second = rig.median([each.per_second for each in found])
        figures.append(
            Figure(
                f"limit {name}: orders/s",
                per_second,
                note=f"at best {CAPACITY / SECONDS:g}; at the end the limit was {found[-1].limit}",
            )
        )
        figures.append(Figure(f"limit {name}: p99 of a request", rig.median([each.p99 for each in found]) * 1000, "ms"))
        figures.append(Figure(f"limit {name}: failed orders", rig.median([each.failed for each in found])))
    ratios = [
        adaptive.per_second / best.per_second
        for adaptive, best in zip(outcomes["adaptive"], outcomes["40"], strict=True)
    ]
    figures.append(Figure("adaptive / limit 40: orders/s", rig.median(ratios), "x", at_least=0.9))
    return figures


def main() -> int:
    given = rig.arguments(__doc__, runs=3)
    figures = all_figures(given.quick, given.runs)
    show("A service that degrades above 40 requests at once", figures)
    return exit_code(figures)


if __name__ == "__main__":
    sys.exit(main())
