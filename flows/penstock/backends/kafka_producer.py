"""A producer for one Kafka topic that replaces itself when the broker rejects its sequence of records."""

# pyright: reportMissingTypeStubs=false

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from aiokafka.errors import (
    AuthenticationFailedError,
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
)

from penstock.backends.kafka import KafkaAddress, stop_producer
from penstock.backends.server_url import ServerUrl
from penstock.errors import SinkUnreachable, SinkWriteFailed, describe

PASSING_ERRORS = (KafkaConnectionError, KafkaTimeoutError, TimeoutError, MessageSizeTooLargeError)
"""Errors after which the same producer may work again."""

UNREACHABLE_ERRORS = (KafkaConnectionError, KafkaTimeoutError, TimeoutError)
"""Errors that say nothing about the record, as those that aiokafka calls retriable: it may be sent again."""


class KafkaProducer:
    """Sends records to one topic. `title` is the sink, for errors."""

    def __init__(self, address: KafkaAddress, servers: Sequence[str], topic: str, title: str) -> None:
        self.max_message_bytes = address.max_message_bytes
        self._address = address
        self._servers = ", ".join(servers)
        self._topic = topic
        self._title = title
        self._producer: Any = None
        self._broken = False

    @classmethod
    async def connect(cls, parts: ServerUrl, topic: str, title: str) -> KafkaProducer:
        """Connect, and check that the topic exists. Raises `SinkWriteFailed`, or `SinkUnreachable`."""
        address = KafkaAddress(parts.servers, parts.user, parts.password, parts.options)
        producer = cls(address, parts.servers, topic, title)
        await producer._start()
        return producer

    async def send(self, value: bytes, key: bytes | None, headers: Sequence[tuple[str, bytes]]) -> asyncio.Future[Any]:
        """Send a record, after earlier ones of its partition. Waits while the buffer of the producer is full."""
        if self._broken:
            await self.close()
            await self._start()
        sent: asyncio.Future[Any]
        try:
            sent = await self._producer.send(self._topic, value, key=key, headers=headers)
        except KafkaError as error:
            sent = asyncio.get_running_loop().create_future()
            sent.set_exception(error)
        sent.add_done_callback(_retrieve)
        return sent

    async def confirmed(self, sent: asyncio.Future[Any]) -> Exception | None:
        """Wait until the broker has confirmed a record. Return the error if it has not."""
        await asyncio.wait((sent,))  # unlike `await sent`, it does not cancel the record with its caller
        error = sent.exception()
        if error is None:
            return None
        if not isinstance(error, PASSING_ERRORS):
            self._broken = True
        return self._failed(error)

    async def close(self) -> None:
        """Close the connections. Records that are not confirmed within a few seconds fail."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await stop_producer(producer)

    async def _start(self) -> None:
        try:
            self._producer = await self._address.start_producer()
            await self._producer.partitions_for(self._topic)
        except KafkaError as error:
            await self.close()
            raise self._failed(error) from error
        except BaseException:
            await self.close()
            raise
        self._broken = False

    def _failed(self, error: BaseException) -> SinkWriteFailed:
        passes = getattr(error, "retriable", False) and not isinstance(error, UnknownTopicOrPartitionError)
        kind = SinkUnreachable if passes or isinstance(error, UNREACHABLE_ERRORS) else SinkWriteFailed
        return kind(self._title, self._advice(error))

    def _advice(self, error: BaseException) -> str:
        if isinstance(error, UnknownTopicOrPartitionError):
            return f"there is no topic {self._topic}; create it, with as many partitions as you need"
        if isinstance(error, (AuthenticationFailedError, TopicAuthorizationFailedError)):
            return f"access is denied; check user, password and access rights of the topic {self._topic}"
        if isinstance(error, KafkaConnectionError):
            return f"cannot reach {self._servers}; check that a broker runs there"
        return describe(error)


def _retrieve(sent: asyncio.Future[Any]) -> None:
    """Retrieve the error of a record, which a cancelled caller does not."""
    if not sent.cancelled():
        sent.exception()
