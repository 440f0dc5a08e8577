"""A process that redrives a job of a SQLite file, for the tests: `process_main.py URL JOB CALLS LEASE SECONDS`.

Each call of its service adds a line with the number of the order, its process and the time to the file CALLS.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import Any

from penstock import Flow, Service
from penstock.deadletters import create_store
from penstock.deadletters.log import is_queue
from penstock.redrive import Redriver
from penstock.runtime import Supervisor


class Registry:
    """One flow, which writes down each call."""

    def __init__(self, calls: Path, seconds: float) -> None:
        self._file = os.open(calls, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._seconds = seconds
        service = Service("pricing", self.price, max_in_flight=32)
        self._flow: Flow[Any] = Flow[Any]("orders", key="id", elements=64).enrich({"pricing": service})

    async def price(self, order: dict[str, Any]) -> dict[str, Any]:
        os.write(self._file, f"{order['id']} {os.getpid()} {time.time()}\n".encode())
        await asyncio.sleep(self._seconds)
        if order["id"] % 100 == 99:
            raise ValueError("no price")
        return {"price": 1}

    def flow(self, name: str) -> Any:
        return self._flow if name == "orders" else None

    def names(self) -> list[str]:
        return ["orders"]


async def main(url: str, job: str, calls: str, lease: str, seconds: str) -> None:
    """Run the job until it has ended."""
    supervisor = Supervisor()
    store = await supervisor.stores.get(create_store(url))
    assert is_queue(store)
    redriver = Redriver(supervisor, Registry(Path(calls), float(seconds)), lease=float(lease))
    ended = await redriver.run(store, job)
    print(ended.state, flush=True)
    await supervisor.shut_down(5)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
