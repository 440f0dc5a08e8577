"""What the Kafka source costs and loses, against aiokafka by hand on the same broker."""

# pyright: reportMissingTypeStubs=false

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiokafka
import brokers_latency
import rig
import structlog
from figures import Figure, exit_code, show

sys.path.insert(0, str(rig.ROOT / "tests"))  # of the servers

from messaging.kafka_topics import SESSION_SECONDS, Workers, new_topic, numbers, produce, repeated, workers
from penstock import Flow
from penstock.results import DiscardResults
from penstock.sources import KafkaSource
from penstock.sources.kafka import WINDOWS_AHEAD
from servers import KafkaServer, new_name, running

WINDOW = 256
"""Records in a batch, of both."""

KILL_WINDOW = 64

PARTITIONS = 4


async def until(reached: Callable[[], Any], period: float = 0.002) -> float:
    """The time at which a condition holds."""
    async with asyncio.timeout(300):
        while not reached():
            await asyncio.sleep(period)
    return time.perf_counter()


def source_of(server: KafkaServer, topic: str) -> KafkaSource:
    """A source of a new group."""
    return KafkaSource(f"kafka://{server.address}", topic, new_name(), from_="earliest")


async def by_penstock(server: KafkaServer, topic: str, count: int) -> float:
    """Seconds from the first record until all are committed."""
    received = 0
    begun = 0.0

    def note(value: Any) -> None:
        nonlocal received, begun
        if not received:
            begun = time.perf_counter()
        received += 1

    run = Flow[Any]("f").window(WINDOW).tap(note).start(source_of(server, topic), DiscardResults())
    await until(lambda: received == count)
    run.drain()
    await run.finished
    return time.perf_counter() - begun


async def by_hand(server: KafkaServer, topic: str, count: int) -> float:
    """The same without a flow: it parses JSON and commits each batch."""
    consumer = aiokafka.AIOKafkaConsumer(
        topic,
        bootstrap_servers=server.address,
        group_id=new_name(),
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    await consumer.start()
    received = 0
    begun = 0.0
    while received < count:
        batches = await consumer.getmany(timeout_ms=500, max_records=WINDOW)
        begun = begun or (time.perf_counter() if batches else 0.0)
        for records in batches.values():
            for record in records:
                json.loads(record.value)
                received += 1
        if batches:
            await consumer.commit()
    await consumer.stop()
    return time.perf_counter() - begun


async def against_aiokafka(server: KafkaServer, count: int, runs: int) -> list[Figure]:
    """Records/s, and the median of the ratios of neighbouring runs."""
    topic = await numbers(server, count, PARTITIONS)
    ours: list[float] = []
    ratios: list[float] = []
    for number in range(runs + 1):
        mine, theirs = await by_penstock(server, topic, count), await by_hand(server, topic, count)
        if number:  # the first run does not count
            ours.append(count / mine)
            ratios.append(theirs / mine)
    return [
        Figure("Kafka → flow → commit", statistics.median(ours), "records/s"),
        Figure("against aiokafka by hand", statistics.median(ratios), "x", at_least=0.5),
    ]


async def latency_bound(server: KafkaServer, count: int, runs: int) -> list[Figure]:
    """A service of 20 ms: see `brokers_latency`."""
    topic = await numbers(server, count, PARTITIONS)
    parts: list[float] = []
    memory: list[float] = []
    for _ in range(runs):
        parts.append(await brokers_latency.part_of_ideal(source_of(server, topic), count))
        memory.append(await brokers_latency.from_memory(count))
    return brokers_latency.figures_of(parts, memory)


async def kill_one(server: KafkaServer, group: Workers, topic: str, count: int) -> tuple[int, int, float]:
    """kill -9 of one of two workers in the middle: what is lost and repeated, and when its work continues."""
    first, second = (group.start(window=KILL_WINDOW, seconds=0.002, width=KILL_WINDOW) for _ in range(2))
    written = 0

    async def write(more: int) -> None:
        nonlocal written
        values = (b'{"n":%d}' % number for number in range(written, written + more))
        await produce(server, topic, values, PARTITIONS)
        written += more

    while not (first.processed and second.processed):
        await write(10 * PARTITIONS)
        await asyncio.sleep(0.5)
    await write((count - written) // PARTITIONS * PARTITIONS)
    await until(lambda: len(first.processed) > count / 8, 0.01)
    first.kill()
    killed, before = time.perf_counter(), len(second.processed)
    partitions = {number % PARTITIONS for number in first.processed[-50:]}
    continued = await until(lambda: any(n % PARTITIONS in partitions for n in second.processed[before:]), 0.02)
    await until(lambda: len(group.processed) == written, 0.05)
    second.kill()
    return written - len(group.processed), repeated(group.processed), continued - killed


async def kills(server: KafkaServer, count: int, rounds: int) -> list[Figure]:
    """The worst of all rounds."""
    found: list[tuple[int, int, float]] = []
    for _ in range(rounds):
        topic = await new_topic(server, PARTITIONS)
        with tempfile.TemporaryDirectory() as folder, workers(server, topic, Path(folder)) as group:
            found.append(await kill_one(server, group, topic, count))
    return [
        Figure(f"{rounds} kills with {count:,} records: lost", sum(lost for lost, _, _ in found), "records", at_most=0),
        Figure(
            "repeated, at most",
            max(again for _, again, _ in found),
            "records",
            at_most=WINDOWS_AHEAD * KILL_WINDOW,
            note=f"{WINDOWS_AHEAD} windows of {KILL_WINDOW}",
        ),
        Figure(
            "its work continues after, at most",
            max(seconds for _, _, seconds in found),
            "s",
            at_most=SESSION_SECONDS + 3,
            note=f"session timeout {SESSION_SECONDS:g} s",
        ),
    ]


def all_figures(quick: bool, runs: int) -> list[Figure]:
    """Run everything on one broker."""
    server = running(KafkaServer)
    count, rounds = (4000, 1) if quick else (40_000, 10)
    try:
        return [
            *asyncio.run(against_aiokafka(server, 5 * count, runs)),
            *asyncio.run(latency_bound(server, count // 2, runs)),
            *asyncio.run(kills(server, count, rounds)),
        ]
    finally:
        server.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smaller numbers: to see that it runs, not to measure")
    parser.add_argument("--runs", type=int, default=5, help="runs of which the median counts (5)")
    given = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    figures = all_figures(given.quick, given.runs)
    show("Kafka", figures)
    return exit_code(figures)


if __name__ == "__main__":
    sys.exit(main())
