"""How far a run is in the partitions of a Kafka topic: what it was given, what is done, and what may be committed.

Kafka keeps one position for each partition, so only the contiguous part of what is done can be committed: up to the
first record that is not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping

from penstock.backends.kafka_group import Position


class PartitionProgress:
    """One partition, for as long as it is assigned."""

    __slots__ = (
        "_done",
        "_given",
        "_open",
        "_passed",
        "_passed_by_commit",
        "_saved",
        "committed",
        "fenced",
        "next",
        "number",
        "revoking",
        "start",
        "unanswered",
    )

    def __init__(self, number: int, start: Position) -> None:
        self.number = number
        self.start = start
        self.next = start.offset
        """The offset behind the last record that was given out."""
        self.committed: Position | None = None
        """What this run has committed last."""
        self.unanswered = 0
        """Records that were given out and are not answered."""
        self.revoking = False
        """Whether the partition is about to be given to another member: nothing more is given out."""
        self.fenced = False
        """Whether the partition may belong to another member: answers have no effect."""
        self._open: deque[int] = deque()
        """Offsets that were given out and are not behind the position, in order."""
        self._done: set[int] = set()
        self._given = 0
        self._passed = 0
        """Records that are done and behind the position."""
        self._passed_by_commit = 0
        """Those of the commit under way."""
        self._saved = 0
        """Those of the last commit."""

    @property
    def ahead(self) -> int:
        """Records that were given out beyond the last commit: those that another member may receive again."""
        return self._given - self._saved

    @property
    def begun(self) -> bool:
        """Whether a record was given out."""
        return self._given > 0

    def give(self, offsets: Collection[int]) -> None:
        """Record that the next records were given out."""
        self._open.extend(offsets)
        self.next = self._open[-1] + 1
        self._given += len(offsets)
        self.unanswered += len(offsets)

    def done(self, offset: int) -> None:
        """Record that a record is done. It need not be delivered again."""
        self.unanswered -= 1
        self._done.add(offset)

    def released(self) -> None:
        """Record that a record was not processed. The position stops in front of it."""
        self.unanswered -= 1

    @property
    def position(self) -> Position:
        """What may be committed now."""
        waiting, done = self._open, self._done
        while waiting and waiting[0] in done:
            done.remove(waiting.popleft())
            self._passed += 1
        if not waiting:
            return self.start if not self.begun else Position(self.next)
        return Position(waiting[0], 1 + (self.start.deliveries if self._passed == 0 else 0))

    def begin_commit(self) -> Position | None:
        """Return the position to commit, or None if it is committed."""
        position = self.position
        self._passed_by_commit = self._passed
        return None if position == self.committed else position

    def end_commit(self, position: Position) -> bool:
        """Record that the position of `begin_commit` is durable. Return whether it is behind further records."""
        advanced = self._passed_by_commit > self._saved
        self._saved = self._passed_by_commit
        self.committed = position
        return advanced


class Progress:
    """All partitions of a run.

    `bound` is the maximum of records that are given out beyond the last commits of all partitions. One partition may
    use as much of it as it leaves free (Choudhury and Hahne, "Dynamic queue length thresholds"). So a record that is
    not answered stops its own partition and never the others, and a partition alone uses half of the bound.

    After a start at a record that was given out before, which may have stopped the process, one record is given out at
    a time, then twice as many after each commit, up to `width`. So a record that stops the process is soon the only one
    that was given out, and the others have been committed.
    """

    def __init__(self, bound: int, width: int) -> None:
        self.bound = bound
        self.width = width
        self.partitions: dict[int, PartitionProgress] = {}
        self._limit: int | None = None
        """Maximum of unanswered records, during a slow start."""
        self._turn = 0

    def assign(self, starts: Mapping[int, Position]) -> None:
        """Begin with partitions."""
        for number, start in starts.items():
            self.partitions[number] = PartitionProgress(number, start)
            if start.deliveries:
                self._limit = 1

    def fence(self, numbers: Iterable[int]) -> list[PartitionProgress]:
        """End partitions. Later answers for them have no effect."""
        ended = [self.partitions.pop(number) for number in numbers if number in self.partitions]
        for partition in ended:
            partition.fenced = True
        return ended

    def choose(self, free: int) -> tuple[list[int], int]:
        """Return from which partitions to take records, and how many at most; 0 if it has to wait for a commit.

        Each partition is the first one in turn.
        """
        partitions = self.partitions.values()
        room = self.bound - sum(partition.ahead for partition in partitions)
        ready = [each.number for each in partitions if not each.revoking and each.ahead < room]
        if ready:
            self._turn = (self._turn + 1) % len(ready)
            ready = ready[self._turn :] + ready[: self._turn]
        if self._limit is not None:
            free = min(free, self._limit - sum(partition.unanswered for partition in partitions))
        return ready, min(free, room) if ready else 0

    def begin_commit(self) -> dict[int, Position]:
        """Return the positions that have changed. One commit may be under way."""
        found = ((number, partition.begin_commit()) for number, partition in self.partitions.items())
        return {number: position for number, position in found if position is not None}

    def end_commit(self, positions: Mapping[int, Position]) -> None:
        """Record that positions are durable."""
        advanced = False
        for number, position in positions.items():
            if (partition := self.partitions.get(number)) is not None:
                advanced |= partition.end_commit(position)
        if advanced and self._limit is not None:
            self._limit = self._limit * 2 if self._limit * 2 < self.width else None
