"""Topics of the Kafka tests, and the worker processes that read them."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import aiokafka
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

import forking
from servers import KafkaServer, new_name
from waiting import HANG_SECONDS, ending

WORKER = Path(__file__).with_name("kafka_worker.py")

SESSION_SECONDS = 3.0


async def new_topic(server: KafkaServer, partitions: int = 4) -> str:
    """Create a topic."""
    topic = new_name()
    admin = AIOKafkaAdminClient(bootstrap_servers=server.address)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, partitions, 1)])
    finally:
        await admin.close()
    return topic


async def produce(server: KafkaServer, topic: str, values: Iterable[bytes | None], partitions: int = 4) -> None:
    """Write values to the partitions in turn."""
    producer = aiokafka.AIOKafkaProducer(bootstrap_servers=server.address, acks="all", linger_ms=5)
    await producer.start()
    try:
        sent = [
            await producer.send(topic, value, partition=index % partitions, key=b"k")
            for index, value in enumerate(values)
        ]
        await asyncio.gather(*sent)
    finally:
        await producer.stop()


async def numbers(server: KafkaServer, count: int, partitions: int = 4) -> str:
    """Create a topic with the numbers from 0 to `count`."""
    topic = await new_topic(server, partitions)
    await produce(server, topic, (b'{"n":%d}' % number for number in range(count)), partitions)
    return topic


class Worker:
    """A worker process, and the numbers that it has noted."""

    def __init__(self, process: subprocess.Popen[bytes], notes: Path) -> None:
        self.process = process
        self.notes = notes
        assert process.stdout is not None
        assert process.stdout.readline() == b"started\n"

    def stop(self) -> dict[str, Any]:
        """Stop it with SIGTERM. Return the last line of its output."""
        self.process.send_signal(signal.SIGTERM)
        output, _ = self.process.communicate(timeout=HANG_SECONDS)
        return json.loads(output.splitlines()[-1])

    def kill(self) -> None:
        """Kill it as `kill -9` does."""
        self.process.kill()
        self.process.wait()

    @property
    def ended(self) -> bool:
        """Whether the process has ended."""
        return self.process.poll() is not None

    @property
    def processed(self) -> list[int]:
        """The numbers that it has processed, in order."""
        return [*map(int, self.notes.read_bytes().split())]


class Workers:
    """Worker processes of one group."""

    def __init__(self, server: KafkaServer, topic: str, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self._all: list[Worker] = []
        self._source = {
            "url": f"kafka://{server.address}",
            "topic": topic,
            "group": f"g-{topic}",
            "from_": "earliest",
            "session_timeout": SESSION_SECONDS,
        }

    def start(self, source: dict[str, Any] | None = None, **options: Any) -> Worker:
        """Start a worker."""
        notes = self._folder / f"{len(self._all)}.notes"
        arguments = {"notes": str(notes), "source": self._source | (source or {})} | options
        with (self._folder / "log").open("ab") as log:
            process = forking.start_python(str(WORKER), json.dumps(arguments), stdout=subprocess.PIPE, stderr=log)
        self._stack.enter_context(ending(process))
        self._all.append(Worker(process, notes))
        return self._all[-1]

    @property
    def processed(self) -> Counter[int]:
        """How often each number was processed."""
        return Counter(number for worker in self._all for number in worker.processed)


@contextmanager
def workers(server: KafkaServer, topic: str, folder: Path) -> Iterator[Workers]:
    """Workers that are ended with the block."""
    with ExitStack() as stack:
        yield Workers(server, topic, folder, stack)


def repeated(processed: Counter[int]) -> int:
    """How many times a number was processed again."""
    return processed.total() - len(processed)
