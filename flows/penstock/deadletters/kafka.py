"""The Kafka dead-letter store: a topic whose records are letters, keyed by the element's key."""

# pyright: reportMissingTypeStubs=false

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from typing import Any

from aiokafka import TopicPartition
from aiokafka.errors import (
    AuthenticationFailedError,
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
)

from penstock.backends.kafka import KafkaAddress, running, stop_producer
from penstock.backends.server_url import parse_server_url
from penstock.deadletters.dead_letter import DeadLetter
from penstock.deadletters.kafka_group import consume_group
from penstock.deadletters.kafka_reader import BoundedReader
from penstock.deadletters.log_base import BaseLog, Record
from penstock.deadletters.log_consumer import Batches
from penstock.deadletters.store import DeadLetterQuery
from penstock.errors import StoreError, describe
from penstock.support.text import sanitize

MAX_IN_FLIGHT = 20_000
"""Letters that the producer may hold. More are rejected while the brokers are unreachable."""

_CURSOR = re.compile(r"\d+:\d+(?:,\d+:\d+)*")

_PASSING = (KafkaConnectionError, KafkaTimeoutError, TimeoutError)
"""Errors after which the same producer may work again."""


class KafkaStore(BaseLog):
    """Writes letters to a topic. The topic must exist, unless the broker creates topics by itself.

    The key of a record is the element's key as text, its value the letter as JSON, and its headers are `id`, `flow`,
    `step`, `type` and `run`. `display_url` is the URL for messages.
    """

    def __init__(
        self, url: str, *, create: bool = True, display_url: str | None = None, read_only: bool = False
    ) -> None:
        super().__init__(display_url or url, create=create, read_only=read_only)
        parts = parse_server_url(url, self.url)
        self._topic = parts.name
        self._servers = ", ".join(parts.servers)
        self._address = KafkaAddress(parts.servers, parts.user, parts.password, parts.options)
        self._producer: Any = None
        self._broken = False
        """Whether the producer must be replaced, because the broker rejects its sequence of records."""
        self._in_flight: dict[tuple[str, int, str], asyncio.Future[Any]] = {}
        """Letters that the producer holds. A letter that is added again meanwhile is not sent twice."""

    async def _connect(self) -> None:
        self._in_flight.clear()
        self._starting = asyncio.Lock()
        if self._read_only:
            await self._ping()
        else:
            self._producer = await self._address.start_producer()
            await self._producer.partitions_for(self._topic)

    async def _disconnect(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            await stop_producer(producer)

    async def _ping(self) -> None:
        async with running(self._address.make_consumer()) as consumer:
            await self._partitions(consumer)

    async def _append(self, letters: list[DeadLetter]) -> None:
        futures: list[asyncio.Future[Any]] = []
        try:
            producer = await self._working_producer()
            for letter in letters:
                futures.append(await self._send(producer, letter))  # noqa: PERF401 - each needs the one before
            await asyncio.wait(futures)  # unlike `gather`, it does not cancel them when its caller is cancelled
            for future in futures:
                future.result()
        except _PASSING:
            raise
        except KafkaError:
            self._broken = True
            raise

    async def _working_producer(self) -> Any:
        async with self._starting:
            if self._broken:
                await stop_producer(self._producer)
                self._producer, self._broken = await self._address.start_producer(), False
            return self._producer

    async def _send(self, producer: Any, letter: DeadLetter) -> asyncio.Future[Any]:
        name = (letter.id, letter.redrives, letter.state)
        if (known := self._in_flight.get(name)) is not None:
            return known
        if len(self._in_flight) >= MAX_IN_FLIGHT:
            raise KafkaConnectionError(f"{MAX_IN_FLIGHT} letters wait for the brokers")
        key = None if letter.key is None else sanitize(str(letter.key)).encode()[:1000]
        headers = [
            (field, sanitize(value).encode()[:1000])
            for field, value in (
                ("id", letter.id),
                ("flow", letter.flow),
                ("step", letter.step),
                ("type", letter.type),
                ("run", letter.run),
            )
        ]
        value = self._encode(letter, self._address.max_message_bytes - 10_000)
        future: asyncio.Future[Any] = await producer.send(self._topic, value, key=key, headers=headers)
        self._in_flight[name] = future
        future.add_done_callback(lambda done: self._end(name, done))
        return future

    def _end(self, name: tuple[str, int, str], done: asyncio.Future[Any]) -> None:
        self._in_flight.pop(name, None)
        if not done.cancelled():
            done.exception()  # a caller that has gone does not retrieve it

    async def _partitions(self, consumer: Any) -> list[TopicPartition]:
        found = await consumer._client._wait_on_metadata(self._topic)  # noqa: SLF001 - `partitions_for_topic` sends no request
        return [TopicPartition(self._topic, partition) for partition in sorted(found)]

    async def _read(self, _: DeadLetterQuery, after: str | None, /) -> AsyncGenerator[Record, None]:
        """Read the partitions side by side, in the order of their timestamps."""
        if after is not None and not _CURSOR.fullmatch(after):
            raise self._invalid_cursor()
        pairs = (pair.partition(":") for pair in (after or "").split(",") if pair)
        given = {int(partition): int(offset) for partition, _, offset in pairs}
        async with running(self._address.make_consumer()) as consumer:
            topic = await self._partitions(consumer)
            begins = await consumer.beginning_offsets(topic)
            positions = {each: max(begins[each], given.get(each.partition, 0)) for each in topic}
            consumer.assign(topic)
            for each in topic:
                consumer.seek(each, positions[each])
            reader = BoundedReader(consumer, self.timeout)
            reader.assign(topic)
            while await reader.fill(all=True):
                unread = {each: state.unread for each, state in reader.partitions.items() if state.unread}
                oldest = min(unread, key=lambda each: unread[each][0].timestamp)
                record = unread[oldest].popleft()
                positions[oldest] = record.offset + 1
                cursor = ",".join(f"{each.partition}:{offset}" for each, offset in positions.items())
                yield cursor, self._decode(record.value or b"", f"{oldest.partition}:{record.offset}")

    def _consume(self) -> Batches:
        return consume_group(self._address, self._topic, self._decode, self.add, self.timeout)

    def _advice(self, error: Exception) -> tuple[str, bool]:
        if isinstance(error, UnknownTopicOrPartitionError):
            return f"there is no topic {self._topic}; create it, with as many partitions as you need", False
        if isinstance(error, (AuthenticationFailedError, TopicAuthorizationFailedError)):
            return f"access is denied; check user, password and access rights of the topic {self._topic}", True
        if isinstance(error, KafkaConnectionError):
            return f"cannot reach {self._servers}; check that a broker runs there", False
        return describe(error), isinstance(error, StoreError) and error.permanent
