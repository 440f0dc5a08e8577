"""What the dead-letter queue costs: storing letters, redriving them, and looking at a million of them.

`--only store redrive million` runs some of the three. The servers are those of the tests; without the package of one,
its figures are left out, and said so.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rig
import structlog
from figures import Figure, exit_code, show

sys.path.insert(0, str(rig.ROOT / "tests"))  # of the servers

import pytest
import raw_stores
from raw_stores import letters_of

from penstock import Flow, Service
from penstock.deadletters import DeadLetterQuery, create_store
from penstock.deadletters.dead_letter_queue import Job, JobOptions, Requester
from penstock.deadletters.log import is_queue
from penstock.deadletters.sqlite.store import SqliteStore
from penstock.redrive import Redriver
from penstock.runtime import Supervisor
from servers import KafkaServer, NatsServer, PostgresServer, S3Server, new_name, running

GROUP = 512
"""Letters that are stored together, by the store and by the raw client."""

PARTS = ("store", "redrive", "million")


async def seconds_of(add: Callable[[Any], Awaitable[object]], letters: list[Any]) -> float:
    """The time in which letters are stored, in groups."""
    begun = time.perf_counter()
    for start in range(0, len(letters), GROUP):
        await add(letters[start : start + GROUP])
    return time.perf_counter() - begun


async def against_raw(url: str, raw: raw_stores.RawStore, count: int, runs: int) -> tuple[float, float]:
    """Letters/s of a store, and the median of its ratios to the raw client. The first run of both does not count."""
    store = create_store(url, separate_writer=True)
    await store.open()
    async with raw:
        await seconds_of(store.add, letters_of(GROUP))
        await seconds_of(raw.add, letters_of(GROUP))
        rates, ratios = [], []
        for _ in range(runs):
            ours = await seconds_of(store.add, letters_of(count))
            theirs = await seconds_of(raw.add, letters_of(count))
            rates.append(count / ours)
            ratios.append(theirs / ours)
    await store.aclose()
    return statistics.median(rates), statistics.median(ratios)


def stores(folder: Path) -> Iterator[tuple[str, Callable[[], tuple[str, raw_stores.RawStore]]]]:
    """Each store: its name, and what makes its URL and its raw client."""

    def s3() -> tuple[str, raw_stores.RawStore]:
        server = running(S3Server)
        bucket = server.new_bucket()
        keys = "access_key_id=test&secret_access_key=test"
        return f"s3://{bucket}/letters?endpoint={server.endpoint}&{keys}", raw_stores.RawS3(server.endpoint, bucket)

    def postgres() -> tuple[str, raw_stores.RawStore]:
        server = running(PostgresServer)
        return server.new_database(), raw_stores.RawPostgres(server.new_database())

    def kafka() -> tuple[str, raw_stores.RawStore]:
        address = running(KafkaServer).address
        return f"kafka://{address}/{new_name()}", raw_stores.RawKafka(address, new_name())

    def nats() -> tuple[str, raw_stores.RawStore]:
        server = running(NatsServer)
        return f"{server.url}/{new_name()}", raw_stores.RawJetStream(server.url, new_name())

    yield "SQLite", lambda: (f"sqlite:///{folder}/ours.db", raw_stores.RawSqlite(folder / "raw.db"))
    yield "PostgreSQL", postgres
    yield "S3", s3
    yield "Kafka", kafka
    yield "JetStream", nats


def storing(quick: bool, runs: int) -> list[Figure]:
    """Durable letters/s of each store, against its raw client."""
    figures = []
    count = GROUP * (2 if quick else 20)
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:
        for name, make in stores(Path(folder)):
            try:
                url, raw = make()
            except pytest.skip.Exception as missing:
                print(f"!!! {name} IS LEFT OUT: {missing}", file=sys.stderr, flush=True)
                continue
            rate, ratio = asyncio.run(against_raw(url, raw, count, runs))
            note = f"{rate:,.0f} letters/s"
            figures.append(Figure(f"{name}, against its client", ratio, "x", at_least=0.5, note=note))
    return figures


class OneFlow:
    """Finds one flow, which calls two services without latency."""

    def __init__(self) -> None:
        services = {name: Service(name, self.call, max_in_flight=256) for name in ("pricing", "inventory")}
        self._flow: Flow[Any] = Flow[Any]("orders", key="id").enrich(services)

    async def call(self, order: dict[str, Any]) -> dict[str, Any]:
        return {"price": 1000 + order["id"]}

    def flow(self, name: str) -> Any:
        return self._flow if name == "orders" else None

    def names(self) -> list[str]:
        return ["orders"]


async def redrive(url: str, count: int) -> tuple[float, float, Job]:
    """Letters/s of one job, its CPU seconds in this process, and how it ended.

    Storing the letters and creating the job do not count.
    """
    supervisor = Supervisor(separate_writer=True)
    store = await supervisor.stores.get(create_store(url, separate_writer=True))
    assert is_queue(store)
    await seconds_of(store.add, letters_of(count))
    job = await store.create_job(DeadLetterQuery(), JobOptions(), Requester("bench"))
    redriver = Redriver(supervisor, OneFlow())
    begun, cpu_begun = time.perf_counter(), time.process_time()
    ended = await redriver.run(store, job.id)
    seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu_begun
    await supervisor.shut_down(10)
    return count / seconds, cpu, ended


def redriving(quick: bool, runs: int) -> list[Figure]:
    """Letters/s of a redrive job whose services answer at once."""
    count = 500 if quick else 10_000
    figures = []
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:
        urls: dict[str, tuple[Callable[[], str], float]] = {
            "SQLite": (lambda: f"sqlite:///{folder}/{new_name()}.db", 5000),
            "PostgreSQL": (lambda: running(PostgresServer).new_database(), 2000),
        }
        for name, (new_url, target) in urls.items():
            rates, cpus = [], []
            for _ in range(runs):
                try:
                    rate, cpu, job = asyncio.run(redrive(new_url(), count))
                except pytest.skip.Exception as missing:
                    print(f"!!! {name} IS LEFT OUT: {missing}", file=sys.stderr, flush=True)
                    break
                assert (job.state, job.counts.resolved) == ("completed", count), job
                rates.append(rate)
                cpus.append(cpu)
            if rates:
                note = f"{statistics.median(cpus) / count * 1e6:.0f} µs of CPU a letter, without the server's"
                rate = statistics.median(rates)
                figures.append(Figure(f"redriving {count:,}, {name}", rate, "/s", at_least=target, note=note))
    return figures


async def fill(url: str, count: int) -> str:
    """Store letters in 40 groups; returns the id of one in the middle."""
    store = SqliteStore(url)
    await store.open()
    middle = ""
    for start in range(0, count, 20_000):
        letters = letters_of(min(20_000, count - start), start, causes=40)
        await store.add(letters)
        middle = middle or letters[len(letters) // 2].id
    await store.aclose()
    return middle


async def milliseconds_inside(url: str, id: str, runs: int) -> dict[str, float]:
    """The median time of what each command asks of the store, in an open store after one such call."""
    store = SqliteStore(url, read_only=True)
    await store.open()
    group = (await store.groups(DeadLetterQuery()))[0].id

    async def listed() -> None:
        await store.groups(DeadLetterQuery())
        await store.page(DeadLetterQuery())

    async def shown() -> None:
        await store.get(id)
        await store.history(id)

    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "list": listed,
        "list --group": lambda: store.page(DeadLetterQuery(group=group)),
        "list --type --state": lambda: store.page(DeadLetterQuery(type="Down", state="waiting")),
        "groups": lambda: store.groups(DeadLetterQuery()),
        "show": shown,
    }
    found = {}
    for name, call in calls.items():
        times = []
        for _ in range(runs + 1):
            begun = time.perf_counter()
            await call()
            times.append(time.perf_counter() - begun)
        found[name] = statistics.median(times[1:]) * 1000
    await store.aclose()
    return found


def milliseconds_of_command(url: str, *arguments: str, runs: int) -> float:
    """The median time of a whole command, with the start of Python."""
    command = [sys.executable, "-m", "penstock", "dead-letters", *arguments, "--dead-letters", url]
    times = []
    for _ in range(runs + 1):
        begun = time.perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        times.append(time.perf_counter() - begun)
    return statistics.median(times[1:]) * 1000


def looking(quick: bool, runs: int) -> list[Figure]:
    """`list`, `groups` and `show` in a file with a million letters."""
    count = 20_000 if quick else 1_000_000
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:
        url = f"sqlite:///{folder}/million.db"
        begun = time.perf_counter()
        id = asyncio.run(fill(url, count))
        size = os.path.getsize(f"{folder}/million.db") / 1e6
        note = f"{count:,} letters, {size:,.0f} MB, stored in {time.perf_counter() - begun:,.0f} s"
        inside = asyncio.run(milliseconds_inside(url, id, runs))
        figures = [Figure(f"{name}, inside", value, "ms", at_most=200, note=note) for name, value in inside.items()]
        for name, arguments in {"list": ("list",), "groups": ("groups",), "show": ("show", id)}.items():
            value = milliseconds_of_command(url, *arguments, runs=runs)
            figures.append(Figure(f"penstock dead-letters {name}", value, "ms", at_most=200))
        help = milliseconds_of_command(url, "list", "--help", runs=runs)
        figures.append(Figure("penstock dead-letters list --help, for comparison", help, "ms"))
    return figures


@contextmanager
def servers_ended() -> Iterator[None]:
    """End the servers that were started, also after an error."""
    from servers import _servers

    try:
        yield
    finally:
        while _servers:
            with contextlib.suppress(Exception):
                _servers.popitem()[1].close()


def all_figures(quick: bool, runs: int, parts: tuple[str, ...] = PARTS) -> list[Figure]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    gc.set_threshold(20_000, 20, 100)  # as `penstock serve` does
    programs = {"store": storing, "redrive": redriving, "million": looking}
    with servers_ended():
        return [figure for part in parts for figure in programs[part](quick, runs)]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smaller numbers: to see that it runs, not to measure")
    parser.add_argument("--runs", type=int, default=5, help="runs of which the median counts (5)")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    figures = all_figures(given.quick, given.runs, tuple(given.only))
    show("Dead letters", figures)
    return exit_code(figures)


if __name__ == "__main__":
    sys.exit(main())
