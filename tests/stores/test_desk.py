"""The desk over several stores: they are read as one, and what changes letters finds the store that has them."""

import asyncio
from collections import Counter
from contextlib import aclosing
from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace

from penstock.deadletters import DeadLetter, DeadLetterQuery, MemoryStore, Page
from penstock.deadletters.dead_letter_queue import BatchCounts, JobOptions, Requester
from penstock.deadletters.sqlite.store import SqliteStore
from penstock.errors import (
    InvalidEdit,
    JobNotFound,
    LetterNotEditable,
    LetterNotFound,
    NoLetters,
    NotSupportedByStore,
    SeveralStores,
)
from penstock.flow.flow import Flow
from penstock.redrive.local_desk import LocalDesk
from penstock.support.ids import new_ids

NOON = datetime(2030, 1, 31, 12, tzinfo=UTC)
ME = Requester("me", "why")
ALL = DeadLetterQuery()


class Flows:
    """Flows by name, each with its store."""

    def __init__(self, **stores):
        self._flows = {name: Flow(name).dead_letters(store) for name, store in stores.items()}

    def flow(self, name):
        return self._flows.get(name)

    def names(self):
        return list(self._flows)


class Log:
    """A log in memory: its letters are read by position."""

    editable = False
    url = "log:test"
    timeout = 1.0

    def __init__(self, letters):
        self.letters = list(letters)

    async def add(self, letters):
        self.letters += letters

    async def page(self, query, *, after=None, limit=100):
        start = int(after or 0)
        end = start + limit
        return Page(self.letters[start:end], str(end) if end < len(self.letters) else None)

    async def consume(self):
        yield self.letters


def letters(count, flow="orders", step="stock", **fields):
    return [
        DeadLetter(
            id, flow, "r", seq, step, "Late", f"no {seq}", b'{"id":%d}' % seq, 8 + (seq > 9), NOON,
            NOON + timedelta(seconds=seq), key=seq, **fields,
        )
        for seq, id in enumerate(new_ids(count))
    ]  # fmt: skip


async def two_stores():
    """Make a desk over two stores: orders in one, sales in the other."""
    first, second = MemoryStore(), MemoryStore()
    await first.add(letters(20)[::2])
    await second.add(letters(3, "sales"))
    return LocalDesk(lambda: [first, second], Flows(orders=first, sales=second)), first, second


async def everything(pages):
    """Read all pages of a function that takes `after` and returns a page with `next`."""
    found, after = [], None
    while True:
        page = await pages(after)
        found += page.letters if isinstance(page, Page) else page.records
        after = page.next
        if after is None:
            return found


async def test_pages_of_several_stores_are_one_list():
    """Letters of two stores come in the order of their ids, page by page, each once."""
    desk, *_ = await two_stores()

    found = await everything(lambda after: desk.page(ALL, after=after, limit=4))

    assert len(found) == 13
    assert [letter.id for letter in found] == sorted(letter.id for letter in found)


async def test_an_export_has_all_letters_of_databases_and_logs():
    """Databases come first, then one log after the other, with their own cursors."""
    store = MemoryStore()
    stored, logged, other = letters(3), letters(1500, "logged"), letters(2, "other")
    await store.add(stored)
    desk = LocalDesk(lambda: [Log(logged), store, Log(other)], Flows())

    async with aclosing(desk.export(ALL)) as exported:
        found = [letter.id async for letter in exported]

    assert found == [letter.id for letter in (*stored, *logged, *other)]
    small = await everything(lambda after: desk.page(ALL, after=after, limit=7))
    assert [letter.id for letter in small] == found


async def test_a_group_in_two_stores_is_one_group():
    """Counts are added up, first and last seen span both, and pages continue after a group."""
    first, second = MemoryStore(), MemoryStore()
    batch = letters(10)
    await first.add([*batch[:4], *letters(1, step="other")])
    await second.add(batch[4:])
    desk = LocalDesk(lambda: [first, second], Flows())

    groups = await desk.groups(ALL)

    assert [(group.step, dict(group.counts)) for group in groups] == [
        ("stock", {"waiting": 10}),
        ("other", {"waiting": 1}),
    ]
    assert (groups[0].first_seen, groups[0].last_seen) == (batch[0].failed_at, batch[-1].failed_at)
    assert await desk.groups(ALL, after=groups[0].id) == groups[1:]
    assert await desk.total(ALL) == {"waiting": 11}


@pytest.mark.parametrize("limit", [1, 3, 7, 1000])
async def test_pages_of_groups_of_several_stores_are_one_list(limit):
    """Each group is there once, at its last letter, wherever it is; no page is read that is not needed."""
    stores = [MemoryStore(), MemoryStore(), MemoryStore()]
    for seq, letter in enumerate(letters(60)):
        group = replace(letter, step=f"step{seq * 7 % 13}{'' if seq % 2 else 'even'}")
        await stores[seq * 5 % 11 % 3].add([replace(group, failed_at=NOON + timedelta(seconds=seq // 4))])
    one = MemoryStore()
    for store in stores:
        await one.add((await store.page(ALL, limit=1000)).letters)
    desk = LocalDesk(lambda: stores, Flows())

    found, after = [], None
    while page := await desk.groups(ALL, after=after, limit=limit):
        found += page
        after = page[-1].id

    expected = await one.groups(ALL, limit=1000)
    assert [(each.id, each.counts, each.first_seen, each.last_seen) for each in found] == [
        (each.id, each.counts, each.first_seen, each.last_seen) for each in expected
    ]


async def test_a_page_of_groups_is_read_without_the_other_groups():
    """There may be very many."""
    read = []

    class Counting(MemoryStore):
        async def groups(self, query, *, after=None, limit=100):
            page = await super().groups(query, after=after, limit=limit)
            read.append(len(page))
            return page

    first, second = Counting(), Counting()
    for letter in letters(500):
        await first.add([replace(letter, step=f"step{letter.seq}")])
    desk = LocalDesk(lambda: [first, second], Flows())
    assert len(await desk.groups(ALL, limit=5)) == 5
    assert sum(read) <= 100 + 5


async def test_the_cursor_of_a_page_of_logs_is_checked():
    """It is of no use to guess one."""
    desk = LocalDesk(lambda: [MemoryStore(), Log(letters(3))], Flows())
    assert (await desk.page(ALL, after="log:0:2")).letters[0].seq == 2
    assert (await desk.page(ALL, after="log:7:")).letters == []
    for after in ("log:", "log:x:1", "log:1", f"log:{'9' * 5000}:"):
        with pytest.raises(ValueError, match="expected log:INDEX:POSITION"):
            await desk.page(ALL, after=after)


async def test_the_pages_of_the_only_log_have_the_same_cursors():
    """So that a service checks them without knowing its stores."""
    desk = LocalDesk(lambda: [Log(letters(8))], Flows())
    assert (await desk.page(ALL, limit=3)).next == "log:0:3"
    assert len(await everything(lambda after: desk.page(ALL, after=after, limit=3))) == 8


async def test_the_audit_of_several_stores_is_one_list():
    """Records of two stores are merged by time; the cursor has a position in each, so that none is missed."""
    desk, *_ = await two_stores()
    for _ in range(3):
        await desk.park(ALL, ME)
        await desk.unpark(DeadLetterQuery(flow="sales"), ME)

    found = await everything(lambda after: desk.audit(after=after, limit=2))

    assert len(found) == 9
    assert [record.at for record in found] == sorted((record.at for record in found), reverse=True)
    assert len({(record.at, record.action, record.number) for record in found}) == len(found)


async def test_actions_are_recorded_where_letters_match():
    """Stores without letters that match get no record; an action that no letter matches is recorded once."""
    desk, first, second = await two_stores()

    await desk.park(DeadLetterQuery(type="Late", key=1), ME)
    await desk.purge(DeadLetterQuery(flow="sales", key=99), ME)
    await desk.unpark(DeadLetterQuery(key=99), ME)

    assert [(record.action, record.count) for record in await first.audit()] == [("unpark", 0)]
    assert [(record.action, record.count) for record in await second.audit()] == [("purge", 0), ("park", 1)]


async def test_an_edit_that_fails_for_all_letters_is_recorded(url):
    """The audit has who tried what, with the count 0."""
    desk, store = await sqlite_desk(url, 3)

    report = await desk.apply(ALL, ["a=nothing"], ME)

    (record,) = await store.audit()
    assert (report.errors, record.action, record.count, record.query["set"]) == (3, "edit", 0, ["a=nothing"])
    await store.aclose()


async def test_letters_are_marked_and_deleted_in_all_stores():
    """Park, unpark and purge return how many letters of all stores they changed."""
    desk, *_ = await two_stores()

    assert await desk.park(ALL, ME) == 13
    assert await desk.unpark(DeadLetterQuery(flow="sales"), ME) == 3
    assert await desk.total(ALL) == {"parked": 10, "waiting": 3}
    assert await desk.purge(DeadLetterQuery(state="parked"), ME) == 10
    assert await desk.total(ALL) == {"waiting": 3}


async def test_a_redrive_is_of_one_store():
    """Which one is found by the letters that match; letters of two stores are refused."""
    desk, first, second = await two_stores()

    with pytest.raises(SeveralStores, match="--flow NAME"):
        await desk.redrive(ALL, JobOptions(), ME)
    with pytest.raises(NoLetters):
        await desk.redrive(DeadLetterQuery(flow="nothing"), JobOptions(), ME)
    job = await desk.redrive(DeadLetterQuery(flow="sales"), JobOptions(canary=(1,)), ME)

    assert [batch.total for batch in job.batches] == [1, 2]
    assert await second.job(job.id) == await desk.job(job.id) == job
    assert await first.job(job.id) is None
    assert await desk.jobs() == [job]
    assert (await desk.change_job(job.id, ME, state="cancelled")).state == "cancelled"
    with pytest.raises(JobNotFound):
        await desk.job("unknown")


async def test_wrong_options_create_no_job():
    """Options that no job can have are refused first."""
    desk, *_ = await two_stores()

    with pytest.raises(ValueError, match="canary"):
        await desk.redrive(DeadLetterQuery(flow="sales"), JobOptions(canary=(0,)), ME)
    job = await desk.redrive(DeadLetterQuery(flow="sales"), JobOptions(), ME)
    with pytest.raises(ValueError, match="rate"):
        await desk.change_job(job.id, ME, rate=0.0)

    assert await desk.jobs() == [job]


async def test_an_edit_replaces_the_input_of_one_letter():
    """The new input is JSON; the old one stays in the history with who and why."""
    desk, *_ = await two_stores()
    letter = (await desk.page(DeadLetterQuery(flow="sales"))).letters[0]

    edited = await desk.edit(letter.id, b'{"id": 7}', ME)

    assert edited.input == b'{"id": 7}'
    found, history = await desk.show(letter.id.upper())
    assert found == edited
    assert [(edit.input, edit.requester, edit.reason) for edit in history.edits] == [(b'{"id":0}', "me", "why")]
    with pytest.raises(InvalidEdit, match="not valid JSON"):
        await desk.edit(letter.id, b"{", ME)
    with pytest.raises(LetterNotFound):
        await desk.edit("0190", b"{}", ME)


async def test_a_letter_that_is_being_redriven_cannot_be_edited():
    """The message has its state."""
    desk, _, second = await two_stores()
    job = await desk.redrive(DeadLetterQuery(flow="sales"), JobOptions(), ME)
    await second.acquire_job(job.id, "other")
    (letter,) = await second.claim(job.id, "other", 0, 1)

    with pytest.raises(LetterNotEditable, match="is claimed"):
        await desk.edit(letter.id, b"{}", ME)


async def test_imported_letters_are_stored_with_their_flow():
    """A letter goes to the store of its flow, one of an unknown flow to the first; claimed ones wait again."""
    first, second = MemoryStore(), MemoryStore()
    desk = LocalDesk(lambda: [first, second], Flows(orders=first, sales=second))
    batch = [*letters(2), *letters(3, "sales", state="claimed"), *letters(1, "unknown", state="parked")]

    async def source():
        for letter in batch:
            yield letter

    report = await desk.import_letters(source(), ME)
    again = await desk.import_letters(source(), ME)

    assert (report.imported, report.skipped) == (6, 0)
    assert (again.imported, again.skipped) == (0, 6)
    assert await first.count(ALL, by=("flow", "state")) == {("orders", "waiting"): 2, ("unknown", "parked"): 1}
    assert await second.count(ALL, by=("flow", "state")) == {("sales", "waiting"): 3}


async def test_a_log_can_be_listed_and_nothing_else():
    """What a log cannot do is said, also when there are databases beside it."""
    store, log = MemoryStore(), Log(letters(2, "logged"))
    alone = LocalDesk(lambda: [log], Flows())
    beside = LocalDesk(lambda: [store, log], Flows(orders=store, logged=log))
    logged = DeadLetterQuery(flow="logged")

    assert len((await alone.page(ALL)).letters) == 2
    for desk, query in ((alone, ALL), (beside, logged)):
        with pytest.raises(NotSupportedByStore, match="cannot group letters, because it is a log"):
            await desk.groups(query)
        with pytest.raises(NotSupportedByStore, match="cannot park letters"):
            await desk.park(query, ME)
    with pytest.raises(NotSupportedByStore, match="cannot show one letter"):
        await alone.show("0190")


async def test_progress_in_the_background_ends_with_the_job(monkeypatch):
    """It yields the job after changes, and ends when the job is no longer running."""
    monkeypatch.setattr("penstock.redrive.local_desk.POLL_SECONDS", 0.01)
    desk, _, second = await two_stores()
    job = await desk.redrive(DeadLetterQuery(flow="sales"), JobOptions(), ME)
    seen = []

    async def follow():
        async with aclosing(desk.progress(job.id)) as states:
            async for state in states:
                seen.append(state.state)  # noqa: PERF401 - the test waits for the first one

    following = asyncio.create_task(follow())
    while not seen:
        await asyncio.sleep(0)
    await second.change_job(job.id, ME, state="paused")
    await following

    assert seen == ["running", "paused"]


async def test_progress_in_the_foreground_runs_the_job():
    """The job runs while its progress is read; the last value is the one that the runner returned."""

    class Runner:
        async def run(self, queue, job_id, *, on_progress):
            job = await queue.job(job_id)
            on_progress(job)
            await asyncio.sleep(0)
            return replace(job, state="completed", batches=[BatchCounts()])

        async def drain(self):
            pass

    store = MemoryStore()
    await store.add(letters(2))
    desk = LocalDesk(lambda: [store], Flows(orders=store), Runner(), foreground=True)
    job = await desk.redrive(ALL, JobOptions(), ME)

    async with aclosing(desk.progress(job.id)) as states:
        seen = [state.state async for state in states]

    assert (seen[0], seen[-1]) == ("running", "completed")


async def test_a_plan_has_the_letters_of_a_killed_runner():
    """When their job is paused or cancelled and their lease has ended, they wait again, in each of several stores."""
    desk, first, _ = await two_stores()
    query = DeadLetterQuery(flow="orders")
    job = await first.create_job(query, JobOptions(), ME)
    assert len(await first.claim(job.id, "killed", 0, 10, 0.01)) == 10
    await first.change_job(job.id, ME, state="cancelled")
    await asyncio.sleep(0.02)
    assert (await desk.total(query))["claimed"] == 10

    assert (await desk.plan(query, JobOptions())).letters == 10


async def test_a_cursor_of_the_audit_that_no_record_can_have_is_after_all_records(url):
    """A number that no database can compare is one of them."""
    desk, store = await sqlite_desk(url, 1)
    await desk.park(ALL, ME)

    assert [record.action for record in (await desk.audit(after="9" * 30)).records] == ["park"]
    await store.aclose()


async def sqlite_desk(url, count):
    """A desk over one store, whose letters all have the input `{"a":1}`."""
    store = SqliteStore(url)
    await store.open()
    await store.add([replace(one, input=b'{"a":1}', input_size=7) for one in letters(count)])
    return LocalDesk(lambda: [store], Flows()), store


async def inputs(desk):
    async with aclosing(desk.export(ALL)) as exported:
        return Counter([letter.input async for letter in exported])


async def test_an_edit_whose_caller_is_cancelled_is_completed(url):
    """So the first letters are not changed twice by the next request."""
    desk, store = await sqlite_desk(url, 2500)
    edit = asyncio.create_task(desk.apply(ALL, ["a=a*100"], ME))
    while not await store.audit():
        await asyncio.sleep(0.001)

    edit.cancel()
    with pytest.raises(asyncio.CancelledError):
        await edit

    assert await inputs(desk) == {b'{"a":100}': 2500}
    await store.aclose()


async def test_edits_at_the_same_time_do_not_undo_each_other(url):
    """A letter that another edit changed after it was read is read again."""
    desk, store = await sqlite_desk(url, 900)

    reports = await asyncio.gather(*(desk.apply(ALL, [text], ME) for text in ("a=a+1", "b=7", "a=a+10")))

    assert [report.changed for report in reports] == [900] * 3
    assert await inputs(desk) in ({b'{"a":12,"b":7}': 900}, {b'{"b":7,"a":12}': 900})
    await store.aclose()
