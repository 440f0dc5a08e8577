"""The laws of dead-letter stores, shown for every store."""

import asyncio
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from tempfile import TemporaryDirectory
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from penstock.deadletters import DeadLetter, DeadLetterQuery, MemoryStore
from penstock.deadletters.postgres.store import PostgresStore
from penstock.deadletters.sqlite.store import SqliteStore
from penstock.deadletters.store import PAGE_BYTES
from penstock.errors import StoreError
from penstock.support.ids import new_id, new_ids, now
from servers import PostgresServer, running
from stores.letters import grouped
from stores.shared_writing import sharing
from waiting import until_async

NOON = datetime(2020, 3, 1, 12, tzinfo=UTC)  # before all ids that are made here, as with letters of runs


@asynccontextmanager
async def opened(kind, **settings):
    with TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/letters.db"
        if kind == "memory":
            store = MemoryStore()
        elif kind == "postgres":
            store = PostgresStore(running(PostgresServer).new_schema(), **settings)
        else:
            store = SqliteStore(url, separate_writer=kind == "process", **settings)
        async with AsyncExitStack() as stack:
            if kind == "shared":
                _, writers = await stack.enter_async_context(sharing())
                store = SqliteStore(url, make_writer=writers.make, **settings)
            await store.open()
            try:
                yield store
            finally:
                await store.aclose()


@pytest.fixture(params=["memory", "sqlite", "process", "shared", "postgres"])
def kind(request):
    return request.param


@pytest.fixture
async def store(kind):
    async with opened(kind) as store:
        yield store


def letter(**facts):
    plain = {
        "id": new_id(), "flow": "orders", "run": "r", "seq": 0, "step": "pricing", "type": "CallTimeout",
        "message": "late", "input": b"{}", "input_size": 2, "started_at": NOON, "failed_at": NOON,
    }  # fmt: skip
    return grouped(DeadLetter(**(plain | facts)))


async def walk(store, filter=DeadLetterQuery(), limit=7):  # noqa: B008 - frozen
    ids, after = [], None
    while True:
        page = await store.page(filter, after=after, limit=limit)
        ids += [letter.id for letter in page.letters]
        if page.next is None:
            return ids
        after = page.next


TEXT = st.text(st.characters(exclude_categories=["Cs"]))
NUMBER = st.integers(-(2**63), 2**63 - 1)
TIME = st.datetimes(timezones=st.timezones() | st.just(UTC), allow_imaginary=False).filter(
    # An hour that a zone has twice equals no time of another zone (PEP 495).
    lambda time: 1 < time.year < 9999 and time == time.astimezone(UTC)
)
KEY = st.none() | TEXT | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(KEY | st.booleans(), lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner), max_leaves=5)
LETTER = st.builds(
    DeadLetter, id=st.builds(new_id), flow=TEXT, run=TEXT, seq=NUMBER, part=st.none() | NUMBER, key=KEY, step=TEXT,
    type=TEXT, message=TEXT, attempts=NUMBER, cause=st.none() | TEXT, input=st.binary(), input_size=NUMBER,
    partial_results=st.none() | st.dictionaries(TEXT, JSON), state=TEXT, started_at=TIME, failed_at=TIME,
)  # fmt: skip


def test_every_field_comes_back_as_it_was(kind):
    """What is stored is what is read: odd bytes, huge numbers, any text, any time, whole keys as whole keys."""

    @settings(max_examples=40, deadline=None)
    @given(letters=st.lists(LETTER, min_size=1, max_size=6))
    def there_and_back(letters):
        async def main():
            await store.add(letters)
            return [await store.get(letter.id) for letter in letters]

        found = runner.run(main())

        expected = [without_nul(letter) for letter in letters] if kind == "postgres" else letters
        assert [replace(letter, group=None) for letter in found] == expected
        assert [type(letter.key) for letter in found] == [type(letter.key) for letter in letters]

    with asyncio.Runner() as runner:  # one store for all examples: a process for each is most of the work
        context = opened(kind)
        store = runner.run(context.__aenter__())
        try:
            there_and_back()
        finally:
            runner.run(context.__aexit__(None, None, None))


def without_nul(letter):
    """What PostgreSQL stores: it rejects NUL in texts."""
    texts = {name: getattr(letter, name) for name in ("flow", "run", "step", "type", "message", "cause", "state")}
    return replace(letter, **{name: text and text.replace("\0", "\\u0000") for name, text in texts.items()})


async def test_letters_of_a_run_are_found_from_a_number_on(store):
    """`min_seq` selects letters of elements with this number or a higher one, whatever their times and ids are."""
    late, soon = NOON + timedelta(days=300), NOON - timedelta(days=300)
    letters = [letter(seq=seq, failed_at=late if seq % 2 else soon) for seq in range(6)]
    await store.add([*letters[::-1], letter(run="another", seq=4)])

    page = await store.page(DeadLetterQuery(run="r", min_seq=3))

    assert sorted(one.seq for one in page.letters) == [3, 4, 5]


async def test_an_unknown_id_is_none(store):
    """No letter is no error."""
    assert await store.get(new_id()) is None


async def test_adding_a_letter_again_changes_nothing(store):
    """`add` is idempotent by id: the first one stays, also beside new ones."""
    first, second = letter(message="first"), letter()
    await store.add([first])

    await store.add([letter(id=first.id, message="again"), second])

    assert await store.get(first.id) == first
    assert store.statistics().counts == {"waiting": 2}


async def test_known_letters_of_many_states_are_not_counted_twice(store):
    """Counts agree with the letters when a call holds known and new ones of several states."""
    known = letter(state="parked")
    await store.add([known])

    await store.add([known, letter(), letter(state="parked")])

    assert store.statistics().counts == {"waiting": 1, "parked": 2}


@pytest.mark.parametrize("count", [2, 700])
async def test_a_call_stores_all_its_letters_or_none(kind, count):
    """One letter that cannot be stored keeps back the others of its call, however many; other calls go on."""
    async with opened(kind) as store:
        good = [letter(seq=n) for n in range(count)]
        bad = [letter(seq=n) for n in range(count - 1)]
        if kind == "memory":
            store._capacity = count  # both do not fit
            bad.append(letter())
        else:
            bad.append(letter(seq=2**70))

        results = await asyncio.gather(store.add(good), store.add(bad), return_exceptions=True)

        assert results[0] is None
        assert isinstance(results[1], StoreError)
        assert await walk(store, limit=500) == sorted(one.id for one in good)
        assert store.statistics().counts == {"waiting": count}


async def test_paging_visits_each_letter_once_in_the_order_of_ids(store):
    """Pages laid one after the other are all letters, oldest first, whatever their size is."""
    letters = [letter(seq=n) for n in range(20)]
    await store.add(letters[::-1])

    for limit in (1, 3, 20, 100):
        assert await walk(store, limit=limit) == sorted(one.id for one in letters), limit


async def test_a_page_of_large_letters_ends_early(store):
    """It ends with the letter with which it holds more than 4 MiB, inputs and what was found; all come in the end."""
    size = 700_000
    await store.add([letter(input=b"x" * size) for _ in range(5)])
    await store.add([letter(partial_results={"text": "x" * size}) for _ in range(5)])
    await store.add([letter(input=b"x" * (PAGE_BYTES * 2)), letter()])
    found, after = [], None
    while True:
        page = await store.page(DeadLetterQuery(), after=after, limit=1000)
        found.append([one.id for one in page.letters])
        if page.next is None:
            break
        after = page.next

    assert [len(ids) for ids in found] == [6, 5, 1]
    assert [id for ids in found for id in ids] == await walk(store, limit=1)


async def test_letters_added_while_paging_neither_hide_nor_repeat_others(store):
    """A walk sees each letter that was there when it began once, whatever is added meanwhile."""
    there = [letter(seq=n) for n in range(30)]
    await store.add(there)
    seen, after = [], None
    while True:
        page = await store.page(DeadLetterQuery(), after=after, limit=4)
        seen += [one.id for one in page.letters]
        if page.next is None:
            break
        after = page.next
        if len(seen) < 30:
            await store.add([letter(), letter(id="0" + new_id()[1:-1])])  # one after, one before all others

    assert seen == sorted(seen)
    assert len(seen) == len(set(seen))
    assert {one.id for one in there} <= set(seen)


FACTS = (
    {"flow": "other"}, {"run": "other"}, {"step": "stock"}, {"type": "InvalidItem"}, {"state": "parked"},
    {"flow": "other", "step": "stock", "type": "InvalidItem", "state": "parked", "run": "x"},
)  # fmt: skip


async def test_each_filter_lets_exactly_its_letters_through(store):
    """A filter finds the letters that have all of its fields, and no others."""
    letters = [letter(), *(letter(**facts) for facts in FACTS for _ in range(3)), letter()]
    await store.add(letters)

    for facts in FACTS:
        wanted = [one.id for one in letters if all(getattr(one, name) == value for name, value in facts.items())]
        assert len(wanted) in (3, 6)
        assert await walk(store, DeadLetterQuery(**facts), limit=2) == sorted(wanted), facts


async def test_since_is_inclusive_and_until_is_not(store):
    """`since` and `until` cut the time half open, to the microsecond, whatever the time zone."""
    tick = timedelta(microseconds=1)
    before, first, last, after = (letter(failed_at=NOON + n * tick) for n in range(-1, 3))
    await store.add([before, first, last, after])

    assert await walk(store, DeadLetterQuery(since=NOON, until=NOON + 2 * tick)) == sorted([first.id, last.id])


async def test_since_and_until_may_be_any_time(store):
    """The first and the last year that there are cut like any other."""
    await store.add([letter()])

    for year in (1, 1969, 2020, 9999):
        time = datetime(year, 12, 31, tzinfo=UTC) if year > 1 else datetime.min.replace(tzinfo=UTC)
        assert len(await walk(store, DeadLetterQuery(since=time))) == (year < 2020), year
        assert len(await walk(store, DeadLetterQuery(until=time))) == (year >= 2020), year


def test_ids_grow_and_are_uuids_of_version_7():
    """However many are made in one millisecond: more than the digits that are counted up have room for."""
    ids = [new_id(), *new_ids(200_000), new_id()]

    assert ids == sorted(set(ids))
    assert {(UUID(id).version, str(UUID(id)) == id) for id in ids} == {(7, True)}


async def test_since_finds_letters_of_its_own_moment(store):
    """Ids made right after the times of their letters never hide them, nor do they on later pages."""
    letters = []
    for number in range(300):
        failed_at = now()
        letters.append(letter(seq=number, failed_at=failed_at, id=new_id()))
    await store.add(letters)

    for one in letters[::60]:
        wanted = [other.id for other in letters if other.failed_at >= one.failed_at]
        assert await walk(store, DeadLetterQuery(since=one.failed_at)) == wanted


QUERIES = [
    {}, {"flow": "other"}, {"type": "InvalidItem"}, {"run": "r", "min_seq": 4}, {"state": "parked"}, {"since": NOON},
    {"until": NOON}, {"flow": "orders", "step": "stock", "since": NOON - timedelta(1), "until": NOON + timedelta(1)},
]  # fmt: skip


def assorted():
    """Letters of which each query above finds some and leaves some, except for the one that finds all."""
    return [
        letter(
            seq=n, flow=("orders", "other")[n % 2], step=("stock", "pricing")[n % 3 == 0],
            type=("InvalidItem", "CallTimeout")[n % 4 == 0], state=("waiting", "parked")[n % 5 == 0],
            failed_at=NOON + timedelta(hours=n - 6),
        )
        for n in range(13)
    ]  # fmt: skip


async def test_a_count_is_how_many_letters_a_walk_finds(store):
    """In total, and by the values of any fields: groups without letters are left out."""
    letters = assorted()
    await store.add(letters)
    for query in QUERIES:
        found = set(await walk(store, DeadLetterQuery(**query)))
        matching = [one for one in letters if one.id in found]

        assert await store.count(DeadLetterQuery(**query)) == {(): len(found)}, query
        for by in (("state",), ("flow", "step", "type"), ("type", "run")):
            groups = Counter(tuple(getattr(one, name) for name in by) for one in matching)
            assert await store.count(DeadLetterQuery(**query), by=by) == groups, query
    assert await store.count(DeadLetterQuery(flow="none")) == {(): 0}
    assert await store.count(DeadLetterQuery(flow="none"), by=("flow",)) == {}


async def test_deleting_removes_exactly_the_letters_that_a_walk_finds(store):
    """It returns how many; deleting again finds none, and the letters can be added again."""
    letters = assorted()
    await store.add(letters)
    for query in QUERIES:
        doomed = await walk(store, DeadLetterQuery(**query))

        assert await store.delete(DeadLetterQuery(**query)) == len(doomed), query
        assert await store.delete(DeadLetterQuery(**query)) == 0, query
        assert await walk(store) == sorted({one.id for one in letters} - set(doomed)), query
        await store.add(letters)
        assert await walk(store) == sorted(one.id for one in letters), query


async def test_many_letters_are_deleted(store):
    """More than fit into one transaction, while others are added."""
    await store.add([letter(seq=n, type="InvalidItem") for n in range(1200)])
    others = [letter(seq=n) for n in range(50)]

    deleted, *_ = await asyncio.gather(
        store.delete(DeadLetterQuery(type="InvalidItem")), *(store.add([one]) for one in others)
    )

    assert deleted == 1200
    assert await walk(store, limit=100) == sorted(one.id for one in others)


@pytest.mark.parametrize("count", [1, 1100])
async def test_an_update_sets_the_state_of_the_named_letters(store, count):
    """Ids that are unknown or named twice do not matter; other letters and fields stay as they are."""
    letters, other = [letter(seq=n) for n in range(count)], letter()
    await store.add([*letters, other])
    ids = [one.id for one in letters]

    assert await store.update([*ids, ids[0], new_id()], state="parked") == count
    assert await store.count(DeadLetterQuery(), by=("state",)) == {("parked",): count, ("waiting",): 1}
    assert await store.get(ids[0]) == replace(letters[0], state="parked")
    assert await store.get(other.id) == other
    assert await store.update([], state="parked") == 0
    assert await store.update([new_id()], state="parked") == 0


async def test_a_state_that_does_not_exist_is_rejected(store):
    """And nothing is changed."""
    one = letter()
    await store.add([one])

    with pytest.raises(ValueError, match="state: expected one of waiting, claimed, resolved, parked, got 'odd'"):
        await store.update([one.id], state="odd")

    assert await store.get(one.id) == one


async def test_statistics_follow_updates_and_deletions(kind):
    """At once or after a refresh: they count what is there."""
    async with opened(kind, refresh_seconds=0) as store:
        letters = [letter(seq=n) for n in range(5)]
        await store.add(letters)
        await store.update([one.id for one in letters[:2]], state="parked")
        await until_async(lambda: store.statistics().counts == {"waiting": 3, "parked": 2})
        await store.delete(DeadLetterQuery(state="waiting"))
        await until_async(lambda: store.statistics().counts == {"parked": 2})
        await store.add([letter()])
        await until_async(lambda: store.statistics().counts == {"waiting": 1, "parked": 2})


async def test_counts_agree_with_the_letters(store):
    """`counts` says for each state how many letters a walk finds."""
    await asyncio.gather(*(store.add([letter(state=state)]) for state in ["waiting", "parked", "waiting"]))

    assert store.statistics().counts == {"waiting": 2, "parked": 1}
    assert len(await walk(store, DeadLetterQuery(state="waiting"))) == 2


async def test_many_callers_at_once_all_get_their_letters_stored(store):
    """Concurrent adds of any sizes lose nothing and repeat nothing."""
    calls = [[letter(seq=n) for n in range(size)] for size in (1, 3, 5, 85, 600, 0, 31, 33, 512, 2) * 2]

    await asyncio.gather(*(store.add(call) for call in calls))

    assert await walk(store, limit=500) == sorted(one.id for call in calls for one in call)
    assert store.statistics().counts["waiting"] == sum(map(len, calls))


async def test_a_cancelled_add_is_durable_or_nothing(store):
    """Cancelling a caller at any moment leaves all of its letters or none, and harms no other caller."""
    for turns in range(6):
        call, other = [letter(seq=n) for n in range(40)], letter()
        adding = asyncio.ensure_future(store.add(call))
        staying = asyncio.ensure_future(store.add([other]))
        for _ in range(turns):
            await asyncio.sleep(0)
        adding.cancel()
        await asyncio.gather(adding, return_exceptions=True)
        await staying
        await store.add([letter(id=other.id)])  # behind whatever was begun

        assert await store.get(other.id) == other, turns
        assert sum([await store.get(one.id) is not None for one in call]) in (0, 40), turns
