"""The Kafka sink, with a real broker."""

from __future__ import annotations

import json
from typing import Any

import aiokafka
import pytest

from messaging.kafka_topics import new_topic
from penstock import Flow, from_iterable
from penstock.errors import FlowDefinitionError
from penstock.results import DiscardResults
from penstock.sinks import KafkaSink
from servers import KafkaServer, free_port


async def records(server: KafkaServer, topic: str, count: int) -> list[Any]:
    """Read the first records of a topic."""
    consumer = aiokafka.AIOKafkaConsumer(topic, bootstrap_servers=server.address, auto_offset_reset="earliest")
    await consumer.start()
    found: list[Any] = []
    try:
        while len(found) < count:
            for each in (await consumer.getmany(timeout_ms=200)).values():
                found += each
    finally:
        await consumer.stop()
    return found


def url_of(server: KafkaServer, options: str = "") -> str:
    return f"kafka://{server.address}{options}"


async def write(sink: KafkaSink, values: list[Any]) -> list[Exception | None]:
    """Write values with a sink of their own. Return their errors."""
    await sink.open()
    try:
        return [*(await sink.write(values) or [None] * len(values))]
    finally:
        await sink.aclose()


async def test_values_are_written_with_key_and_headers(kafka_server: KafkaServer) -> None:
    """As JSON; records with equal keys are in one partition, in order."""
    topic = await new_topic(kafka_server)
    sink = KafkaSink(
        url_of(kafka_server),
        topic,
        key="value.country",
        headers={"id": "value.id", "kind": lambda value: "even" if value["id"] % 2 == 0 else None},
    )
    values = [{"id": number, "country": "ABC"[number % 3]} for number in range(30)]

    summary = await Flow("f").to(sink).start(from_iterable(values), DiscardResults()).finished

    found = await records(kafka_server, topic, 30)
    assert summary.ok == 30
    assert sorted((json.loads(each.value) for each in found), key=lambda value: value["id"]) == values
    for country in b"A", b"B", b"C":
        same = [each for each in found if each.key == country]
        ids = [int(dict(each.headers)["id"]) for each in same]
        assert len({each.partition for each in same}) == 1
        assert ids == sorted(ids)
    assert {json.loads(each.value)["id"] for each in found if "kind" in dict(each.headers)} == {*range(0, 30, 2)}


async def test_bytes_are_written_unchanged(kafka_server: KafkaServer) -> None:
    """And a value without a key has none."""
    topic = await new_topic(kafka_server)

    assert await write(KafkaSink(url_of(kafka_server), topic), [b"\xff\x00"]) == [None]

    (record,) = await records(kafka_server, topic, 1)
    assert (record.value, record.key, record.headers) == (b"\xff\x00", None, ())


async def test_values_fail_alone(kafka_server: KafkaServer) -> None:
    """One without its key, one that is not JSON, one that is too large; the others are written."""
    topic = await new_topic(kafka_server)
    sink = KafkaSink(url_of(kafka_server, "?max_message_bytes=1000"), topic, key="value.id")
    values = [{"id": 1}, {"other": 1}, {"id": 2, "n": float("nan")}, {"id": 3, "text": "x" * 1000}, {"id": 4}]

    errors = await write(sink, values)

    assert [type(error).__name__ for error in errors] == [
        "NoneType",
        "ExpressionFailed",
        "EncodingFailed",
        "ElementTooLarge",
        "NoneType",
    ]
    assert {record.key for record in await records(kafka_server, topic, 2)} == {b"1", b"4"}


async def test_values_of_a_killed_broker_are_written_after_its_restart(durable_kafka_server: KafkaServer) -> None:
    """The producer tries again; what it could not confirm may be written twice, and nothing is lost."""
    topic = await new_topic(durable_kafka_server)
    sink = KafkaSink(url_of(durable_kafka_server), topic)
    await sink.open()
    try:
        assert await sink.write([{"n": 0}]) is None
        durable_kafka_server.restart()
        assert await sink.write([{"n": 1}]) is None
    finally:
        await sink.aclose()

    assert {record.value for record in await records(durable_kafka_server, topic, 2)} == {b'{"n":0}', b'{"n":1}'}


async def test_unreachable_broker_fails_elements_that_have_waited(tmp_path: Any) -> None:
    """The message names the broker, without the password."""
    sink = KafkaSink(f"kafka://me:s3cret@127.0.0.1:{free_port()}", "orders")
    flow = Flow("f").to(sink, max_outage_wait=0.5).dead_letters(f"sqlite:///{tmp_path}/letters.db")

    results: list[Any] = [result async for result in flow.stream(from_iterable([1]))]

    message = results[0].failure.message
    assert results[0].failure.type == "SinkUnavailable"
    assert "cannot reach 127.0.0.1" in message
    assert "s3cret" not in message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "kafka://host/orders"}, "sink kafka orders 'kafka://host/orders': unexpected 'orders' after the host"),
        ({"topic": ""}, "topic: expected a name"),
        ({"key": "value."}, "invalid expression"),
        ({"headers": {"id": "1 +"}}, "invalid expression"),
    ],
)
def test_invalid_sinks_are_rejected(options: dict[str, Any], message: str) -> None:
    """When they are made."""
    with pytest.raises(FlowDefinitionError) as raised:
        KafkaSink(**({"url": "kafka://host", "topic": "orders"} | options))

    assert message in str(raised.value)


def test_equal_sinks_are_shared() -> None:
    """One producer serves all runs of a flow."""
    sink = KafkaSink("kafka://host", "orders", key="value.id", headers={"id": "value.id"})

    assert sink == KafkaSink("kafka://host", "orders", key="value.id", headers={"id": "value.id"}, name="other")
    assert sink != KafkaSink("kafka://host", "orders", headers={"id": "value.id"})
    assert hash(sink) == hash(KafkaSink("kafka://host", "orders", key="value.id"))
