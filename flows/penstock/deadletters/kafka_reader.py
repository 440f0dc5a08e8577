"""Reads partitions of a Kafka topic, each up to the end that it had at the first fetch."""

# pyright: reportMissingTypeStubs=false

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from typing import Any

from aiokafka import TopicPartition

FETCH = 500
"""Maximum number of records that are fetched at once."""


class Partition:
    """What was read of a partition."""

    __slots__ = ("end", "ended", "unread")

    def __init__(self) -> None:
        self.unread: deque[Any] = deque()
        """Records that were fetched."""
        self.end: int | None = None
        """The offset behind the last record to read; None before the first fetch."""
        self.ended = False
        """Whether all records up to the end were fetched."""


class BoundedReader:
    """Fetches records of the partitions of a consumer that are in `partitions`.

    The end of a partition is the high watermark of the first fetch, and no record may be taken before the ends of all
    partitions are known: then records that the reader's user appends belong to no partition's part. (`end_offsets` is
    not used: Tansu returns the position of the last batch, which may be hundreds of records before the end.)
    """

    def __init__(self, consumer: Any, timeout: float) -> None:
        self._consumer = consumer
        self._timeout = timeout
        self.partitions: dict[TopicPartition, Partition] = {}

    def assign(self, partitions: Iterable[TopicPartition]) -> None:
        """Read these partitions."""
        for each in partitions:
            self.partitions.setdefault(each, Partition())

    def revoke(self, partitions: Iterable[TopicPartition]) -> None:
        """Forget these partitions, with records that were fetched and not taken."""
        for each in partitions:
            self.partitions.pop(each, None)

    async def fill(self, *, all: bool) -> bool:
        """Fetch until one partition has unread records, or each with `all`; returns False if none has any.

        Raises `TimeoutError` if the brokers return nothing although there are records.
        """
        deadline = time.monotonic() + self._timeout
        while lacking := [each for each, state in self.partitions.items() if not (state.unread or state.ended)]:
            if not all and self._known() and any(state.unread for state in self.partitions.values()):
                break
            found = await self._consumer.getmany(*lacking, timeout_ms=100, max_records=FETCH)
            for each in lacking:
                if (state := self.partitions.get(each)) is not None:
                    await self._update(each, state, found.get(each, ()))
            if time.monotonic() > deadline and not found:
                raise TimeoutError
        return any(state.unread for state in self.partitions.values())

    def _known(self) -> bool:
        return all(state.end is not None for state in self.partitions.values())

    async def _update(self, partition: TopicPartition, state: Partition, records: Iterable[Any]) -> None:
        if partition not in self._consumer.assignment():
            return
        if state.end is None:
            state.end = self._consumer.highwater(partition)
        if state.end is None:
            return
        state.unread += [record for record in records if record.offset < state.end]
        # The position says more than the last record: compacted topics have gaps, transactions have markers.
        state.ended = await self._consumer.position(partition) >= state.end
