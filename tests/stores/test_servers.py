"""The servers that tests start keep their data when they are killed, and end with the process that started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import aiokafka
import nats
import pytest
from nats.js.api import StreamConfig

from servers import KafkaServer, NatsServer, PostgresServer, S3Server, accepts_connections, new_name
from waiting import ending, until


def test_postgres_keeps_what_was_committed(postgres_server: PostgresServer) -> None:
    """A killed PostgreSQL recovers on the same port."""
    database = postgres_server.new_database().rpartition("/")[2]
    postgres_server.execute("CREATE TABLE numbers AS SELECT 7 AS number", database)
    postgres_server.kill()
    assert not accepts_connections(postgres_server.port)
    postgres_server.start()
    assert postgres_server.execute("SELECT number FROM numbers", database) == "7"


async def test_nats_keeps_what_was_acknowledged(nats_server: NatsServer) -> None:
    """A killed NATS server has the messages of a stream again."""
    stream = new_name()
    client = await nats.connect(nats_server.url)
    await client.jetstream().add_stream(StreamConfig(stream, subjects=[stream]))
    await client.jetstream().publish(stream, b"7")
    await client.close()
    nats_server.restart()
    client = await nats.connect(nats_server.url)
    message = await client.jetstream().get_msg(stream, 1)
    await client.close()
    assert message.data == b"7"


def test_s3_keeps_objects(s3_server: S3Server) -> None:
    """A killed S3 server has its objects again."""
    url = f"{s3_server.endpoint}/{s3_server.new_bucket()}/letter"
    urllib.request.urlopen(urllib.request.Request(url, b"7", method="PUT")).close()
    s3_server.restart()
    with urllib.request.urlopen(url) as response:
        assert response.read() == b"7"


async def test_kafka_accepts_and_returns_records(kafka_server: KafkaServer) -> None:
    """A topic is created with its first record."""
    assert await produce_and_consume(kafka_server, new_name()) == [b"7"]


async def test_kafka_keeps_records_in_s3(durable_kafka_server: KafkaServer) -> None:
    """A killed broker whose storage is an S3 server has its records again."""
    topic = new_name()
    assert await produce_and_consume(durable_kafka_server, topic) == [b"7"]
    durable_kafka_server.restart()
    assert await produce_and_consume(durable_kafka_server, topic, b"8") == [b"7", b"8"]


async def produce_and_consume(server: KafkaServer, topic: str, value: bytes = b"7") -> list[bytes]:
    """Send a record and return all values of the topic."""
    producer = aiokafka.AIOKafkaProducer(bootstrap_servers=server.address, acks="all")
    await producer.start()
    await producer.send_and_wait(topic, value, partition=0)
    await producer.stop()
    values: list[bytes] = []
    consumer = aiokafka.AIOKafkaConsumer(topic, bootstrap_servers=server.address, auto_offset_reset="earliest")
    await consumer.start()
    while value not in values:
        batches = await consumer.getmany(timeout_ms=1000)
        values += [record.value for records in batches.values() for record in records]
    await consumer.stop()
    return values


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills a process together with its parent")
def test_a_server_dies_with_the_process_that_started_it(nats_server: NatsServer) -> None:
    """Also when that process is killed and cannot clean up."""
    code = (
        "import servers, time; s = servers.NatsServer(); s.start(); print(s.port, s.folder, flush=True); time.sleep(99)"
    )
    command = [sys.executable, "-c", code]
    with ending(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])) as process:
        assert process.stdout is not None
        port, folder = process.stdout.readline().split()
        assert accepts_connections(int(port))
        os.kill(process.pid, signal.SIGKILL)
        until(lambda: not accepts_connections(int(port)))
    subprocess.run(["rm", "-r", folder], check=True)
