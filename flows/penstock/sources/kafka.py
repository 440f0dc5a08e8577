"""The Kafka source: the records of a topic, as a member of a consumer group."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from penstock.backends.extras import require_extra
from penstock.backends.kafka_group import CommitRejected, KafkaGroup
from penstock.backends.kafka_url import parse_kafka_url
from penstock.core.leases import Answer
from penstock.errors import FlowDefinitionError, Poisoned, describe
from penstock.sources.kafka_progress import PartitionProgress, Progress
from penstock.sources.source import Emitter, Source
from penstock.support.environment import substitute, variable_names
from penstock.support.logger import get_logger

log = get_logger()

WINDOWS_AHEAD = 8
"""Windows of records that are given out beyond the last commits. They are repeated if the process is killed."""

POLL_SECONDS = 0.5
"""Maximum duration of a poll."""

BUSY_POLL_SECONDS = 0.01
"""The same while some partitions wait for a commit."""

KEEPALIVE_SECONDS = 20.0
"""Seconds between two polls that only show that the member is alive, for a run that can take no more records."""

LAST_COMMIT_SECONDS = 4.0
"""Timeout of the commit when a run ends, and of the commits when partitions are given up."""

Lease: TypeAlias = tuple[PartitionProgress, int, int | None]
"""A record: its partition, its offset and its timestamp."""


@dataclass(unsafe_hash=True)
class KafkaSource(Source[bytes]):
    """The values of the records of a topic, read as a member of a consumer group. It ends when the run is stopped.

    `url` is `kafka://HOST[:PORT]`, with more hosts separated by commas, and with user, password and options as in the
    URL of a dead-letter store. `from_` is where a group without a committed position begins: `latest` or `earliest`.
    Each value is an element, as bytes; records without a value (tombstones) count as filtered.

    A record is committed when its element and all before it in its partition are settled: ok, filtered, or failed with
    a durable dead letter. Without a dead-letter store a failed element is committed too, because Kafka cannot deliver
    one record again; for the same reason `on_failure="redeliver"` is rejected. If the process is killed, up to 8
    windows of records are delivered again. A record that was given out `deliveries` times, each time as the first of
    its partition, fails as `Poisoned`: the count is committed with the position.

    When the group assigns a partition to another member, its elements in flight are finished and committed first. Those
    that take longer than `rebalance_timeout` less a fifth, in seconds, are delivered again to the other member.
    A process that is killed is noticed after `session_timeout`, in seconds. With `instance_id`, which must be different
    on each machine, the partitions of a process that is stopped remain assigned to it for so long, so that a restart
    moves none (static membership). A service with several processes adds the number of the process.
    `max_partition_fetch_bytes` limits the records fetched in advance, per partition.

    >>> source = KafkaSource("kafka://localhost", "orders", "pricing", from_="earliest")
    """

    name = "kafka"
    competes = True

    url: str
    topic: str
    group: str
    from_: str = "latest"
    on_failure: str = "dead_letter"
    deliveries: int = 5
    instance_id: str | None = None
    session_timeout: float = 10.0
    rebalance_timeout: float = 60.0
    max_partition_fetch_bytes: int = 1024 * 1024

    def __post_init__(self) -> None:
        super().__init__()
        require_extra("kafka", f"source kafka {self.topic}")
        if self.from_ not in ("latest", "earliest"):
            raise FlowDefinitionError(f"from: expected latest or earliest, got {self.from_!r}")
        if self.on_failure == "redeliver":
            raise FlowDefinitionError(
                "on_failure: Kafka cannot deliver one record again; use dead_letter, and redrive the dead letters"
            )
        if self.on_failure != "dead_letter":
            raise FlowDefinitionError(f"on_failure: expected dead_letter, got {self.on_failure!r}")
        for name, text in (("topic", self.topic), ("group", self.group)):
            if not text:
                raise FlowDefinitionError(f"{name}: expected a name, got an empty text")
        if self.deliveries < 1:
            raise FlowDefinitionError(f"deliveries: expected an integer >= 1, got {self.deliveries!r}")
        for name, number in (
            ("session_timeout", self.session_timeout),
            ("rebalance_timeout", self.rebalance_timeout),
            ("max_partition_fetch_bytes", self.max_partition_fetch_bytes),
        ):
            if not number > 0:
                raise FlowDefinitionError(f"{name}: expected a number > 0, got {number!r}")
        if not variable_names(self.url):
            parse_kafka_url(self.url, f"source kafka {self.topic}")

    def for_process(self, number: int) -> KafkaSource:
        return self if self.instance_id is None else replace(self, instance_id=f"{self.instance_id}-{number}")

    @property
    def endless(self) -> bool:
        return True

    async def produce(self, emitter: Emitter[bytes]) -> None:
        await Consumption(self, emitter, self._join()).run()

    def _join(self) -> KafkaGroup:
        from penstock.backends.aiokafka_group import AiokafkaGroup  # only with the first Kafka source
        from penstock.backends.kafka import KafkaAddress

        parts = parse_kafka_url(self.url, f"source kafka {self.topic}")
        return AiokafkaGroup(
            KafkaAddress(parts.servers, parts.user, parts.password, parts.options),
            substitute(self.topic),
            substitute(self.group),
            from_=self.from_,
            instance=substitute(self.instance_id) if self.instance_id else None,
            session_timeout=self.session_timeout,
            rebalance_timeout=self.rebalance_timeout,
            max_partition_fetch_bytes=self.max_partition_fetch_bytes,
        )


class Consumption:
    """The records of one run: the lessor of their leases, and the listener of the group."""

    def __init__(self, source: KafkaSource, emitter: Emitter[bytes], group: KafkaGroup) -> None:
        self._source = source
        self._topic = substitute(source.topic)
        self._emitter = emitter
        self._group = group
        self.progress = Progress(WINDOWS_AHEAD * emitter.free, emitter.free)
        self._scope = asyncio.timeout(None)
        self._stopped = False
        self._changed = asyncio.Event()
        """Set when there may be something to commit."""
        self._room = asyncio.Event()
        """Set when more records may be given out: after a commit, and with new partitions."""
        self._answered = asyncio.Event()
        """Set when records were answered."""
        self._assigned = asyncio.Event()
        """Cleared while the positions of new partitions are read."""
        self._assigned.set()
        self._committing = asyncio.Lock()
        self._error: Exception | None = None
        """An error of a notification, whose caller would only log it."""
        self._warned = False
        self._metadata_checked = False

    async def run(self) -> None:
        """Give out records until the run is stopped."""
        self._emitter.lease_from(self)  # before `start`, so that the connections are closed however it ends
        self._emitter.on_stop(self._stop)
        self._emitter.spawn(self._commit_changes(), "kafka:commits")
        try:
            async with self._scope:
                await self._group.start(self)
                self._emitter.report_connection(lambda: self._group.connected)
                self._emitter.spawn(self._stay_in_group(), "kafka:keepalive")
                while True:
                    await self._give_out(*await self._wait_for_room())
        except TimeoutError:
            if not self._stopped:
                raise

    def settle(self, answers: Sequence[tuple[Lease, Answer]]) -> None:
        """Record what is done. Answers for partitions that were given up have no effect."""
        for (partition, offset, _), answer in answers:
            if answer is Answer.RELEASED:
                partition.released()
            else:
                partition.done(offset)
                if answer is Answer.FAILED and not self._warned:
                    self._warned = True
                    log.warning(
                        "kafka.failed_not_stored",
                        topic=self._topic,
                        advice="failed records are committed and not delivered again; set dead_letters to keep them",
                    )
        self._changed.set()
        self._answered.set()

    def origin(self, lease: Lease) -> str:
        """Return the name of a record, with its time: a topic that is created again, or moved, repeats offsets."""
        partition, offset, timestamp = lease
        return f"kafka:{self._topic}/{partition.number}/{offset}@{timestamp}"

    async def close(self) -> None:
        """Commit what is done, and leave the group."""
        await self._try_to_commit()
        self._fence(list(self.progress.partitions))
        await self._group.close()

    async def on_assigned(self, partitions: Collection[int]) -> None:
        """Begin with partitions."""
        self._assigned.clear()
        try:
            starts = await self._group.committed(partitions)
        except Exception as error:
            self._error = error
        else:
            self.progress.assign(starts)
            log.info("kafka.assigned", topic=self._topic, group=self._source.group, partitions=sorted(partitions))
        finally:
            self._assigned.set()
        self._changed.set()  # also if nothing was committed before: a run that begins at the end must not skip records
        self._room.set()

    async def on_revoked(self, partitions: Collection[int]) -> None:
        """Finish the elements of partitions, commit them, and only then fence the partitions."""
        known = [self.progress.partitions[each] for each in partitions if each in self.progress.partitions]
        if not known:
            return
        for partition in known:
            partition.revoking = True
            partition.committed = None  # a commit shows whether the group has excluded this member
        try:
            async with asyncio.timeout(self._source.rebalance_timeout * 0.8):
                excluded = not await self._try_to_commit()
                while not excluded and any(partition.unanswered and not partition.fenced for partition in known):
                    self._answered.clear()
                    await self._answered.wait()
        except TimeoutError:
            pass
        await self._try_to_commit()
        self._fence(partitions)

    def _fence(self, partitions: Collection[int]) -> None:
        repeated = sum(partition.ahead for partition in self.progress.fence(partitions))
        self._answered.set()
        self._room.set()
        if repeated:
            log.warning("kafka.given_up", topic=self._topic, partitions=sorted(partitions), delivered_again=repeated)

    def _stop(self) -> None:
        self._stopped = True
        try:
            self._scope.reschedule(asyncio.get_running_loop().time())
        except RuntimeError:  # not entered yet, or left already
            pass

    async def _wait_for_room(self) -> tuple[list[int], int]:
        """Wait until records may be given out: from which partitions, and how many at most."""
        while True:
            if self._error is not None:
                raise self._error
            free = await self._emitter.wait_for_capacity()
            self._room.clear()
            partitions, limit = self.progress.choose(free)
            if limit > 0:
                return partitions, limit
            await self._room.wait()

    async def _give_out(self, partitions: Collection[int], limit: int) -> None:
        seconds = POLL_SECONDS if len(partitions) == len(self.progress.partitions) else BUSY_POLL_SECONDS
        values: list[bytes] = []
        leases: list[Lease] = []
        begun: list[PartitionProgress] = []
        found = await self._group.poll(partitions, limit, seconds)
        await self._assigned.wait()  # a poll that began before may return the first records of new partitions
        for number, records in found.items():
            partition = self.progress.partitions.get(number)
            if partition is None or partition.revoking:  # since the call
                continue
            if not partition.begun:
                begun.append(partition)
            partition.give([record.offset for record in records])
            for record in records:
                if (value := record.value) is None:
                    self._filter_tombstone(partition, record.offset)
                else:
                    values.append(value)
                    leases.append((partition, record.offset, record.timestamp))
        if begun:
            values, leases = await self._begin(begun, values, leases)
        await self._emitter.send(values, list(map(len, values)), leases)

    async def _begin(
        self, begun: Collection[PartitionProgress], values: Sequence[bytes], leases: Sequence[Lease]
    ) -> tuple[list[bytes], list[Lease]]:
        """Begin with the first records of partitions. Return the values and the leases that may be emitted.

        The count of deliveries must be durable before its record may stop the process.
        """
        firsts = {(each, each.start.offset) for each in begun if each.start.deliveries >= self._source.deliveries}
        poisoned = [(value, lease) for value, lease in zip(values, leases, strict=True) if lease[:2] in firsts]
        others = [(value, lease) for value, lease in zip(values, leases, strict=True) if lease[:2] not in firsts]
        try:
            await self._try_to_commit()
            await self._check_metadata(next(iter(begun)))
            while poisoned:
                value, lease = poisoned.pop()
                if not lease[0].fenced:
                    await self._emitter.refuse(value, lease, Poisoned(lease[0].start.deliveries))
        except BaseException:
            for _, (partition, _, _) in poisoned + others:
                partition.released()
            raise
        others = [(value, lease) for value, lease in others if not lease[0].fenced]
        return [value for value, _ in others], [lease for _, lease in others]

    async def _check_metadata(self, partition: PartitionProgress) -> None:
        """Report a broker that does not keep the text of a commit, such as Tansu. Deliveries are not counted then."""
        written = partition.committed
        if self._metadata_checked or written is None or not written.deliveries:
            return
        self._metadata_checked = True
        try:
            found = (await self._group.committed([partition.number]))[partition.number]
        except Exception as error:
            log.warning("kafka.metadata_not_checked", topic=self._topic, error=describe(error))
            return
        if not partition.fenced and not found.deliveries:
            log.warning(
                "kafka.deliveries_not_counted",
                topic=self._topic,
                reason="the broker does not keep the metadata of commits",
            )

    def _filter_tombstone(self, partition: PartitionProgress, offset: int) -> None:
        self._emitter.ledger.count_dropped(1)
        partition.done(offset)
        self._changed.set()

    async def _commit_changes(self) -> None:
        """Commit what is done, one commit after the other."""
        while True:
            await self._changed.wait()
            await self._commit()

    async def _commit(self) -> bool:
        """Commit what is done. Return False if the group has excluded this member."""
        async with self._committing:
            self._changed.clear()
            positions = self.progress.begin_commit()
            if positions:
                try:
                    await self._group.commit(positions)
                except CommitRejected as error:
                    log.warning("kafka.commit_rejected", topic=self._topic, error=str(error))
                    return not error.excluded
                self.progress.end_commit(positions)
                self._room.set()
            return True

    async def _try_to_commit(self) -> bool:
        """Commit what is done, or report why that is impossible now."""
        try:
            async with asyncio.timeout(LAST_COMMIT_SECONDS):
                return await self._commit()
        except Exception as error:
            reason = f"not within {LAST_COMMIT_SECONDS:g} s" if isinstance(error, TimeoutError) else describe(error)
            log.warning("kafka.commit_failed", topic=self._topic, error=reason)
            return True

    async def _stay_in_group(self) -> None:
        """Poll without partitions now and then: a run whose window is full takes no records, but it is alive."""
        while True:
            await asyncio.sleep(KEEPALIVE_SECONDS)
            await self._group.poll((), 0, 0)
