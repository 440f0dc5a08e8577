"""What Penstock needs of a Kafka client that is a member of a consumer group.

Five methods, whether it is connected, and two notifications.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from penstock.errors import PenstockError

_METADATA = re.compile(r"penstock:deliveries=(\d{1,6})")


@dataclass(frozen=True, slots=True)
class Position:
    """A committed position of a consumer group in a partition."""

    offset: int
    """The offset of the first record that is not done."""
    deliveries: int = 0
    """How many times that record was given out to a run."""

    @property
    def metadata(self) -> str:
        """The text that is committed with the offset."""
        return f"penstock:deliveries={self.deliveries}" if self.deliveries else ""

    @classmethod
    def of(cls, offset: int, metadata: str | None) -> Position:
        """Return the position that was committed with a text, which another program may have written."""
        found = _METADATA.fullmatch(metadata or "")
        return cls(offset, int(found[1]) if found else 0)


class Record(Protocol):
    """A record of a partition."""

    @property
    def offset(self) -> int: ...

    @property
    def value(self) -> bytes | None: ...

    @property
    def timestamp(self) -> int | None: ...


class CommitRejected(PenstockError):
    """The group does not accept a commit. `excluded` is whether the partitions may belong to other members already."""

    def __init__(self, reason: str, *, excluded: bool = True) -> None:
        super().__init__(reason)
        self.excluded = excluded


class GroupListener(Protocol):
    """Is notified of the partitions of a member. The group waits for the end of each call."""

    async def on_assigned(self, partitions: Collection[int]) -> None:
        """Begin with partitions."""

    async def on_revoked(self, partitions: Collection[int]) -> None:
        """Give partitions up. They may be committed until this returns, and belong to other members afterwards."""


class KafkaGroup(Protocol):
    """One member of a consumer group, of one topic. Errors that do not pass by themselves are raised."""

    @property
    def connected(self) -> bool:
        """Whether the broker that coordinates the group can be reached, after `start`."""
        ...

    async def start(self, listener: GroupListener) -> None:
        """Connect, and begin to join the group."""

    async def committed(self, partitions: Collection[int]) -> Mapping[int, Position]:
        """Return where to begin: the committed positions, or else the first or the next record of the partition."""
        ...

    async def poll(self, partitions: Collection[int], limit: int, seconds: float) -> Mapping[int, Sequence[Record]]:
        """Return up to `limit` next records, of the first partitions that have any. Waits up to `seconds` for them.

        The member stays in the group only if this is called every minute, maybe without partitions.
        """
        ...

    async def commit(self, positions: Mapping[int, Position]) -> None:
        """Commit positions. Returns when the broker has confirmed them. Raises `CommitRejected`."""

    async def close(self) -> None:
        """Leave the group and close all connections, also if `start` failed. Takes no longer than a few seconds."""
