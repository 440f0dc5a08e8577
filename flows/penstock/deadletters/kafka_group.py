"""The consumer group of a Kafka topic of dead letters."""

# pyright: reportMissingTypeStubs=false

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any

from aiokafka import ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import KafkaError

from penstock.backends.kafka import KafkaAddress, running
from penstock.deadletters.dead_letter import DeadLetter
from penstock.deadletters.kafka_reader import BoundedReader
from penstock.deadletters.log import CONSUMER_GROUP, LogBatch
from penstock.deadletters.log_consumer import Batches
from penstock.deadletters.open_batches import OpenBatches
from penstock.deadletters.recent import Recent
from penstock.errors import StoreError, describe
from penstock.support.logger import get_logger

log = get_logger()

REVOKE_SECONDS = 20.0
"""Time for open batches when the group gives their partition to another consumer. Then they may be redriven twice."""

JOIN_SECONDS = 60.0
"""Time for the group to assign partitions."""

Decode = Callable[[bytes, object], DeadLetter | None]

Acknowledge = Callable[[Sequence[DeadLetter]], Awaitable[None]]


class OpenBatch:
    """A batch of one partition that was handed out."""

    __slots__ = ("done", "end")

    def __init__(self, end: int) -> None:
        self.end = end
        """The offset behind its last record."""
        self.done = False


class GroupMember(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    """One consumer of the group: the partitions that it has, and what is acknowledged of each.

    Kafka stores one position for each partition, so the position advances up to the first batch that is still open.
    """

    def __init__(self, consumer: Any, reader: BoundedReader, append: Acknowledge) -> None:
        self._consumer = consumer
        self._append = append
        self.recent = Recent()
        self.reader = reader
        self._batches: dict[TopicPartition, deque[OpenBatch]] = {}
        self._committing = asyncio.Lock()
        self.assigned = asyncio.Event()
        self.open = OpenBatches()

    async def on_partitions_assigned(  # pyright: ignore[reportIncompatibleMethodOverride] - may be either
        self, assigned: Iterable[TopicPartition]
    ) -> None:
        """Begin with the partitions that the group has assigned."""
        self.reader.assign(assigned)
        self.assigned.set()

    async def on_partitions_revoked(  # pyright: ignore[reportIncompatibleMethodOverride] - may be either
        self, revoked: Iterable[TopicPartition]
    ) -> None:
        """Wait for open batches before another consumer gets their partitions, then give the batches up."""
        revoked = list(revoked)
        self.reader.revoke(revoked)
        if any(self._batches.values()):
            try:
                async with asyncio.timeout(REVOKE_SECONDS):
                    await self.open.wait()
            except TimeoutError:
                log.warning("store.lease_lost", batches=sum(map(len, self._batches.values())))
        for partition in revoked:
            for batch in self._batches.pop(partition, ()):
                if not batch.done:
                    self.open.end()
                    self.recent = Recent()  # its letters must be received again

    def begin(self, partition: TopicPartition, end: int) -> Acknowledge:
        """Count a batch; returns the function that acknowledges it."""
        batch = OpenBatch(end)
        self._batches.setdefault(partition, deque()).append(batch)
        self.open.begin()
        return partial(self._acknowledge, partition, batch)

    async def _acknowledge(self, partition: TopicPartition, batch: OpenBatch, again: Sequence[DeadLetter]) -> None:
        if again:
            await self._append(again)
        batches = self._batches.get(partition, deque())
        if batch not in batches:
            raise StoreError(f"partition {partition.partition} was given to another consumer; letters may be repeated")
        batch.done = True
        try:
            async with self._committing:
                position = None
                while batches and batches[0].done:
                    position = batches.popleft().end
                if position is not None:
                    await self._consumer.commit({partition: position})
        except KafkaError as error:
            raise StoreError(f"cannot commit the position of the consumer group: {describe(error)}") from error
        finally:
            self.open.end()


async def consume_group(
    address: KafkaAddress, topic: str, decode: Decode, append: Acknowledge, timeout: float
) -> Batches:
    """Receive batches of the partitions that the group assigns to this consumer, up to their current ends."""
    consumer = address.make_consumer(
        CONSUMER_GROUP,
        session_timeout_ms=10_000,
        heartbeat_interval_ms=3_000,
        rebalance_timeout_ms=60_000,
        max_poll_interval_ms=3_600_000,  # a caller may take long for one batch; heartbeats show that it lives
    )
    member = GroupMember(consumer, BoundedReader(consumer, timeout), append)
    consumer.subscribe([topic], listener=member)
    async with running(consumer):
        async with asyncio.timeout(JOIN_SECONDS):
            await member.assigned.wait()
        while await member.reader.fill(all=False):
            for partition, state in list(member.reader.partitions.items()):
                if not state.unread or member.reader.partitions.get(partition) is not state:
                    continue
                records = list(state.unread)
                state.unread.clear()
                acknowledge = member.begin(partition, records[-1].offset + 1)
                decoded = [decode(record.value or b"", f"{partition.partition}:{record.offset}") for record in records]
                if letters := member.recent.unseen(decoded):
                    yield LogBatch(letters, acknowledge)
                else:
                    await acknowledge(())
        yield None
