"""The Kafka source with a topic in memory, in virtual time: what is given out, committed, drained and fenced."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from laws.test_leases import KeptLetters
from laws.virtual import DAY, quiet, timers, within
from messaging.fake_kafka import Member, Topic, start
from penstock import Flow, Service
from penstock.backends.kafka_group import Position, Record
from penstock.deadletters import DeadLetter, DeadLetterQuery, MemoryStore
from penstock.errors import FlowDefinitionError
from penstock.sources import KafkaSource
from penstock.sources.kafka import KEEPALIVE_SECONDS
from penstock.testing import run as run_virtual

WINDOW = 8


def flow_of(step: Any, window: int = WINDOW) -> Flow[Any]:
    """A flow with one asynchronous step."""
    return Flow("kafka").window(window).map_async(Service("step", step, max_in_flight=window, timeout=DAY))


async def until_committed(topic: Topic, *offsets: int) -> None:
    """Wait until positions are committed."""
    while [position.offset for _, position in sorted(topic.committed.items())] != list(offsets):
        await asyncio.sleep(0.01)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(("drain", "abort", "kill")), st.floats(0.1, 3))
def test_nothing_is_lost_whatever_happens(seed: int, event: str, at: float) -> None:
    """Two runs, one after the other, while partitions come and go: each record is done, or delivered again."""
    rng = random.Random(seed)

    async def main() -> None:
        topic = Topic.of_numbers(60, 40, 0)
        done: set[int] = set()

        async def step(value: int) -> int:
            await asyncio.sleep(rng.choice((0.0, rng.uniform(0, 0.5))))
            done.add(value)
            return value

        before = len(timers())
        first = Member(topic)
        run = start(flow_of(step), first)
        ends = asyncio.get_running_loop().time() + at
        while asyncio.get_running_loop().time() < ends:
            number = rng.randrange(3)
            await asyncio.sleep(rng.uniform(0, 0.3))
            if rng.random() < 0.5 and number in first.positions:
                await first.revoke([number])
                await asyncio.sleep(rng.uniform(0, 0.1))
                await first.assign([number])
        first.dead = event == "kill"
        (run.abort if event == "kill" else getattr(run, event))()
        summary = await run.finished
        assert summary.received == summary.ok + summary.cancelled
        assert first.closed == 1
        assert len(asyncio.all_tasks()) == 1
        assert len(timers()) == before
        second = start(flow_of(step), Member(topic))
        await until_committed(topic, 60, 40, 0)
        second.drain()
        await second.finished
        assert len(done) == 100

    quiet(main())


def test_partition_is_drained_and_committed_before_it_is_given_up() -> None:
    """Nothing more of it is given out, and the other partition continues meanwhile."""

    async def main() -> tuple[Topic, list[int]]:
        topic = Topic.of_numbers(100, 1000)
        seen: list[int] = []

        async def step(value: int) -> int:
            await asyncio.sleep(1)
            seen.append(value)
            return value

        member = Member(topic)
        run = start(flow_of(step), member)
        await asyncio.sleep(3.5)
        before = member.returned
        await member.revoke([0])
        revoked = topic.committed[0]
        returned = member.returned
        await asyncio.sleep(3)
        after = member.returned
        run.drain()
        await run.finished
        assert topic.committed[0] == revoked
        assert returned >= before
        assert after > returned
        return topic, seen

    topic, seen = quiet(main())

    assert len(seen) == topic.committed[0].offset + topic.committed[1].offset
    assert topic.committed[0].deliveries == 0


def test_partition_is_fenced_when_its_elements_take_too_long() -> None:
    """Their answers have no effect any more: another member has the partition."""

    async def main() -> tuple[float, Position]:
        topic = Topic.of_numbers(20)
        member = Member(topic)

        async def step(value: int) -> int:
            await asyncio.sleep(100 if value == 3 else 0)
            return value

        run = start(flow_of(step), member, rebalance_timeout=10.0)
        await asyncio.sleep(1)
        begun = asyncio.get_running_loop().time()
        await member.revoke([0])
        seconds = asyncio.get_running_loop().time() - begun
        topic.committed[0] = Position(20)  # by the other member
        await asyncio.sleep(200)
        run.drain()
        summary = await run.finished
        assert summary.ok == summary.received
        return seconds, topic.committed[0]

    seconds, committed = quiet(main())

    assert 7.9 < seconds < 10
    assert committed == Position(20)


def test_excluded_member_does_not_drain() -> None:
    """Another member may have its partitions already."""

    async def main() -> float:
        member = Member(Topic.of_numbers(20))
        run = start(flow_of(lambda _: asyncio.sleep(30)), member)
        await asyncio.sleep(1)
        member.excluded = True
        begun = asyncio.get_running_loop().time()
        await member.revoke([0])
        seconds = asyncio.get_running_loop().time() - begun
        run.abort()
        await run.finished
        return seconds

    assert quiet(main()) < 1


def test_full_window_takes_no_records_and_stays_in_the_group() -> None:
    """A slow sink: as many records as the window holds are taken, and polls without partitions keep the member."""

    async def main() -> tuple[int, list[tuple[float, int]]]:
        member = Member(Topic.of_numbers(1000, 1000))
        run = start(flow_of(lambda _: asyncio.sleep(DAY / 2)), member)
        await asyncio.sleep(10 * KEEPALIVE_SECONDS + 1)
        polls = [*member.polls]
        run.abort()
        await run.finished
        return member.returned, polls

    returned, polls = quiet(main())

    assert returned == WINDOW
    assert [limit for time, limit in polls if time > KEEPALIVE_SECONDS / 2] == [0] * 10


def test_record_that_stops_the_process_becomes_a_dead_letter() -> None:
    """After `deliveries` starts as the first of its partition; no other record is blamed."""
    poison = 5, 29

    async def main() -> tuple[list[DeadLetter], set[int], int]:
        topic, store = Topic.of_numbers(40), KeptLetters()
        done: set[int] = set()
        starts = 0
        while not topic.committed or topic.committed[0].offset < 40:
            member, died = Member(topic), asyncio.Event()

            async def step(value: int, member: Member = member, died: asyncio.Event = died) -> int:
                if value in poison:
                    member.dead = True
                    died.set()
                    await asyncio.sleep(DAY)
                await asyncio.sleep(0.1)
                if not died.is_set():
                    done.add(value)
                return value

            run = start(flow_of(step).dead_letters(store), member, deliveries=3)
            starts += 1
            try:
                async with asyncio.timeout(10):
                    await died.wait()
            except TimeoutError:
                run.drain()
            else:
                run.abort()
            await run.finished
        return store.kept, done, starts

    letters, done, starts = quiet(main())

    assert [letter.origin for letter in letters] == [f"kafka:numbers/0/{number}@0" for number in poison]
    assert {(letter.step, letter.type) for letter in letters} == {("source", "Poisoned")}
    assert letters[0].message.startswith("the message was delivered 3 times")
    assert done == set(range(40)) - set(poison)
    assert starts < 20


def test_records_without_a_value_are_filtered() -> None:
    """Tombstones of a compacted topic: they are committed, and counted as filtered."""

    async def main() -> tuple[Any, Topic]:
        topic = Topic([[b"1", None, b"2", None, None]])
        run = start(flow_of(lambda value: asyncio.sleep(0, value)), Member(topic))
        await until_committed(topic, 5)
        run.drain()
        return await run.finished, topic

    summary, _ = quiet(main())

    assert (summary.received, summary.ok, summary.filtered) == (5, 2, 3)


def test_failed_without_a_store_is_committed_and_reported_once() -> None:
    """Kafka cannot deliver one record again."""

    async def main() -> Any:
        topic = Topic.of_numbers(20)

        async def step(value: int) -> int:
            raise ValueError(value)

        run = start(flow_of(step), Member(topic))
        await until_committed(topic, 20)
        run.drain()
        return await run.finished

    with capture_logs() as logs:
        summary = run_virtual(within(DAY, main()))

    assert summary.failed == 20
    assert [each["event"] for each in logs].count("kafka.failed_not_stored") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_failure": "redeliver"}, "on_failure: Kafka cannot deliver one record again"),
        ({"from_": "now"}, "from: expected latest or earliest, got 'now'"),
        ({"url": "kafka://host/orders"}, "unexpected 'orders' after the host; use kafka://HOST"),
        ({"url": "nats://host"}, "source kafka orders 'nats://host': expected kafka://HOST"),
        ({"url": "kafka://me:s3cret@host:99999"}, "invalid host 'host:99999'"),
        ({"group": ""}, "group: expected a name"),
        ({"deliveries": 0}, "deliveries: expected an integer >= 1, got 0"),
        ({"session_timeout": 0.0}, "session_timeout: expected a number > 0"),
    ],
)
def test_invalid_sources_are_rejected(options: dict[str, Any], message: str) -> None:
    """When they are made, without passwords in the message."""
    with pytest.raises(FlowDefinitionError) as raised:
        KafkaSource(**({"url": "kafka://host", "topic": "orders", "group": "g"} | options))

    assert message in str(raised.value)
    assert "s3cret" not in str(raised.value)


def test_records_that_arrive_before_their_position_is_known_are_given_out() -> None:
    """The client fetches from new partitions while their committed positions are read, for a poll that is under way."""

    class Early(Member):
        """A member whose polls wait, and return records of partitions as soon as they are assigned."""

        delay = 0.0

        async def poll(self, partitions: Collection[int], limit: int, seconds: float) -> Mapping[int, Sequence[Record]]:
            for _ in range(int(seconds * 1000)):
                if found := await super().poll(partitions, limit, 0.001):
                    return found
            return {}

        async def committed(self, partitions: Collection[int]) -> Mapping[int, Position]:
            await asyncio.sleep(self.delay)
            return await super().committed(partitions)

        async def assign(self, partitions: Collection[int]) -> None:
            self.positions = {each: self.topic.committed.get(each, Position(0)).offset for each in partitions}
            assert self._listener is not None
            await self._listener.on_assigned(partitions)

    async def main() -> list[int]:
        topic, done = Topic.of_numbers(0), list[int]()

        async def step(value: int) -> int:
            done.append(value)
            return value

        member = Early(topic)
        run = start(flow_of(step), member)
        await asyncio.sleep(0.2)  # a poll is under way
        member.delay = 0.05
        await member.revoke([0])
        topic.partitions[0] += [b"%d" % number for number in range(20)]
        await member.assign([0])
        await until_committed(topic, 20)
        run.drain()
        await run.finished
        return done

    assert run_virtual(within(60, main())) == list(range(20))


def test_a_topic_that_is_created_again_has_other_records() -> None:
    """They have the same offsets; letters of the first topic that are still open do not replace theirs."""

    async def main() -> list[bytes]:
        store = MemoryStore()

        async def step(value: int) -> int:
            raise ValueError(value)

        for created_at in (1, 1, 2):  # the second time, the records of the first topic come again
            topic = Topic.of_numbers(5)
            topic.created_at = created_at
            run = start(flow_of(step).dead_letters(store), Member(topic))
            await until_committed(topic, 5)
            run.drain()
            await run.finished
        return [letter.input for letter in (await store.page(DeadLetterQuery(), limit=100)).letters]

    assert len(quiet(main())) == 10
