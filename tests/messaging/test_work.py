"""`penstock work` with a real broker: processes that only consume, are stopped, and leave their work to others."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from messaging.jetstream import Stream, new_stream
from messaging.kafka_topics import new_topic, numbers
from messaging.test_kafka_sink import records
from servers import KafkaServer, NatsServer
from service.processes import until, working

pytestmark = pytest.mark.long

MESSAGES = 3000

SLOW = """\
import asyncio


class Refused(Exception):
    retryable = False


async def look_up(value):
    await asyncio.sleep(0.05)
    if value["n"] % 10 == 3:
        raise Refused("no three")
    return value["n"]
"""

FLOW = """\
flow: shop
item: {{n: integer}}
key: n
window: 64
services: {{look_up: {{call: "slow:look_up"}}}}
steps:
- enrich: [look_up]
- to: {{{sink}}}
serve: false
workers: {{w: {{source: {{{source}}}}}}}
"""


def write_flow(folder: Path, source: str, sink: str) -> Path:
    """Write a flow from a broker to a broker, and return its file."""
    (folder / "slow.py").write_text(SLOW)
    (file := folder / "shop.yaml").write_text(FLOW.format(source=source, sink=sink))
    return file


def from_stream_to(folder: Path, stream: Stream, target: Stream, more: str = "") -> Path:
    """Write a flow from one stream to another, and return its file."""
    url = stream.server.url
    source = f"nats: '{url}', stream: {stream.name}, durable: work, ack_wait: 10m{more}"
    return write_flow(folder, source, f"nats: '{url}', subject: '{target.name}.{{n}}'")


def numbers_in(payloads: Iterable[Any]) -> list[int]:
    """Return the numbers in messages, sorted."""
    return sorted(json.loads(payload)["n"] for payload in payloads)


def stop_twice_and_finish(folder: Path, file: Path) -> tuple[int, int]:
    """Run three processes one after the other until all is processed. Return how many were received, and failed.

    Each is stopped by SIGTERM.
    """
    received = failed = 0
    for wanted in (500, 1000, MESSAGES):
        with working(folder, file) as process:
            until(lambda: received + process.metric("penstock_settled_total") >= wanted, period=0.1)  # noqa: B023 - not kept
            assert process.stop() == 0
            (ended,) = process.logged("run.ended", kind="worker")
        assert (ended["reason"], ended["cancelled"]) == ("draining", 0)
        received, failed = received + ended["received"], failed + ended["failed"]
    return received, failed


EXPECTED = [number for number in range(MESSAGES) if number % 10 != 3]


async def test_stopped_processes_release_all_leases_and_repeat_nothing(nats_server: NatsServer, tmp_path: Path) -> None:
    """Leases last ten minutes, so the next process can only continue with what was released."""
    async with new_stream(nats_server) as stream, new_stream(nats_server) as target:
        await stream.publish_numbers(MESSAGES)
        counts = stop_twice_and_finish(tmp_path, from_stream_to(tmp_path, stream, target))
        consumer = await stream.consumer("work")
        published = await target.messages()

    assert counts == (MESSAGES, MESSAGES // 10)
    assert (consumer.num_ack_pending, consumer.num_pending) == (0, 0)
    assert numbers_in(message.data for message in published) == EXPECTED


async def test_stopped_members_of_a_group_repeat_nothing(kafka_server: KafkaServer, tmp_path: Path) -> None:
    """What is in flight is finished, written to the other topic and committed."""
    topic, target = await numbers(kafka_server, MESSAGES), await new_topic(kafka_server)
    url = f"kafka://{kafka_server.address}"
    source = f"kafka: '{url}', topic: {topic}, group: g-{topic}, from: earliest, session_timeout: 3s"
    sink = f"kafka: '{url}', topic: {target}, key: value.n, headers: {{from: \"'shop'\"}}"
    counts = stop_twice_and_finish(tmp_path, write_flow(tmp_path, source, sink))
    written = await records(kafka_server, target, len(EXPECTED))

    assert counts == (MESSAGES, MESSAGES // 10)
    assert numbers_in(record.value for record in written) == EXPECTED
    assert {(record.key == b"%d" % json.loads(record.value)["n"], record.headers) for record in written} == {
        (True, (("from", b"shop"),))
    }


async def test_a_reload_repeats_nothing(nats_server: NatsServer, tmp_path: Path) -> None:
    """The run of the old revision is drained before that of the new one begins."""
    async with new_stream(nats_server) as stream, new_stream(nats_server) as target:
        await stream.publish_numbers(MESSAGES)
        file = from_stream_to(tmp_path, stream, target)
        with working(tmp_path, file) as process:
            until(lambda: process.metric("penstock_settled_total") >= 500, period=0.1)
            file.write_text(file.read_text().replace("window: 64", "window: 256"))
            process.signal(signal.SIGHUP)
            ended = process.event("run.ended", kind="worker", revision=1)
            until(lambda: process.metric("penstock_settled_total") >= MESSAGES, period=0.1)
            assert process.metric("penstock_received_total") == MESSAGES
        published = await target.messages()

    assert (ended["reason"], ended["cancelled"]) == ("draining", 0)
    assert ended["received"] < MESSAGES
    assert numbers_in(message.data for message in published) == EXPECTED


async def test_redelivered_failures_become_one_letter_each_in_the_end(nats_server: NatsServer, tmp_path: Path) -> None:
    """With `on_failure: redeliver` an item fails as often as `deliveries` says, then as Poisoned."""
    async with new_stream(nats_server) as stream, new_stream(nats_server) as target:
        file = from_stream_to(tmp_path, stream, target, ", on_failure: redeliver, deliveries: 1")
        await stream.publish_numbers(20)
        with working(tmp_path, file) as process:
            until(lambda: process.metric("penstock_dead_letters_total", step="source") == 2, period=0.1)
            assert process.metric("penstock_settled_total", outcome="failed") == 4
            assert process.metric("penstock_dead_letters_total") == 2
        info = await stream.consumer("work")
        assert (info.num_ack_pending, info.num_pending) == (0, 0)
        assert len(await target.messages()) == 18


async def test_a_broker_that_is_not_there_restarts_the_run_with_backoff(tmp_path: Path) -> None:
    """The process stays up and says so, without a password."""
    (file := tmp_path / "f.yaml").write_text(
        "flow: f\nworkers: {w: {source: {nats: 'nats://u:s3cret@127.0.0.1:1', stream: S, durable: d}}}\n"
    )
    with working(tmp_path, file) as process:
        restart = process.event("worker.restart", worker="w")
        assert process.request("GET", "/health/live").status == 200
        assert process.stop() == 0
    assert "S/d" in restart["error"]
    assert "s3cret" not in str(process.events)
