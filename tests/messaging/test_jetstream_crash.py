"""Workers and servers of JetStream that are killed or stopped: no message is lost, and few are processed twice."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from messaging.jetstream import Worker, new_stream
from penstock import Flow
from penstock.results import DiscardResults
from penstock.sources import JetStreamSource
from servers import NatsServer
from waiting import HANG_SECONDS, until, until_async

pytestmark = pytest.mark.long

MESSAGES = 6000
WINDOW = 256


async def test_killed_worker_loses_nothing_and_repeats_its_leases_at_most(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    """Another worker receives them when they have expired."""
    async with new_stream(nats_server) as stream:
        first = Worker(stream, tmp_path / "first", ack_wait=2, seconds=0.05)
        second = Worker(stream, tmp_path / "second", ack_wait=2, seconds=0.05)
        try:
            await stream.wait_for_workers(2)
            await stream.publish_numbers(MESSAGES)
            await asyncio.to_thread(until, lambda: first.numbers().total() > MESSAGES / 5)
            first.kill()
            await asyncio.to_thread(
                until, lambda: len(first.numbers() | second.numbers()) == MESSAGES, HANG_SECONDS, 0.1
            )
            last = await asyncio.to_thread(second.terminate)
        finally:
            first.kill()
            second.kill()

    noted = first.numbers() + second.numbers()
    assert first.numbers().total() < MESSAGES, "the worker was killed too late"
    assert set(noted) == set(range(MESSAGES))
    assert noted.total() - MESSAGES <= WINDOW
    assert last.startswith("draining")


async def test_stopped_workers_repeat_nothing(nats_server: NatsServer, tmp_path: Path) -> None:
    """SIGTERM drains: what is in flight is finished and acknowledged, the rest is released at once."""
    async with new_stream(nats_server) as stream:
        await stream.publish_numbers(MESSAGES)
        workers = [Worker(stream, tmp_path / "0", ack_wait=30, seconds=0.1)]
        try:
            for number in range(1, 4):
                await asyncio.to_thread(until, lambda: len(workers[-1].numbers()) > 500)
                workers.append(Worker(stream, tmp_path / str(number), ack_wait=30, seconds=0.1))
                await asyncio.to_thread(workers[-2].terminate)
            # Less than `ack_wait`: a lease that was not released would come too late.
            await asyncio.to_thread(
                until, lambda: sum(worker.numbers().total() for worker in workers) >= MESSAGES, 25, 0.1
            )
            await asyncio.to_thread(workers[-1].terminate)
        finally:
            for worker in workers:
                worker.kill()

    noted = [number for worker in workers for number in worker.numbers().elements()]
    assert sorted(noted) == list(range(MESSAGES))


async def test_killed_server_loses_nothing(nats_server: NatsServer) -> None:
    """The source reconnects and goes on. Messages whose acknowledgement was lost are recognized."""
    seen: list[int] = []

    async def work(value: Any) -> Any:
        await asyncio.sleep(0.005)
        seen.append(value["n"])
        return value

    async with new_stream(nats_server) as stream:
        await stream.publish_numbers(MESSAGES)
        source = JetStreamSource(nats_server.url, stream.name, "work", ack_wait=3)
        run = Flow[Any]("f").window(WINDOW).map_async(work, max_in_flight=64).start(source, DiscardResults())
        await until_async(lambda: len(seen) > 1000)
        await asyncio.to_thread(nats_server.kill)
        await asyncio.sleep(0.5)
        assert len(seen) < MESSAGES, "the server was killed too late"
        await asyncio.to_thread(nats_server.start)
        await until_async(lambda: len(set(seen)) == MESSAGES)
        await asyncio.sleep(4)  # all leases that the server has expire
        run.drain()
        summary = await asyncio.wait_for(run.finished, HANG_SECONDS)
        info = await stream.consumer("work")

    assert (summary.reason, summary.failed) == ("draining", 0)
    assert len(seen) == MESSAGES
    assert (info.num_pending, info.num_ack_pending) == (0, 0)


async def test_run_ends_while_the_server_is_away(nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not wait for the server for ever; the messages are delivered again."""
    monkeypatch.setattr("penstock.sources.jetstream_run.CLOSE_SECONDS", 1.0)
    async with new_stream(nats_server) as stream:
        await stream.publish_numbers(10)
        source = JetStreamSource(nats_server.url, stream.name, "work")
        run = Flow[Any]("f").window(5).map_async(lambda value: asyncio.sleep(60, value)).start(source, DiscardResults())
        await until_async(lambda: run.context.ledger.received == 5)
        await asyncio.to_thread(nats_server.kill)
        try:
            run.abort()
            async with asyncio.timeout(10):
                summary = await run.finished
        finally:
            await asyncio.to_thread(nats_server.start)

    assert summary.cancelled == 5
