"""Positions of Kafka partitions: what is contiguously done is committed, and a bound is given out beyond it."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from penstock.backends.kafka_group import Position
from penstock.sources.kafka_progress import PartitionProgress, Progress

BOUND = 16

WIDTH = 4


class Consumer(RuleBasedStateMachine):
    """A consumer of three partitions whose records are answered in any order; it is killed and assigned at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.committed = {number: Position(0) for number in range(3)}
        self.done: set[tuple[int, int]] = set()
        self.given: dict[int, list[int]] = {number: [] for number in range(3)}
        """The offsets that were given out since the last start, by partition."""
        self.waiting: list[tuple[PartitionProgress, int]] = []
        self.commit: dict[int, Position] | None = None
        self.progress = Progress(BOUND, WIDTH)
        self.progress.assign(self.committed)

    @rule(free=st.integers(1, WIDTH), gaps=st.lists(st.integers(1, 3), min_size=WIDTH, max_size=WIDTH), data=st.data())
    def give_out(self, free: int, gaps: list[int], data: st.DataObject) -> None:
        """Records have gaps, as in a compacted topic."""
        ready, limit = self.progress.choose(free)
        assert limit <= free
        if limit > 0:
            partition = self.progress.partitions[data.draw(st.sampled_from(ready))]
            offsets = [partition.next + sum(gaps[:index]) for index in range(limit)]
            partition.give(offsets)
            self.given[partition.number] += offsets
            self.waiting += [(partition, offset) for offset in offsets]

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.waiting) - 1))
        partition, offset = self.waiting.pop(index)
        partition.done(offset)
        self.done.add((partition.number, offset))

    @precondition(lambda self: self.commit is None)
    @rule()
    def begin_commit(self) -> None:
        self.commit = self.progress.begin_commit()

    @precondition(lambda self: self.commit is not None)
    @rule(confirmed=st.booleans())
    def end_commit(self, confirmed: bool) -> None:
        assert self.commit is not None
        if confirmed:
            self.committed |= self.commit
            self.progress.end_commit(self.commit)
        self.commit = None

    @rule()
    def kill(self) -> None:
        """Another process begins with what was committed."""
        repeated = sum(offset >= self.committed[number].offset for number, all in self.given.items() for offset in all)
        assert repeated <= BOUND
        self.given = {number: [] for number in range(3)}
        self.waiting, self.commit = [], None
        self.progress = Progress(BOUND, WIDTH)
        self.progress.assign(self.committed)

    @rule(number=st.integers(0, 2))
    def revoke_and_assign(self, number: int) -> None:
        """Answers for the earlier assignment have no effect."""
        self.progress.fence([number])
        self.waiting = [(partition, offset) for partition, offset in self.waiting if not partition.fenced]
        self.given[number] = []
        if self.commit is not None:
            self.commit.pop(number, None)
        self.progress.assign({number: self.committed[number]})

    @invariant()
    def nothing_is_committed_before_it_is_done(self) -> None:
        for number, offsets in self.given.items():
            committed = self.committed[number].offset
            assert all((number, offset) in self.done for offset in offsets if offset < committed)

    @invariant()
    def all_that_is_given_out_beyond_the_commits_is_bounded(self) -> None:
        assert sum(partition.ahead for partition in self.progress.partitions.values()) <= BOUND


TestConsumer = Consumer.TestCase
TestConsumer.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)


@given(st.permutations(range(12)))
def test_the_position_is_the_first_record_that_is_not_done(order: list[int]) -> None:
    """In whatever order the records are done."""
    partition = PartitionProgress(0, Position(100))
    partition.give(range(100, 112))
    done: set[int] = set()

    for index in order:
        partition.done(100 + index)
        done.add(index)
        first = next((offset for offset in range(12) if offset not in done), 12)
        assert partition.position == Position(100 + first, 0 if first == 12 else 1)


def test_a_record_that_never_ends_stops_its_partition_only() -> None:
    """The other partitions use what it leaves free of the bound, and advance."""
    progress = Progress(BOUND, WIDTH)
    progress.assign({0: Position(0), 1: Position(0)})
    stuck, other = progress.partitions.values()
    for _ in range(100):
        for partition in (stuck, other):
            ready, limit = progress.choose(WIDTH)
            if partition.number in ready:
                offsets = range(partition.next, partition.next + limit)
                partition.give(offsets)
                for offset in offsets:
                    if (partition.number, offset) != (0, 0):
                        partition.done(offset)
        progress.end_commit(progress.begin_commit())

    assert stuck.position == Position(0, 1)
    assert other.position.offset > 100


def test_released_records_are_not_committed() -> None:
    """They were not processed; nothing waits for them."""
    partition = PartitionProgress(0, Position(5))
    partition.give([5, 6, 7])
    partition.done(5)
    partition.released()
    partition.done(7)

    assert partition.position == Position(6, 1)
    assert partition.unanswered == 0


def test_deliveries_are_counted_across_restarts() -> None:
    """Of the record that stays the first, whatever else is done meanwhile."""
    position = Position(40)
    for expected in range(1, 5):
        partition = PartitionProgress(0, Position.of(position.offset, position.metadata))
        partition.give([40, 41])
        partition.done(41)
        position = partition.position
        assert position == Position(40, expected)


def test_idle_assignments_are_no_deliveries() -> None:
    """A partition that moves without a record keeps its count."""
    partition = PartitionProgress(0, Position(40, 2))

    assert partition.position == Position(40, 2)


def test_starts_slowly_after_a_record_that_may_have_stopped_the_process() -> None:
    """One record, then twice as many after each commit."""
    progress = Progress(1000, 16)
    progress.assign({0: Position(0, 1), 1: Position(0)})
    limits: list[int] = []
    while len(limits) < 6:
        ready, limit = progress.choose(16)
        limits.append(limit)
        partition = progress.partitions[ready[0]]
        offsets = range(partition.next, partition.next + limit)
        partition.give(offsets)
        assert progress.choose(16)[1] == (0 if limit < 16 else 16)
        for offset in offsets:
            partition.done(offset)
        progress.end_commit(progress.begin_commit())

    assert limits == [1, 2, 4, 8, 16, 16]


def test_partitions_are_the_first_in_turn() -> None:
    """A partition with many records does not hold up the others."""
    progress = Progress(BOUND, WIDTH)
    progress.assign({number: Position(0) for number in range(3)})

    assert {progress.choose(WIDTH)[0][0] for _ in range(3)} == {0, 1, 2}


@given(st.text(max_size=40))
def test_metadata_of_other_programs_count_nothing(text: str) -> None:
    """Such as that of Kafka Streams."""
    assert Position.of(7, text) == Position(7)
    assert Position.of(7, None) == Position(7)
    assert Position.of(7, Position(7, 3).metadata) == Position(7, 3)
