"""Clients of Kafka and of brokers with its protocol: a producer, and consumers with and without a group."""

# pyright: reportMissingTypeStubs=false

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError, KafkaError, UnknownError, UnsupportedVersionError

from penstock.support.logger import get_logger

log = get_logger()

REQUEST_SECONDS = 20.0
"""Timeout of one request."""

STOP_SECONDS = 5.0
"""Time for a producer to deliver what is pending when it is stopped."""

MAX_MESSAGE_BYTES = 1_000_000
"""The default of the broker (`message.max.bytes`), without the space for the record's headers."""


class KafkaAddress:
    """Where the brokers are, and how to log in."""

    def __init__(
        self, servers: Sequence[str], user: str | None, password: str | None, options: Mapping[str, str]
    ) -> None:
        secure = options.get("tls") == "yes"
        self.unreachable = f"cannot reach {', '.join(servers)}; check that a broker runs there"
        """What to report for `KafkaConnectionError`, which the client also raises for a refused login."""
        if user:
            self.unreachable += ", and user and password"
        self._options: dict[str, Any] = {
            "bootstrap_servers": list(servers),
            "request_timeout_ms": int(REQUEST_SECONDS * 1000),
            "security_protocol": ("SASL_" if user else "") + ("SSL" if secure else "PLAINTEXT"),
            "ssl_context": ssl.create_default_context() if secure else None,
        }
        if user:
            self._options |= {
                "sasl_mechanism": options.get("sasl", "PLAIN"),
                "sasl_plain_username": user,
                "sasl_plain_password": password or "",
            }
        self.max_message_bytes = int(options.get("max_message_bytes", MAX_MESSAGE_BYTES))

    async def start_producer(self) -> Any:
        """Start an idempotent producer that waits for all replicas.

        Some brokers with Kafka's protocol know no idempotent producers. With them, a record whose reply was lost may
        be written twice.
        """
        try:
            return await self._start_producer(idempotent=True)
        except KafkaConnectionError:
            raise
        except (UnknownError, UnsupportedVersionError) as error:
            log.warning("kafka.not_idempotent", error=str(error))
            return await self._start_producer(idempotent=False)

    def make_consumer(self, group: str | None = None, **options: Any) -> Any:
        """Create a consumer, not started yet. It commits nothing by itself, and begins with the oldest record."""
        defaults: dict[str, Any] = {
            "enable_auto_commit": False,
            "auto_offset_reset": "earliest",
            "fetch_max_wait_ms": 100,  # the ends of all partitions must be known before the first record is used
            "max_partition_fetch_bytes": max(1024 * 1024, self.max_message_bytes),
        }
        return AIOKafkaConsumer(**self._options, group_id=group, **(defaults | options))

    async def _start_producer(self, *, idempotent: bool) -> Any:
        producer = AIOKafkaProducer(
            **self._options,
            acks="all",
            enable_idempotence=idempotent,
            max_request_size=self.max_message_bytes + 65536,
            max_batch_size=min(256 * 1024, self.max_message_bytes),
        )
        try:
            await producer.start()
        except BaseException:
            await stop_producer(producer)
            raise
        return producer


@asynccontextmanager
async def running(consumer: Any) -> AsyncGenerator[Any, None]:
    """Start a consumer, and stop it at the end."""
    try:
        await consumer.start()
        yield consumer
    finally:
        await stop_consumer(consumer)


async def stop_consumer(consumer: Any) -> None:
    """Stop a consumer and close its connections.

    `stop` of aiokafka 0.14 raises the `CancelledError` of its internal fetch task if that has not begun, or waits after
    an error to try again, and leaves the connections open then.
    """
    await asyncio.sleep(0)
    stopping = asyncio.ensure_future(consumer.stop())
    try:
        await asyncio.wait((stopping,))
    except asyncio.CancelledError:
        stopping.cancel()
        raise
    if not stopping.cancelled():
        stopping.result()
        return
    fetches = set(consumer._fetcher._pending_tasks)  # noqa: SLF001 - there is no public way to close the rest
    for fetch in fetches:
        fetch.cancel()
    await asyncio.gather(*fetches, return_exceptions=True)
    await consumer._client.close()  # noqa: SLF001 - the same


async def stop_producer(producer: Any) -> None:
    """Stop a producer. Records that are not delivered within `STOP_SECONDS` fail.

    The producer itself would wait for them until its brokers are reachable again.
    """
    stopping = asyncio.ensure_future(producer.stop())
    await asyncio.wait((stopping,), timeout=STOP_SECONDS)
    if not stopping.done():
        producer._message_accumulator.fail_all(KafkaError("the store was closed"))  # noqa: SLF001 - only this ends the wait
        await asyncio.wait((stopping,), timeout=STOP_SECONDS)
        stopping.cancel()
    await asyncio.gather(stopping, return_exceptions=True)
