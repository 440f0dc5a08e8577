"""The Kafka source and sink with a real broker, in one process."""

from __future__ import annotations

import asyncio
from typing import Any

import aiokafka
import pytest
from structlog.testing import capture_logs

from messaging.kafka_topics import SESSION_SECONDS, new_topic, numbers, produce
from penstock import Flow, Service
from penstock.backends.aiokafka_group import AiokafkaGroup
from penstock.deadletters import DeadLetterQuery, MemoryStore
from penstock.results import DiscardResults
from penstock.sinks import KafkaSink
from penstock.sources import KafkaSource
from servers import KafkaServer, free_port, new_name
from waiting import until_async


def source_of(server: KafkaServer, topic: str, **options: Any) -> KafkaSource:
    """A source that begins with the oldest record."""
    return KafkaSource(
        f"kafka://{server.address}",
        topic,
        **({"group": "g", "from_": "earliest", "session_timeout": SESSION_SECONDS} | options),
    )


async def committed(server: KafkaServer, topic: str, partitions: int = 4, group: str = "g") -> int:
    """The sum of the committed offsets."""
    consumer = aiokafka.AIOKafkaConsumer(bootstrap_servers=server.address, group_id=group, enable_auto_commit=False)
    await consumer.start()
    try:
        return sum([await consumer.committed(aiokafka.TopicPartition(topic, each)) or 0 for each in range(partitions)])
    finally:
        await consumer.stop()


async def test_records_pass_a_flow_to_another_topic(kafka_server: KafkaServer) -> None:
    """Failed ones become dead letters with the name of the record, and all of them are committed."""
    topic, target = await numbers(kafka_server, 200), await new_topic(kafka_server)
    await produce(kafka_server, topic, [b"{no json", None])
    store = MemoryStore()
    sink = KafkaSink(f"kafka://{kafka_server.address}", target, key="value.n")
    flow = Flow[Any]("f").window(32).to(sink).dead_letters(store)
    before = asyncio.all_tasks()

    run = flow.start(source_of(kafka_server, topic), DiscardResults())
    await until_async(lambda: sum(run.ledger.settled.values()) == 202)
    run.drain()
    summary = await run.finished

    assert (summary.received, summary.ok, summary.failed, summary.filtered) == (202, 200, 1, 1)
    assert await committed(kafka_server, topic) == 202
    (letter,) = (await store.page(DeadLetterQuery(), limit=10)).letters
    assert letter.step == "decode"
    assert str(letter.origin).startswith(f"kafka:{topic}/0/50@")
    assert asyncio.all_tasks() == before


async def test_latest_skips_older_records_once(kafka_server: KafkaServer) -> None:
    """A group begins at the end, and commits that: what is written while no worker runs is not skipped."""
    topic = await new_topic(kafka_server)
    for _ in range(3):  # one record in a batch: Tansu reports the first record of the last batch as the end
        await produce(kafka_server, topic, [b'{"n":%d}' % number for number in range(4)])
    seen: list[int] = []
    flow = Flow[Any]("f").tap(lambda value: seen.append(value["n"]))

    with capture_logs() as logs:
        run = flow.start(source_of(kafka_server, topic, from_="latest"), DiscardResults())
        await until_async(lambda: any(each["event"] == "kafka.assigned" for each in logs))
        await asyncio.sleep(0.5)
        run.drain()
        await run.finished
    await produce(kafka_server, topic, (b'{"n":%d}' % number for number in range(100, 108)))
    run = flow.start(source_of(kafka_server, topic, from_="latest"), DiscardResults())
    await until_async(lambda: len(seen) >= 8)
    run.drain()
    await run.finished

    assert sorted(seen) == [*range(100, 108)]


@pytest.mark.long
async def test_records_that_arrive_before_their_partition_is_known_are_not_lost(
    kafka_server: KafkaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client may fetch records after a rebalance before the positions of the partitions were read."""
    total = 2000
    topic = await numbers(kafka_server, total)
    committed = AiokafkaGroup.committed

    async def late(self: AiokafkaGroup, partitions: Any) -> Any:
        await asyncio.sleep(1)
        return await committed(self, partitions)

    monkeypatch.setattr(AiokafkaGroup, "committed", late)
    seen: list[int] = []

    async def note(value: Any) -> Any:
        await asyncio.sleep(0.05)
        seen.append(value["n"])
        return value

    flow = Flow[Any]("f").window(16).map_async(Service("note", note, max_in_flight=16))
    group = new_name()
    run = flow.start(source_of(kafka_server, topic, group=group), DiscardResults())
    await until_async(lambda: len(seen) > 100)
    other = aiokafka.AIOKafkaConsumer(topic, bootstrap_servers=kafka_server.address, group_id=group)
    await other.start()
    await other.stop()
    await until_async(lambda: len(set(seen)) == total)
    run.drain()
    await run.finished

    assert len(seen) == total


@pytest.mark.long
async def test_run_continues_when_its_broker_was_killed(durable_kafka_server: KafkaServer) -> None:
    """Nothing is lost; what was not committed is repeated."""
    total = 1000
    topic = await numbers(durable_kafka_server, total)
    seen: list[int] = []

    async def note(value: Any) -> Any:
        await asyncio.sleep(0.05)
        seen.append(value["n"])
        return value

    flow = Flow[Any]("f").window(16).map_async(Service("note", note, max_in_flight=16))
    run = flow.start(source_of(durable_kafka_server, topic, group=new_name()), DiscardResults())
    await until_async(lambda: len(seen) > total / 4)
    await asyncio.to_thread(durable_kafka_server.kill)
    await asyncio.sleep(2)
    assert len(seen) < total
    await asyncio.to_thread(durable_kafka_server.start)
    await until_async(lambda: len(set(seen)) == total)
    run.drain()
    summary = await run.finished

    assert summary.reason == "draining"
    assert len(seen) - total <= 8 * 16


async def test_full_window_sends_no_fetch_requests(kafka_server: KafkaServer) -> None:
    """A slow sink: the consumer fetches at most one chunk of each partition in advance."""
    topic = await new_topic(kafka_server)
    await produce(kafka_server, topic, (b'{"n":%d,"text":"%s"}' % (n, b"x" * 10_000) for n in range(800)))
    fetched: list[Any] = []
    run = (
        Flow[Any]("f")
        .window(8)
        .map_async(Service("slow", lambda value: asyncio.sleep(999, value), max_in_flight=8, timeout=999))
        .start(source_of(kafka_server, topic, max_partition_fetch_bytes=50_000), DiscardResults())
    )
    from aiokafka.client import AIOKafkaClient

    send = AIOKafkaClient.send

    async def counted(self: Any, node: Any, request: Any, **options: Any) -> Any:
        if type(request).__name__.startswith("Fetch"):
            fetched.append(request)
        return await send(self, node, request, **options)

    patched = pytest.MonkeyPatch()
    patched.setattr(AIOKafkaClient, "send", counted)
    try:
        await until_async(lambda: run.ledger.in_flight == 8)
        await asyncio.sleep(1)
        before = len(fetched)
        await asyncio.sleep(2)
        after = len(fetched)
    finally:
        patched.undo()
    run.abort()
    await run.finished

    assert 0 < before == after


async def test_stop_while_the_group_assigns_partitions_leaves_nothing(kafka_server: KafkaServer) -> None:
    """The run ends within a few seconds, with no task left."""
    topic = await new_topic(kafka_server)
    before = asyncio.all_tasks()
    for seconds in (0.0, 0.01, 0.3):
        run = Flow[Any]("f").start(source_of(kafka_server, topic, group=new_name()), DiscardResults())
        await asyncio.sleep(seconds)
        run.drain()
        async with asyncio.timeout(9):
            summary = await run.finished
        assert summary.reason == "draining"
        assert asyncio.all_tasks() == before


async def test_unreachable_broker_fails_the_run() -> None:
    """A supervisor starts it again."""
    address = f"127.0.0.1:{free_port()}"
    advice = f"kafka t/g: cannot reach {address}; check that a broker runs there"
    for login, expected in (("", advice), ("me:s3cret@", f"{advice}, and user and password")):
        source = KafkaSource(f"kafka://{login}{address}", "t", "g")

        summary = await Flow[Any]("f").start(source, DiscardResults()).finished

        assert summary.reason == "failed"
        assert str(summary.error) == f"the source kafka failed: {expected}"
