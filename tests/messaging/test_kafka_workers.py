"""Worker processes of one Kafka consumer group, which are killed, stopped, join and leave: no record is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from messaging.kafka_topics import numbers, repeated, workers
from penstock.deadletters import DeadLetter, DeadLetterQuery, create_store
from penstock.sources.kafka import WINDOWS_AHEAD
from servers import KafkaServer
from waiting import until

pytestmark = pytest.mark.long

WINDOW = 32


LOAD: dict[str, Any] = {"window": WINDOW, "seconds": 0.05, "width": WINDOW}
"""Options of workers with 640 records a second each."""


async def test_killed_worker_loses_nothing_and_repeats_no_more_than_the_bound(
    kafka_server: KafkaServer, tmp_path: Path
) -> None:
    """Its partitions move after the session timeout, and begin with what it had committed."""
    total = 6000
    topic = await numbers(kafka_server, total)
    with workers(kafka_server, topic, tmp_path) as group:
        first = group.start(**LOAD)
        until(lambda: first.processed)
        second = group.start(**LOAD)
        until(lambda: second.processed)
        until(lambda: len(group.processed) > total / 3)
        first.kill()
        until(lambda: len(group.processed) == total)
        second.stop()
        processed = group.processed

    assert len(first.processed) < total / 2
    assert len(processed) == total
    assert repeated(processed) <= WINDOWS_AHEAD * WINDOW


async def test_sigterm_repeats_nothing(kafka_server: KafkaServer, tmp_path: Path) -> None:
    """The worker finishes what is in flight, commits it and leaves the group."""
    total = 3000
    topic = await numbers(kafka_server, total)
    with workers(kafka_server, topic, tmp_path) as group:
        first = group.start(**LOAD)
        until(lambda: len(first.processed) > total / 4)
        ended = first.stop()
        second = group.start(**LOAD)
        until(lambda: len(group.processed) == total)
        second.stop()
        processed = group.processed

    assert ended["reason"] == "draining"
    assert ended["received"] < total
    assert (len(processed), repeated(processed)) == (total, 0)


async def test_workers_that_join_and_leave_under_load_repeat_nothing(kafka_server: KafkaServer, tmp_path: Path) -> None:
    """Elements in flight are finished and committed before their partition moves."""
    total = 8000
    topic = await numbers(kafka_server, total)
    with workers(kafka_server, topic, tmp_path) as group:
        first = group.start(**LOAD)
        until(lambda: first.processed)
        for _ in range(2):
            second = group.start(**LOAD)
            until(lambda second=second: second.processed)
            assert len(group.processed) < total, "it joined under load"
            second.stop()
        until(lambda: len(group.processed) == total)
        first.stop()
        processed = group.processed

    assert (len(processed), repeated(processed)) == (total, 0)


async def test_redelivery_writes_no_second_letter(kafka_server: KafkaServer, tmp_path: Path) -> None:
    """A failed record is delivered again if one before it was not done when its worker was killed."""
    letters = f"sqlite:///{tmp_path}/letters.db"
    topic = await numbers(kafka_server, 3, partitions=1)
    options: dict[str, Any] = {"window": WINDOW, "fails": 1, "letters": letters}
    with workers(kafka_server, topic, tmp_path) as group:
        first = group.start(**options, hangs=0)
        until(lambda: len(first.processed) == 2)
        while not await letters_of(letters):
            await asyncio.sleep(0.05)
        first.kill()
        second = group.start(**options)
        until(lambda: len(second.processed) == 3)
        ended = second.stop()

    assert ended["failed"] == 1
    assert first.processed[0] == second.processed[1] == 1
    (letter,) = await letters_of(letters)
    assert str(letter.origin).startswith(f"kafka:{topic}/0/1@")


async def letters_of(url: str) -> Sequence[DeadLetter]:
    """All dead letters of a store."""
    store = create_store(url)
    await store.open()
    try:
        return (await store.page(DeadLetterQuery(), limit=10)).letters
    finally:
        await store.aclose()
