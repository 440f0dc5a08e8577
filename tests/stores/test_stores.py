"""The stores of a process: opened once, shared, closed with the last who uses them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from penstock import Flow, from_iterable
from penstock.deadletters import DeadLetterQuery, MemoryStore, Stores, create_store
from penstock.deadletters.store import PAGE_BYTES
from penstock.deadletters.stores import merge_pages
from penstock.errors import StoreError
from penstock.results import DiscardResults
from penstock.runtime import Supervisor
from penstock.sources import PushSource
from penstock.support.json_encoding import UNENCODABLE, encode_json
from penstock.support.tasks import to_thread_uncancellable
from stores.children import children_of, running
from stores.letters import letter
from waiting import HANG_SECONDS, until


def refuse(value: Any) -> Any:
    """A step that fails."""
    raise ValueError(value)


@pytest.fixture(params=[False, True], ids=["thread", "process"])
def separate(request: pytest.FixtureRequest) -> bool:
    """Whether letters are written by a process of its own."""
    return bool(request.param)


@pytest.fixture
def url(tmp_path: Path) -> str:
    """The URL of a store that is not there yet."""
    return f"sqlite:///{tmp_path}/letters.db"


async def test_a_given_store_is_closed_with_its_last_user(url: str, separate: bool) -> None:
    """Runs side by side share it, whichever ends first; its owner may keep it open and read it."""
    store = create_store(url, separate_writer=separate)
    flow = Flow[Any]("f").map(refuse).dead_letters(store)
    feeds: list[PushSource[Any]] = [PushSource(10), PushSource(10)]
    first, second = (flow.start(feed, DiscardResults()) for feed in feeds)
    for feed in feeds:
        await feed.push(1)
    feeds[0].close()
    assert (await first.finished).failed == 1
    await feeds[1].push(2)
    feeds[1].close()
    assert (await second.finished).failed == 2
    with pytest.raises(StoreError, match=r"await store\.open"):
        await store.page(DeadLetterQuery())
    await store.open()
    assert (await flow.start(from_iterable([4]), DiscardResults()).finished).failed == 1
    assert len((await store.page(DeadLetterQuery())).letters) == 4
    await store.aclose()
    with pytest.raises(StoreError):
        await store.page(DeadLetterQuery())


def test_a_given_store_serves_one_event_loop_after_another(url: str, separate: bool) -> None:
    """A flow of a module is run by several `asyncio.run`."""
    flow = Flow[Any]("f").map(refuse).dead_letters(create_store(url, separate_writer=separate))

    async def main() -> int:
        return (await flow.start(from_iterable([1]), DiscardResults()).finished).failed

    assert [asyncio.run(main()) for _ in range(2)] == [1, 1]


async def test_pages_of_several_stores_leave_out_nothing() -> None:
    """The page of one ends early, because its letters are large; none of the other's behind that one comes before."""
    letters = [letter(seq=seq, input=b"x" * (1_500_000 if seq % 2 else 1)) for seq in range(20)]
    stores = [MemoryStore(), MemoryStore()]
    for one in letters:
        await stores[one.seq % 2].add([one])
    await stores[0].add(letters[5:6])  # of two names for one file
    found: list[int] = []
    page = await merge_pages(stores, DeadLetterQuery(), limit=1000)
    while True:
        assert sum(len(one.input) for one in page.letters) <= PAGE_BYTES + 1_500_000
        found += [one.seq for one in page.letters]
        if page.next is None:
            break
        page = await merge_pages(stores, DeadLetterQuery(), after=page.next, limit=1000)

    assert found == list(range(20))


def test_a_store_that_was_left_open_under_a_commit_serves_the_next_event_loop(url: str, separate: bool) -> None:
    """Letters that were stored are there; one whose `add` was not awaited may be."""
    store = create_store(url, separate_writer=separate)
    here = children_of()

    async def leave_open() -> None:
        await store.open()
        await store.add([letter()])
        await asyncio.gather(store.page(DeadLetterQuery()), store.page(DeadLetterQuery()))
        store.add([letter()])

    async def use() -> int:
        with pytest.raises(StoreError, match=r"await store\.open"):
            store.add([letter()])
        assert 1 <= sum(store.statistics().counts.values()) <= 2
        await store.open()
        await store.add([letter()])
        found = await asyncio.gather(store.page(DeadLetterQuery()), store.page(DeadLetterQuery()))
        await store.aclose()
        return len(found[0].letters)

    asyncio.run(leave_open())
    assert asyncio.run(asyncio.wait_for(use(), HANG_SECONDS)) in (2, 3)
    assert store.statistics().commits >= 2
    until(lambda: not any(map(running, children_of() - here)))


async def test_a_store_that_is_open_is_used_in_its_event_loop_only(url: str, separate: bool) -> None:
    """While that loop lives, another one is told so; when it is closed, the other one may open the store."""
    store = create_store(url, separate_writer=separate)
    await store.open()

    def elsewhere(call: Any) -> None:
        async def main() -> None:
            await call()

        with pytest.raises(StoreError, match="opened in another event loop"):
            asyncio.run(main())

    for call in (
        store.open,
        store.aclose,
        lambda: store.add([letter()]),
        lambda: store.page(DeadLetterQuery()),
        lambda: store.delete(DeadLetterQuery()),
    ):
        await to_thread_uncancellable(lambda call=call: elsewhere(call))  # type: ignore[misc]
    await store.add([letter()])
    await store.aclose()

    async def use() -> int:
        await store.open()
        found = await store.count(DeadLetterQuery())
        await store.aclose()
        return found[()]

    assert await to_thread_uncancellable(lambda: asyncio.run(use())) == 1


def test_who_closes_in_another_event_loop_than_the_one_that_ended_does_not_wait(url: str, separate: bool) -> None:
    """There is nothing left to close."""
    store = create_store(url, separate_writer=separate)

    async def leave_open() -> None:
        await store.open()
        store.add([letter()])

    asyncio.run(leave_open())
    asyncio.run(asyncio.wait_for(store.aclose(), HANG_SECONDS))


def test_many_at_once_may_use_a_store_in_one_event_loop_after_another(url: str, separate: bool) -> None:
    """What they wait in belongs to one loop, and is made anew for the next."""
    store = create_store(url, separate_writer=separate)

    async def use() -> None:
        await asyncio.gather(store.open(), store.open())
        await asyncio.gather(store.add([letter()]), store.page(DeadLetterQuery()), store.page(DeadLetterQuery()))
        store.add([letter()])
        await asyncio.gather(store.aclose(), store.aclose())

    for _ in range(2):
        asyncio.run(asyncio.wait_for(use(), HANG_SECONDS))
    assert store.statistics().commits >= 2


async def test_who_asks_together_gets_the_same_store(url: str, separate: bool) -> None:
    """It is opened once, though opening takes a while."""
    stores = Stores(separate_writer=separate)
    found = await asyncio.gather(*(stores.get(url) for _ in range(4)))
    assert len({id(store) for store in found}) == 1
    await stores.aclose()
    with pytest.raises(StoreError):
        await found[0].page(DeadLetterQuery())


async def test_a_store_of_two_names_is_one(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flow that goes does not close it under another that writes its URL with a variable."""
    monkeypatch.setenv("LETTERS", url)
    ways = [Flow[Any](name).map(refuse).dead_letters(text) for name, text in (("a", url), ("b", "${LETTERS}"))]
    supervisor = Supervisor()
    for flow in ways:
        await supervisor.add(flow)
    await supervisor.remove(ways[1], [ways[0]])
    assert (await supervisor.start(ways[0], from_iterable([1]), DiscardResults()).finished).failed == 1
    await supervisor.remove(ways[0], [])
    assert supervisor.stores.all() == []
    assert supervisor.stores.statistics().commits == 1  # what was counted stays counted
    assert supervisor.flow_statistics["a"].letters == {"(removed)": 1}  # accounts agree, by fewer steps
    await supervisor.shut_down(1)


async def test_all_stores_are_closed_though_one_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is raised afterwards."""
    stores = Stores()
    bad, good = [await stores.get(f"sqlite:///{tmp_path}/{name}.db") for name in ("bad", "good")]

    async def broken() -> None:
        raise StoreError("no")

    with monkeypatch.context() as patched:
        patched.setattr(bad, "aclose", broken)
        with pytest.raises(StoreError, match="no"):
            await stores.aclose()
    with pytest.raises(StoreError, match="not open"):
        await good.page(DeadLetterQuery())
    await bad.aclose()


class Odd:
    """What cannot be told."""

    def __repr__(self) -> str:
        raise ValueError("no")


def circle() -> Any:
    """What has no end."""
    value: dict[str, Any] = {}
    value["again"] = value
    return value


def deep() -> Any:
    """What has one, far away."""
    value: Any = 1
    for _ in range(10_000):
        value = [value]
    return value


@pytest.mark.parametrize("make", [Odd, circle, deep])
async def test_a_letter_is_written_whatever_was_found(url: str, separate: bool, make: Any) -> None:
    """It waits for nothing, and holds up nobody."""
    store = create_store(url, separate_writer=separate)
    await store.open()
    flow = Flow[Any]("f").enrich(odd=lambda _: make(), even=lambda _: 2, bad=refuse).dead_letters(store)
    summary = await asyncio.wait_for(flow.start(from_iterable([1, make(), 3]), DiscardResults()).finished, HANG_SECONDS)
    letters = (await store.page(DeadLetterQuery())).letters
    await store.aclose()

    assert (summary.reason, summary.failed) == ("completed", 3)
    assert [letter.partial_results for letter in letters] == [
        {"odd (not reused)": UNENCODABLE.decode()[1:-1], "even": 2}
    ] * 3


def test_what_cannot_be_told_stands_for_itself_alone() -> None:
    """The other fields of an object are told."""
    assert encode_json({"a": 1, "b": Odd()}) == b'{"a":1,"b":%b}' % UNENCODABLE
    assert encode_json(Odd()) == UNENCODABLE


async def test_stores_that_are_unusable_are_named_without_credentials() -> None:
    """Two stores of one name are one for the metric, usable if both are; a full store in memory is not."""
    stores = Stores()
    full, other, free = MemoryStore(0), MemoryStore(), MemoryStore()
    full.url = other.url = "postgresql://me:secret@host/letters"
    for store in (full, other, free):
        await stores.get(store)
    assert stores.usable() == {"postgresql://host/letters": True, "memory:": True}

    with pytest.raises(StoreError, match="limit of 0 letters"):
        await full.add([letter()])

    assert stores.usable() == {"postgresql://host/letters": False, "memory:": True}
    await stores.aclose()
