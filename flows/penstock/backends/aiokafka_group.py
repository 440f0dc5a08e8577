"""A member of a Kafka consumer group, with aiokafka as the client."""

# pyright: reportMissingTypeStubs=false

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from aiokafka import ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaConnectionError, RebalanceInProgressError

from penstock.backends.kafka import KafkaAddress, stop_consumer
from penstock.backends.kafka_group import CommitRejected, GroupListener, Position, Record
from penstock.errors import BrokerUnreachable

POSITION_SECONDS = 15.0
"""Timeout for the positions of newly assigned partitions."""

CLOSE_SECONDS = 3.0
"""Seconds that the consumer has to leave its group. It would wait for a rebalance that other members hold up."""


CONNECT_SECONDS = 2.0
"""Seconds that a start has to connect when the consumer is closed meanwhile."""


class AiokafkaGroup:
    """Implements `penstock.backends.kafka_group.KafkaGroup`."""

    def __init__(
        self,
        address: KafkaAddress,
        topic: str,
        group: str,
        *,
        from_: str,
        instance: str | None,
        session_timeout: float,
        rebalance_timeout: float,
        max_partition_fetch_bytes: int,
    ) -> None:
        self._topic = topic
        self._title = f"kafka {topic}/{group}"
        self._unreachable = address.unreachable
        self._consumer: Any = address.make_consumer(
            group,
            group_instance_id=instance,
            auto_offset_reset=from_,
            session_timeout_ms=int(session_timeout * 1000),
            heartbeat_interval_ms=int(min(session_timeout / 6, 3.0) * 1000),
            rebalance_timeout_ms=int(rebalance_timeout * 1000),
            max_partition_fetch_bytes=max_partition_fetch_bytes,
            fetch_max_wait_ms=500,
        )
        self._listener: _Listener
        self._starting: asyncio.Future[Any] | None = None
        self._unknown = TopicPartition(topic, -1)
        """A poll for it returns nothing, and keeps the member in the group and what was fetched before."""

    async def start(self, listener: GroupListener) -> None:
        """Connect, and begin to join the group. Raises `BrokerUnreachable` if it cannot connect."""
        self._listener = _Listener(listener)
        self._consumer.subscribe([self._topic], listener=self._listener)
        starting: asyncio.Future[Any] = asyncio.ensure_future(self._consumer.start())
        self._starting = starting
        try:
            await asyncio.shield(starting)
        except KafkaConnectionError as error:
            raise BrokerUnreachable(self._title, self._unreachable) from error

    @property
    def connected(self) -> bool:
        """Whether the coordinator is known: a failed heartbeat or request forgets it."""
        coordinator = self._consumer._coordinator  # noqa: SLF001 - there is no public way
        return getattr(coordinator, "coordinator_id", None) is not None

    async def committed(self, partitions: Collection[int]) -> Mapping[int, Position]:
        """Return where to begin."""
        async with asyncio.timeout(POSITION_SECONDS):
            found = await self._consumer._coordinator.fetch_committed_offsets(  # noqa: SLF001 - `committed` returns no metadata
                [TopicPartition(self._topic, partition) for partition in partitions]
            )
            positions = {key.partition: Position.of(each.offset, each.metadata) for key, each in found.items()}
            for partition in partitions:
                if partition not in positions:
                    offset = await self._consumer.position(TopicPartition(self._topic, partition))
                    positions[partition] = Position(offset)
        return positions

    async def poll(self, partitions: Collection[int], limit: int, seconds: float) -> Mapping[int, Sequence[Record]]:
        """Return the next records of partitions. Those of others stay in the buffer of the consumer.

        `getmany` returns all that was fetched of one partition before it begins with the next: thousands of records,
        during which the others would stand still. So the partitions are asked one by one.
        """
        if not partitions:
            await self._consumer.getmany(self._unknown)
            return {}
        rebalances = self._listener.rebalances
        topic = [TopicPartition(self._topic, partition) for partition in partitions]
        found: dict[int, Sequence[Record]] = {}
        for each in topic:
            batches = await self._consumer.getmany(each, max_records=limit)
            if self._listener.rebalances != rebalances:
                return self._put_back(batches)
            for key, records in batches.items():
                found[key.partition] = records
                limit -= len(records)
            if not limit:
                break
        if found or not seconds:
            return found
        batches = await self._consumer.getmany(*topic, timeout_ms=int(seconds * 1000), max_records=limit)
        if self._listener.rebalances != rebalances:
            return self._put_back(batches)
        return {key.partition: records for key, records in batches.items()}

    def _put_back(self, batches: Mapping[TopicPartition, Sequence[Record]]) -> Mapping[int, Sequence[Record]]:
        """Go back to the first of records that were received after a rebalance, and return none.

        The call waited for the end of the rebalance, and the listener may not know the partitions yet. Records that the
        same call has returned before belong to the earlier assignment, and are received again.
        """
        for key, records in batches.items():
            self._consumer.seek(key, records[0].offset)
        return {}

    async def commit(self, positions: Mapping[int, Position]) -> None:
        """Commit positions."""
        offsets = {
            TopicPartition(self._topic, partition): (position.offset, position.metadata)
            for partition, position in positions.items()
        }
        try:
            await self._consumer.commit(offsets)
        except (CommitFailedError, IllegalStateError) as error:
            excluded = not isinstance(error.__cause__, RebalanceInProgressError)
            raise CommitRejected(str(error), excluded=excluded) from error

    async def close(self) -> None:
        """Leave the group and close all connections."""
        await self._end_start()
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await stop_consumer(self._consumer)
        except TimeoutError:
            await abandon_consumer(self._consumer)

    async def _end_start(self) -> None:
        """Cancel `start`, but not while it connects: a connection would be left open then (aiokafka 0.14)."""
        if (starting := self._starting) is None:
            return
        loop = asyncio.get_running_loop()
        end = loop.time() + CONNECT_SECONDS
        consumer = self._consumer
        while not starting.done() and consumer._coordinator is None and loop.time() < end:  # noqa: ASYNC110, SLF001 - it has no event
            await asyncio.sleep(0.02)
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)


async def abandon_consumer(consumer: Any) -> None:
    """Close the connections of a consumer that does not stop. Its group notices the session timeout."""
    coordinator = consumer._coordinator  # noqa: SLF001 - there is no public way
    tasks = [
        task
        for name in ("_coordination_task", "_heartbeat_task", "_commit_refresh_task")
        if (task := getattr(coordinator, name, None)) is not None
    ]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    fetcher: Any = consumer._fetcher  # noqa: SLF001 - the same
    if fetcher is not None:
        await asyncio.gather(fetcher.close(), return_exceptions=True)
    await consumer._client.close()  # noqa: SLF001 - the same


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    """Passes the notifications of aiokafka on."""

    def __init__(self, listener: GroupListener) -> None:
        self._listener = listener
        self.rebalances = 0
        """How many rebalances have begun."""

    async def on_partitions_assigned(  # pyright: ignore[reportIncompatibleMethodOverride] - may be either
        self, assigned: Iterable[TopicPartition]
    ) -> None:
        await self._listener.on_assigned([each.partition for each in assigned])

    async def on_partitions_revoked(  # pyright: ignore[reportIncompatibleMethodOverride] - may be either
        self, revoked: Iterable[TopicPartition]
    ) -> None:
        self.rebalances += 1  # before the first wait: `poll` must notice it
        await self._listener.on_revoked([each.partition for each in revoked])
