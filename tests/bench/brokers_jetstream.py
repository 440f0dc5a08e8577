"""What the JetStream source costs and loses, against nats-py's `fetch` by hand on the same server."""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import brokers_latency
import rig
from figures import Figure

sys.path.insert(0, str(rig.ROOT / "tests"))  # of the servers

from messaging.jetstream import Stream, Worker, new_stream
from penstock import Flow
from penstock.results import DiscardResults
from penstock.sources import JetStreamSource
from servers import NatsServer, new_name, running

WINDOW = 256
"""Messages in a batch, of both."""

ACK_WAIT = 2.0


async def until(reached: Callable[[], bool], period: float = 0.002) -> float:
    """The time at which a condition holds."""
    async with asyncio.timeout(300):
        while not reached():
            await asyncio.sleep(period)
    return time.perf_counter()


async def by_penstock(stream: Stream, count: int) -> float:
    """Seconds in which the source receives all messages, and the server has all acknowledgements."""
    received = 0

    def note(value: Any) -> None:
        nonlocal received
        received += 1

    source = JetStreamSource(stream.server.url, stream.name, durable := new_name())
    begun = time.perf_counter()
    run = Flow[Any]("f").window(WINDOW).tap(note).start(source, DiscardResults())
    await until(lambda: received == count)
    run.drain()
    await run.finished
    seconds = time.perf_counter() - begun
    await finished(stream, durable)
    return seconds


async def by_hand(stream: Stream, count: int) -> float:
    """The same with `fetch`, without a flow: it parses JSON and acknowledges."""
    import json

    import nats

    begun = time.perf_counter()
    client = await nats.connect(stream.server.url)
    subscription = await client.jetstream().pull_subscribe("", durable := new_name(), stream=stream.name)
    received = 0
    while received < count:
        for message in await subscription.fetch(WINDOW, timeout=1):
            json.loads(message.data)
            await message.ack()
            received += 1
    await client.flush()
    await client.close()
    seconds = time.perf_counter() - begun
    await finished(stream, durable)
    return seconds


async def against_fetch(server: NatsServer, count: int, runs: int) -> list[Figure]:
    """Messages/s, and the median of the ratios of neighbouring runs."""
    async with new_stream(server) as stream:
        await stream.publish_numbers(count)
        ours: list[float] = []
        ratios: list[float] = []
        for number in range(runs + 1):
            mine, theirs = await by_penstock(stream, count), await by_hand(stream, count)
            if number:  # the first run does not count
                ours.append(count / mine)
                ratios.append(theirs / mine)
    return [
        Figure("JetStream → flow → ack", statistics.median(ours), "messages/s"),
        Figure("against fetch by hand", statistics.median(ratios), "x", at_least=2),
    ]


async def latency_bound(server: NatsServer, count: int, runs: int) -> list[Figure]:
    """A service of 20 ms: see `brokers_latency`."""
    parts: list[float] = []
    memory: list[float] = []
    async with new_stream(server) as stream:
        await stream.publish_numbers(count)
        for _ in range(runs):
            source = JetStreamSource(server.url, stream.name, new_name())
            parts.append(await brokers_latency.part_of_ideal(source, count))
            memory.append(await brokers_latency.from_memory(count))
    return brokers_latency.figures_of(parts, memory)


async def with_workers(server: NatsServer, folder: Path, count: int, workers: int) -> float:
    """Messages/s of some processes on one durable, with a service of 20 ms, 64 wide, from when all work."""
    async with new_stream(server) as stream:
        await stream.publish_numbers(count)
        running = [Worker(stream, folder / new_name(), seconds=0.02, width=64) for _ in range(workers)]
        try:
            begun = await until(lambda: all(worker.size() for worker in running), 0.01)
            before = sum(worker.size() for worker in running)
            ended = await until(lambda: sum(worker.size() for worker in running) >= count, 0.01)
            return (count - before) / (ended - begun)
        finally:
            for worker in running:
                worker.kill()


async def scaling(server: NatsServer, folder: Path, quick: bool) -> list[Figure]:
    """Four workers against one."""
    count = 2000 if quick else 12_000
    one = await with_workers(server, folder, count, 1)
    four = await with_workers(server, folder, 5 * count, 4)  # some are done before all workers have started
    return [Figure("four workers against one, 20 ms", four / one, "x", at_least=3.6, note=f"one: {one:,.0f}/s")]


async def takeover(server: NatsServer, folder: Path, count: int, rounds: int) -> list[Figure]:
    """kill -9 of one of two workers in the middle: what is lost, what is repeated, and when its work continues."""
    lost, repeated, late = 0, [0], [0.0]
    for _ in range(rounds):
        async with new_stream(server) as stream:
            workers = [Worker(stream, folder / new_name(), ack_wait=ACK_WAIT) for _ in range(2)]
            try:
                await stream.wait_for_workers(2)
                publishing = asyncio.create_task(stream.publish_numbers(count))
                await until(lambda: workers[0].size() > count / 4)  # noqa: B023 - called at once
                await publishing
                workers[0].kill()
                killed = time.perf_counter()
                late.append(await taken_over(stream) - killed)
                await finished(stream)
            finally:
                for worker in workers:
                    worker.kill()
            noted: Counter[int] = workers[0].numbers() + workers[1].numbers()
            lost += count - len(noted)
            repeated.append(noted.total() - len(noted))
    return [
        Figure(f"{rounds} kills with {count:,} messages: lost", lost, "messages", at_most=0),
        Figure("repeated, at most", max(repeated), "messages", at_most=WINDOW),
        Figure(
            "its messages are done after, at most", max(late), "s", at_most=ACK_WAIT + 2, note=f"ack_wait {ACK_WAIT:g}"
        ),
    ]


async def taken_over(stream: Stream) -> float:
    """The time at which everything that was delivered until now is done, also what a killed worker had."""
    delivered = (await stream.consumer("work")).delivered.stream_seq
    async with asyncio.timeout(60):
        while (await stream.consumer("work")).ack_floor.stream_seq < delivered:
            await asyncio.sleep(0.005)
    return time.perf_counter()


async def finished(stream: Stream, durable: str = "work") -> None:
    """Wait until all messages are acknowledged."""
    async with asyncio.timeout(300):
        while (info := await stream.consumer(durable)).num_pending or info.num_ack_pending:
            await asyncio.sleep(0.01)


def all_figures(quick: bool, runs: int) -> list[Figure]:
    """Run everything on one server."""
    server = running(NatsServer)

    async def measure(work: Callable[[Path], Awaitable[list[Figure]]]) -> list[Figure]:
        with tempfile.TemporaryDirectory() as folder:
            return await work(Path(folder))

    count, rounds = (3000, 1) if quick else (40_000, 10)
    parts: list[Callable[[Path], Awaitable[list[Figure]]]] = [
        lambda _: against_fetch(server, count, runs),
        lambda _: latency_bound(server, count // 2, runs),
        lambda folder: scaling(server, folder, quick),
        lambda folder: takeover(server, folder, count, rounds),
    ]
    try:
        return [figure for part in parts for figure in asyncio.run(measure(part))]
    finally:
        server.close()
