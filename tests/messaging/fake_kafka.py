"""A Kafka topic in memory, and a member of its group with the five methods of the port."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from penstock import Flow
from penstock.backends.kafka_group import CommitRejected, GroupListener, Position, Record
from penstock.results import DiscardResults
from penstock.runtime import Run
from penstock.sources import Emitter, KafkaSource, Source
from penstock.sources.kafka import Consumption

ROUND_TRIP = 0.001


@dataclass(frozen=True)
class FakeRecord:
    """A record."""

    offset: int
    value: bytes | None
    timestamp: int | None = None


@dataclass
class Topic:
    """The records of partitions, and what the group has committed."""

    partitions: list[list[bytes | None]]
    committed: dict[int, Position] = field(default_factory=dict[int, Position])
    created_at: int = 0
    """The timestamp of all records."""

    @classmethod
    def of_numbers(cls, *counts: int) -> Topic:
        """Partitions with the numbers from 0, 1000, 2000 and so on."""
        return cls([[b"%d" % (1000 * index + n) for n in range(count)] for index, count in enumerate(counts)])


class Member:
    """A member of the group. Tests move partitions with `assign` and `revoke`."""

    def __init__(self, topic: Topic) -> None:
        self.topic = topic
        self.positions: dict[int, int] = {}
        self.closed = 0
        self.returned = 0
        """Records that were returned by polls."""
        self.polls: list[tuple[float, int]] = []
        """The time of each poll, and its limit."""
        self.excluded = False
        """Whether the group rejects its commits."""
        self.dead = False
        """Whether nothing that it sends arrives."""
        self._listener: GroupListener | None = None

    @property
    def connected(self) -> bool:
        return not self.dead

    async def start(self, listener: GroupListener) -> None:
        self._listener = listener
        await self.assign(range(len(self.topic.partitions)))

    async def assign(self, partitions: Collection[int]) -> None:
        """Assign partitions."""
        assert self._listener is not None
        await self._listener.on_assigned(partitions)
        for number in partitions:
            self.positions[number] = self.topic.committed.get(number, Position(0)).offset

    async def revoke(self, partitions: Collection[int]) -> None:
        """Revoke partitions, and wait until the member has given them up."""
        assert self._listener is not None
        await self._listener.on_revoked(partitions)
        for number in partitions:
            self.positions.pop(number, None)

    async def committed(self, partitions: Collection[int]) -> Mapping[int, Position]:
        await asyncio.sleep(ROUND_TRIP)
        return {number: self.topic.committed.get(number, Position(0)) for number in partitions}

    async def poll(self, partitions: Collection[int], limit: int, seconds: float) -> Mapping[int, Sequence[Record]]:
        self.polls.append((asyncio.get_running_loop().time(), limit if partitions else 0))
        found: dict[int, list[FakeRecord]] = {}
        for number in partitions:
            if number in self.positions and limit > 0:
                start = self.positions[number]
                values = self.topic.partitions[number][start : start + limit]
                if values:
                    found[number] = [
                        FakeRecord(start + index, value, self.topic.created_at) for index, value in enumerate(values)
                    ]
                    self.positions[number] += len(values)
                    limit -= len(values)
                    self.returned += len(values)
        if not found:
            await asyncio.sleep(seconds)
        return found

    async def commit(self, positions: Mapping[int, Position]) -> None:
        await asyncio.sleep(ROUND_TRIP)
        if self.excluded:
            raise CommitRejected("the group has rebalanced")
        if not self.dead:
            self.topic.committed |= positions

    async def close(self) -> None:
        self.closed += 1


class MemberSource(Source[bytes]):
    """A Kafka source whose client is a member of a topic in memory."""

    name = "kafka"

    def __init__(self, member: Member, **options: Any) -> None:
        super().__init__()
        self.member = member
        self.options = KafkaSource("kafka://host", "numbers", "g", **options)

    async def produce(self, emitter: Emitter[bytes]) -> None:
        await Consumption(self.options, emitter, self.member).run()


def start(flow: Flow[Any], member: Member, **options: Any) -> Run[Any]:
    """Start a run that reads a topic in memory."""
    return flow.start(MemberSource(member, **options), DiscardResults())
