"""What every store that is a log does: S3, Kafka and JetStream, each with its real server."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from penstock.deadletters import DeadLetterQuery, create_store
from penstock.deadletters.log import LogStore, is_queue
from penstock.errors import NotSupportedByStore, StoreError
from penstock.support.ids import now
from stores.letters import letter
from stores.logs import consume, ids, new_log, open_log, read
from waiting import HANG_SECONDS


@pytest.fixture(params=["s3", pytest.param("kafka", marks=pytest.mark.long), "nats"])
def url(request: pytest.FixtureRequest) -> str:
    """The URL of a log that is empty."""
    return new_log(request.getfixturevalue(f"{request.param}_server"))


@pytest.fixture
async def store(url: str) -> AsyncIterator[LogStore]:
    """A log that is open."""
    opened = await open_log(url)
    yield opened
    await asyncio.wait_for(opened.aclose(), HANG_SECONDS)


async def test_a_letter_is_read_as_it_was_added(store: LogStore) -> None:
    """With all its fields, whatever bytes its input has."""
    one = letter(
        flow="orders", key="k1", input=b"\xff\x00{", input_size=3, partial_results={"price": [1.5, None]},
        cause="late", part=2, attempts=3, revision=4, redrives=1, header="a,b", state="parked", message="naïve\nline",
    )  # fmt: skip
    await store.add([one])
    assert await read(store) == [one]


async def test_pages_have_all_letters_once_in_the_order_of_the_log(store: LogStore) -> None:
    """A page continues where the one before ended, also for another process."""
    letters = [letter(seq=seq, key=seq) for seq in range(40)]
    for start in range(0, 40, 8):
        await store.add(letters[start : start + 8])
    found = await read(store, limit=3)
    assert ids(found) == ids(letters)
    assert [each.seq // 8 for each in found] == sorted(each.seq // 8 for each in found)

    first = await store.page(DeadLetterQuery(), limit=11)
    other = await open_log(store.url)
    rest = await other.page(DeadLetterQuery(), after=first.next, limit=100)
    await other.aclose()
    assert ids(first.letters + rest.letters) == ids(letters)
    assert rest.next is None


async def test_letters_added_later_follow_the_last_page(store: LogStore) -> None:
    """A log has no end."""
    await store.add([letter(seq=seq) for seq in range(3)])
    page = await store.page(DeadLetterQuery(), limit=2)
    late = letter(seq=9)
    await store.add([late])
    assert late.id in ids((await store.page(DeadLetterQuery(), after=page.next, limit=9)).letters)


async def test_filters_are_applied_while_reading(store: LogStore) -> None:
    """All conditions of a query but the group."""
    early = letter(flow="a", run="r1", step="s1", type="T1", key="x", seq=1, failed_at=now() - timedelta(days=3))
    late = letter(flow="b", run="r2", step="s2", type="T2", key=7, seq=5, state="parked")
    await store.add([early])
    await store.add([late])
    middle = now() - timedelta(days=1)
    for query, expected in (
        (DeadLetterQuery(flow="a"), early), (DeadLetterQuery(run="r2"), late), (DeadLetterQuery(step="s1"), early),
        (DeadLetterQuery(type="T2"), late), (DeadLetterQuery(key="x"), early), (DeadLetterQuery(key=7), late),
        (DeadLetterQuery(state="parked"), late), (DeadLetterQuery(ids=(early.id,)), early),
        (DeadLetterQuery(since=middle), late), (DeadLetterQuery(until=middle), early),
        (DeadLetterQuery(min_seq=2), late),
    ):  # fmt: skip
        assert await read(store, query) == [expected], query
    assert await read(store, DeadLetterQuery(flow="a", type="T2")) == []


async def test_adding_letters_again_is_safe(store: LogStore) -> None:
    """After an error nobody knows which were stored; readers see each once, and consumers too."""
    letters = [letter(seq=seq) for seq in range(20)]
    await store.add(letters[:15])
    await store.add(letters)
    assert ids(await read(store, limit=100)) == ids(letters)
    assert ids(await consume(store)) == ids(letters)


async def test_many_callers_at_once_share_appends(store: LogStore) -> None:
    """Runs store their letters side by side."""
    letters = [letter(seq=seq, flow=f"f{seq % 3}") for seq in range(600)]
    await asyncio.gather(*(store.add([each]) for each in letters))
    statistics = store.statistics()
    assert (statistics.stored, statistics.failures) == (600, 0)
    assert statistics.commits < 100
    assert ids(await read(store, limit=1000)) == ids(letters)
    assert store.problem() is None


async def test_a_caller_that_is_cancelled_does_not_undo_its_letters(store: LogStore) -> None:
    """They belong to an append that others wait for as well."""
    one = letter()
    task = asyncio.ensure_future(store.add([one]))
    await asyncio.sleep(0)
    task.cancel()
    await store.add([letter()])
    assert one.id in ids(await read(store))


async def test_a_letter_without_limits_is_stored_with_less_input(store: LogStore) -> None:
    """A large letter must not block its run for ever; its size says what is missing."""
    content = b'"' * 3_000_000
    one = letter(input=content, input_size=len(content))
    await asyncio.wait_for(store.add([one]), HANG_SECONDS)
    [found] = await read(store)
    assert found.id == one.id
    assert found.input_size == len(content)
    assert content.startswith(found.input)
    assert len(found.input) > 100_000


async def test_the_group_receives_each_letter_once(store: LogStore) -> None:
    """What was acknowledged does not come again; what is added later comes then."""
    letters = [letter(seq=seq, key=seq, flow=f"f{seq % 2}") for seq in range(50)]
    await store.add(letters)
    assert ids(await consume(store)) == ids(letters)
    assert await consume(store) == []

    late = letter(seq=99)
    await store.add([late])
    assert await consume(store) == [late]
    assert ids(await read(store, limit=100)) == ids([*letters, late])


async def test_letters_appended_while_consuming_come_the_next_time(store: LogStore) -> None:
    """A letter that fails again is appended again; otherwise a redrive would not end."""
    one = letter()
    await store.add([one])
    received = []
    async with aclosing(store.consume()) as batches:
        async for batch in batches:
            for each in batch.letters:
                received.append(each)
                await store.add([replace(each, redrives=each.redrives + 1)])
            await batch.ack()
    assert received == [one]
    assert await consume(store) == [replace(one, redrives=1)]


async def test_letters_that_were_not_acknowledged_come_again(store: LogStore) -> None:
    """A consumer that is closed gives them back at once."""
    letters = [letter(seq=seq) for seq in range(10)]
    await store.add(letters)
    assert await consume(store, ack=False)
    assert ids(await consume(store)) == ids(letters)


async def test_batches_may_be_acknowledged_in_any_order(store: LogStore) -> None:
    """Also after the last one was received."""
    letters = [letter(seq=seq, key=seq % 5, flow=f"f{seq % 3}") for seq in range(1200)]
    for start in range(0, 1200, 300):
        await store.add(letters[start : start + 300])
    async with aclosing(store.consume()) as consumer:
        batches = [batch async for batch in consumer]
        assert len(batches) > 1
        for batch in reversed(batches):
            await batch.ack()
    assert await consume(store) == []


async def test_letters_of_a_batch_can_be_left_for_later(store: LogStore) -> None:
    """A redrive of some letters leaves the others to the next one."""
    letters = [letter(seq=seq, step="ab"[seq % 2]) for seq in range(20)]
    await store.add(letters)
    async with aclosing(store.consume()) as batches:
        async for batch in batches:
            await batch.ack(again=[each for each in batch.letters if each.step == "a"])
    assert ids(await read(store, limit=100)) == ids(letters)
    async with aclosing(store.consume()) as batches:
        async for batch in batches:
            await batch.ack(again=batch.letters)
    assert ids(await consume(store)) == ids(letters[::2])
    assert await consume(store) == []


async def test_processes_share_the_letters(url: str) -> None:
    """Two consumers at the same time leave nothing out; what both receive is at most what was open in between."""
    stores = [await open_log(url), await open_log(url)]
    letters = [letter(seq=seq, key=seq, flow=f"f{seq % 4}") for seq in range(400)]
    for start in range(0, 400, 20):
        await stores[0].add(letters[start : start + 20])

    async def work(store: LogStore) -> list[Any]:
        found: list[Any] = []
        async with aclosing(store.consume()) as batches:
            async for batch in batches:
                await asyncio.sleep(0.01)
                found += batch.letters
                await batch.ack()
        return found

    received = await asyncio.wait_for(asyncio.gather(*map(work, stores)), HANG_SECONDS * 2)
    counts = Counter(each.id for found in received for each in found)
    assert set(counts) == {each.id for each in letters}
    assert max(counts.values()) == 1
    for store in stores:
        await store.aclose()


async def test_a_log_says_what_it_cannot_do(store: LogStore) -> None:
    """Nothing is emulated."""
    assert not is_queue(store)
    for call, action in (
        (store.get("x"), "look up a letter by its id"),
        (store.count(DeadLetterQuery()), "count letters"),
        (store.update(["x"], state="waiting"), "change the state of letters"),
        (store.delete(DeadLetterQuery()), "delete letters"),
        (store.page(DeadLetterQuery(group="1-x")), "select letters by group"),
    ):
        with pytest.raises(NotSupportedByStore, match=f"cannot {action}, because it is a log; list, export and redri"):
            await call


async def test_an_invalid_cursor_is_refused(store: LogStore) -> None:
    """One of another store, or an id."""
    with pytest.raises(StoreError, match="invalid position; pass the `next` of the previous page"):
        await store.page(DeadLetterQuery(), after="01890000-0000-7000-8000-000000000000")


async def test_users_share_the_open_store(url: str) -> None:
    """The last one closes it; then it says how to open it again."""
    store = await open_log(url)
    await store.open()
    await store.aclose()
    await store.add([letter()])
    await store.aclose()
    with pytest.raises(StoreError, match=r"await store\.open"):
        store.add([letter()])
    await store.open()
    assert len(await read(store)) == 1
    await store.aclose()


def test_a_store_serves_one_event_loop_after_another(url: str) -> None:
    """A flow of a module is run by several `asyncio.run`."""
    store = create_store(url)

    async def main() -> None:
        await store.open()
        await store.add([letter()])
        await store.aclose()

    asyncio.run(main())
    asyncio.run(main())
    assert store.statistics().stored == 2


async def test_a_store_for_reading_accepts_no_letters(url: str) -> None:
    """Commands that list open it so."""
    writer = await open_log(url)
    await writer.add([letter()])
    await writer.aclose()
    reader = create_store(url, create=False, read_only=True)
    await reader.open()
    assert len((await reader.page(DeadLetterQuery())).letters) == 1
    with pytest.raises(StoreError, match="open for reading only"):
        reader.add([letter()])
    await reader.aclose()
