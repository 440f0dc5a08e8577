"""What every dead-letter queue does, whatever it is built on: a new one is one more line in `QUEUES`."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from itertools import islice, product

import pytest
from msgspec.structs import replace

import servers
from penstock.deadletters import DeadLetterQuery, MemoryStore
from penstock.deadletters.dead_letter_queue import FailedAgain, JobOptions, Requester, Settlement
from penstock.deadletters.groups import GROUP_LIMIT, OTHER
from penstock.deadletters.postgres.store import PostgresStore
from penstock.deadletters.sqlite.store import SqliteStore
from penstock.errors import JobConflict, JobEnded, JobNotFound, NoLetters
from penstock.support.ids import id_at, new_id, now
from stores.letters import letter
from waiting import HANG_SECONDS

QUEUES = {
    "memory": lambda _: MemoryStore(),
    "sqlite": lambda folder: SqliteStore(f"sqlite:///{folder}/letters.db", refresh_seconds=0),
    "process": lambda folder: SqliteStore(f"sqlite:///{folder}/letters.db", refresh_seconds=0, separate_writer=True),
    "postgres": lambda _: PostgresStore(servers.running(servers.PostgresServer).new_schema(), refresh_seconds=0),
}
"""Makes an empty queue in a folder."""

ME = Requester("me", "because")
ALL = DeadLetterQuery()
SHORT = 0.05
"""Seconds of a lease that a test waits for."""


@asynccontextmanager
async def opened(make, folder):
    queue = make(folder)
    await queue.open()
    try:
        yield queue
        await assert_counts_agree(queue)
    finally:
        await queue.aclose()


@pytest.fixture(params=QUEUES)
async def queue(request, tmp_path):
    async with opened(QUEUES[request.param], tmp_path) as queue:
        yield queue


async def assert_counts_agree(queue):
    """After every test: groups and statistics count exactly the letters that are there."""
    letters = await walk(queue)
    counts = Counter((one.group, one.state) for one in letters)
    groups = await queue.groups(ALL, limit=2000)
    assert {(group.id, state): n for group in groups for state, n in group.counts.items()} == counts
    assert all(group.sample in {one.id for one in letters if one.group == group.id} for group in groups)
    states = Counter(one.state for one in letters)
    async with asyncio.timeout(HANG_SECONDS):
        while queue.statistics().counts != states:
            await asyncio.sleep(0.001)


async def walk(queue, query=ALL, limit=1000):
    letters, after = [], None
    while True:
        page = await queue.page(query, after=after, limit=limit)
        letters += page.letters
        if page.next is None:
            return letters
        after = page.next


async def states(queue):
    return {one.id: one.state for one in await walk(queue)}


async def stored(queue, count=1, **facts):
    letters = [letter(seq=n, **facts) for n in range(count)]
    await queue.add(letters)
    return letters


async def running(queue, query=ALL, runner="one", lease=30.0, **options):
    """A job that a runner has acquired."""
    job = await queue.create_job(query, JobOptions(**options), ME)
    assert await queue.acquire_job(job.id, runner, lease) is not None
    return job.id


def outcomes(letters, outcome, **error):
    failed = FailedAgain(**({"step": "s", "type": "T", "message": "m"} | error)) if outcome == "failed" else None
    return [Settlement(one.id, outcome, failed) for one in letters]


async def claimed(queue, job, runner="one", batch=0, count=100, lease=30.0):
    """Wait until letters can be claimed."""
    async with asyncio.timeout(HANG_SECONDS):
        while not (letters := await queue.claim(job, runner, batch, count, lease)):
            await asyncio.sleep(0.005)
    return letters


# Groups


async def test_a_message_that_came_again_has_one_letter_until_it_is_resolved(queue):
    """A flow has one open letter for each message of a broker, also if it fails at another step the second time."""
    first, again = letter(origin="nats:ORDERS/1"), letter(origin="nats:ORDERS/1", step="other")
    elsewhere, plain = letter(origin="nats:ORDERS/1", flow="g"), letter()
    await queue.add([first])
    await queue.add([again, elsewhere, plain, letter(origin="nats:ORDERS/1")])
    assert set(await states(queue)) == {first.id, elsewhere.id, plain.id}
    assert (await queue.get(first.id)).origin == "nats:ORDERS/1"

    await queue.add([two := letter(origin="nats:ORDERS/2"), letter(origin="nats:ORDERS/2")])
    job = await running(queue)
    got = await queue.claim(job, "one", 0, 100)
    await queue.settle(job, "one", outcomes([each for each in got if each.id == first.id], "resolved"))
    await queue.add([again])

    assert set(await states(queue)) == {first.id, elsewhere.id, plain.id, two.id, again.id}

    await queue.purge(DeadLetterQuery(state="resolved"), ME)
    await queue.add([letter(origin="nats:ORDERS/1")])
    assert set(await states(queue)) == {elsewhere.id, plain.id, two.id, again.id}


async def test_letters_with_one_cause_are_a_group(queue):
    """Numbers, ids and quoted text make no difference; flow, step and type do."""
    at = now()
    await queue.add(
        [letter(message=f"no order {n}", failed_at=at + timedelta(seconds=n), revision=n + 1) for n in range(3)]
        + [letter(message="no order 5", type="Other", state="parked", failed_at=at - timedelta(seconds=1))]
    )

    first, second = await queue.groups(ALL)

    assert (first.flow, first.step, first.type, first.pattern) == ("f", "s", "T", "no order #")
    assert (first.counts, first.first_revision) == ({"waiting": 3}, 1)
    assert (first.first_seen, first.last_seen) == (at, at + timedelta(seconds=2))
    assert (second.type, second.counts) == ("Other", {"parked": 1})
    assert (await queue.get(first.sample)).group == first.id


async def test_the_number_of_groups_has_a_limit(queue):
    """For each flow, step and type: letters with further messages are in one group, also after they failed again."""
    names = ["".join(letters) for letters in islice(product("abcdefghijklmnopqrstuvwxyz", repeat=3), 1010)]
    assert len(names) == 1010 > GROUP_LIMIT
    for start in range(0, 1010, 101):
        await queue.add([letter(message=f"no {name}") for name in names[start : start + 101]])
    await queue.add([letter(message="no more"), letter(message="no aaa"), letter(message="no more", type="Other")])
    imported = letter(message="imported")
    await queue.import_letters([imported], ME)

    groups = {group.pattern: group for group in await queue.groups(ALL, limit=2000)}
    assert len(groups) == GROUP_LIMIT + 2
    assert groups[OTHER].counts == {"waiting": 12}
    assert groups[OTHER].id == (await queue.get(imported.id)).group
    assert groups["no aaa"].counts == {"waiting": 2}
    assert groups["no more"].type == "Other"

    job = await running(queue, DeadLetterQuery(group=groups["no aaa"].id))
    failed = await claimed(queue, job)
    await queue.settle(job, "one", outcomes(failed, "failed", message="no longer"))
    assert (await queue.groups(DeadLetterQuery(group=groups[OTHER].id)))[0].counts == {"waiting": 14}


async def test_groups_grow_with_later_letters(queue):
    """An earlier letter moves the beginning and the first revision, a later one the end; a known one moves nothing."""
    at = now()
    one = letter(failed_at=at, revision=2)
    await queue.add([one])
    await queue.add([letter(failed_at=at + timedelta(hours=1), revision=3), one])
    await queue.add([letter(failed_at=at - timedelta(hours=1), revision=1), one, one])

    (group,) = await queue.groups(ALL)

    assert group.counts == {"waiting": 3}
    assert (group.first_seen, group.last_seen) == (at - timedelta(hours=1), at + timedelta(hours=1))
    assert group.first_revision == 1


async def test_groups_come_in_pages_the_newest_first(queue):
    """Each group is on one page."""
    at = now()
    words = ["zero", "one", "two", "three", "four"]
    await queue.add([letter(message=word, failed_at=at + timedelta(seconds=n)) for n, word in enumerate(words)])

    pages, after = [], None
    while groups := await queue.groups(ALL, after=after, limit=2):
        pages.append([group.pattern for group in groups])
        after = groups[-1].id

    assert pages == [["four", "three"], ["two", "one"], ["zero"]]


async def test_groups_are_selected_by_flow_step_type_and_id(queue):
    """And by nothing else."""
    await queue.add([letter(flow="a"), letter(flow="b", step="x"), letter(flow="b", type="Y")])
    ids = {(group.flow, group.step, group.type): group.id for group in await queue.groups(ALL)}

    async def selected(**fields):
        return {group.id for group in await queue.groups(DeadLetterQuery(**fields))}

    assert await selected(flow="b") == {ids["b", "x", "T"], ids["b", "s", "Y"]}
    assert await selected(step="x") == {ids["b", "x", "T"]}
    assert await selected(type="Y") == {ids["b", "s", "Y"]}
    assert await selected(group=ids["a", "s", "T"]) == {ids["a", "s", "T"]}
    assert await selected(group="1-000000000000") == set()


MATCHING = (
    ({"group": "1"}, {0, 2, 4, 6, 8}),
    ({"group": "1", "state": "parked"}, {0, 6}),
    ({"type": "A"}, {0, 2, 4, 6, 8}),
    ({"type": "A", "state": "waiting"}, {2, 4, 8}),
    ({"type": "A", "min_seq": 5}, {6, 8}),
    ({"flow": "f", "state": "parked"}, {0, 3, 6, 9}),
    ({"flow": "g"}, set()),
    ({"key": "k3"}, {3}),
    ({"key": "4"}, {4}),
    ({"key": 4}, {4}),
    ({"type": "A", "key": 4}, {4}),
    ({"ids": (1, 2, 3)}, {1, 2, 3}),
    ({"ids": (1, 2, 3), "type": "A", "state": "waiting"}, {2}),
    ({"ids": ()}, set()),
)
"""Queries, and the numbers of the letters that match. A group and ids stand for those of letters."""


async def test_pages_have_exactly_the_letters_that_match(queue):
    """By group, key and ids, in the order of ids, however small the pages. A text matches a number written so."""
    letters = [
        letter(
            seq=n, type="B" if n % 2 else "A", key=f"k{n}" if n % 2 else n, state="waiting" if n % 3 else "parked"
        )
        for n in range(10)
    ]  # fmt: skip
    await queue.add(letters)
    for wanted, matching in MATCHING:
        fields = dict(wanted)
        if "group" in fields:
            fields["group"] = letters[0].group
        if "ids" in fields:
            fields["ids"] = tuple(letters[n].id for n in fields["ids"])
        query = DeadLetterQuery(**fields)

        for limit in (1, 3, 100):
            assert [one.seq for one in await walk(queue, query, limit)] == sorted(matching), wanted
        assert (await queue.count(query)).get((), 0) == len(matching), wanted


# Jobs


async def test_a_job_is_a_fixed_set(queue):
    """Letters that fail later belong to no running job; neither do parked and resolved ones."""
    letters = await stored(queue, 3)
    await stored(queue, 1, state="parked")
    job = await running(queue)
    await stored(queue, 2)

    got = await queue.claim(job, "one", 0, 100)

    assert [one.id for one in got] == [one.id for one in letters]
    assert {(one.state, one.redrives) for one in got} == {("claimed", 1)}
    assert await queue.claim(job, "one", 0, 100) == []
    assert (await queue.job(job)).counts.total == 3


async def test_no_waiting_letter_is_no_job(queue):
    """`NoLetters`, and nothing is kept."""
    await stored(queue, 1, state="parked")

    with pytest.raises(NoLetters):
        await queue.create_job(ALL, JobOptions(), ME)

    assert await queue.jobs() == []
    assert await queue.audit() == []


async def test_batches_take_letters_in_the_order_of_their_ids(queue):
    """The canary sizes first, then the rest; a batch without letters does not exist."""
    letters = await stored(queue, 10)
    job = await running(queue, canary=(1, 5))

    assert [batch.total for batch in (await queue.job(job)).batches] == [1, 5, 4]
    for batch, expected in ((0, letters[:1]), (1, letters[1:6]), (2, letters[6:])):
        assert [one.id for one in await queue.claim(job, "one", batch, 100)] == [one.id for one in expected]

    await queue.change_job(job, ME, state="cancelled")
    few = await stored(queue, 3, type="Few")
    job = await queue.create_job(DeadLetterQuery(type="Few"), JobOptions(canary=(1, 2, 5)), ME)
    assert [batch.total for batch in job.batches] == [1, 2]
    assert len(few) == job.counts.total == job.counts.open


async def test_one_job_for_a_group_at_a_time(queue):
    """Another one is refused until the first is completed or cancelled, also while it is paused or stopped."""
    await stored(queue, 2)
    await stored(queue, 1, type="Other")
    job = await running(queue, DeadLetterQuery(type="T"))
    for state in ("running", "paused", "stopped"):
        await queue.change_job(job, ME, state=state)
        with pytest.raises(JobConflict) as conflict:
            await queue.create_job(ALL, JobOptions(), ME)
        assert conflict.value.job == job

    other = await queue.create_job(DeadLetterQuery(type="Other"), JobOptions(), ME)
    await queue.change_job(job, ME, state="cancelled")
    again = await queue.create_job(DeadLetterQuery(type="T"), JobOptions(), ME)

    assert [one.id for one in await queue.jobs()] == [again.id, other.id, job]
    assert [one.id for one in await queue.jobs(state="running")] == [again.id, other.id]
    assert [one.id for one in await queue.jobs(after=again.id, limit=1)] == [other.id]


async def test_resolved_failed_and_cancelled_letters(queue):
    """A cancelled one waits and is open again, and its attempt does not count towards the limit."""
    letters = await stored(queue, 3)
    job = await running(queue)
    got = await queue.claim(job, "one", 0, 100)
    await queue.settle(job, "one", outcomes(got[:1], "resolved"))
    await queue.settle(job, "one", outcomes(got[1:2], "failed") + outcomes(got[2:], "cancelled"))

    found = [await queue.get(one.id) for one in letters]
    assert [(one.state, one.redrives) for one in found] == [("resolved", 1), ("waiting", 1), ("waiting", 0)]
    counts = (await queue.job(job)).batches[0]
    assert (counts.total, counts.resolved, counts.failed, counts.skipped, counts.open) == (3, 1, 1, 0, 1)
    assert [one.id for one in await queue.claim(job, "one", 0, 100)] == [letters[2].id]
    attempts = [(await queue.history(one.id)).attempts for one in letters]
    assert [[attempt.outcome for attempt in each] for each in attempts] == [
        ["resolved"], ["failed"], ["cancelled", "unknown"]
    ]  # fmt: skip
    (first,) = attempts[0]
    assert (first.number, first.job, first.requester, first.error) == (1, job, "me", None)
    assert first.started_at <= first.ended_at
    assert attempts[1][0].error == "T: m"


async def test_a_letter_that_fails_otherwise_moves_to_another_group(queue):
    """It keeps its id and its input, and has the new error. The old group is gone when it was the last one."""
    (one,) = await stored(queue, 1, message="no order 1", input=b"{}", input_size=2, partial_results={"a": 1})
    job = await running(queue)
    got = await queue.claim(job, "one", 0, 1)
    error = {"step": "x", "type": "X", "message": "late by 5 s", "attempts": 3, "cause": "c", "revision": 7}
    await queue.settle(job, "one", outcomes(got, "failed", **error, partial_results={"b": 2}))

    found = await queue.get(one.id)
    (group,) = await queue.groups(ALL)

    assert (found.step, found.type, found.message, found.attempts, found.cause) == ("x", "X", "late by 5 s", 3, "c")
    assert (found.input, found.partial_results, found.revision, found.state) == (b"{}", {"b": 2}, 7, "waiting")
    assert (group.id, group.pattern, group.counts, group.first_revision) == (
        found.group,
        "late by # s",
        {"waiting": 1},
        7,
    )


async def test_letters_of_several_groups_fail_with_one_error(queue):
    """They become one group, and others stay where they are."""
    await stored(queue, 2, message="a")
    await stored(queue, 2, message="b")
    job = await running(queue)
    got = await queue.claim(job, "one", 0, 100)
    await queue.settle(job, "one", outcomes(got[1:], "failed", message="b"))

    groups = {group.pattern: group.counts for group in await queue.groups(ALL)}

    assert groups == {"a": {"claimed": 1}, "b": {"waiting": 3}}


async def test_a_letter_is_parked_at_the_limit(queue):
    """It counts as failed; one that was made to wait again by hand gets another attempt, and is parked then."""
    (one,) = await stored(queue, 1)
    for attempt in (1, 2):
        job = await running(queue, limit=2)
        await queue.settle(job, "one", outcomes(await queue.claim(job, "one", 0, 1), "failed"))
        assert (await queue.get(one.id)).state == ("waiting" if attempt == 1 else "parked")
        assert (await queue.change_job(job, None, state="completed")).counts.failed == 1

    assert await queue.mark(ALL, "waiting", ME) == 1
    job = await running(queue, limit=2)
    await queue.settle(job, "one", outcomes(await queue.claim(job, "one", 0, 1), "failed"))
    assert (await queue.get(one.id)).state == "parked"
    assert (await queue.get(one.id)).redrives == 3


async def test_an_expired_lease_can_be_claimed_by_another_runner(queue):
    """The first attempt counts and stays unknown; its late outcome is ignored."""
    (one,) = await stored(queue, 1)
    job = await running(queue, lease=SHORT)
    got = await queue.claim(job, "one", 0, 1, SHORT)
    async with asyncio.timeout(HANG_SECONDS):
        while await queue.acquire_job(job, "two") is None:
            await asyncio.sleep(0.005)

    again = await claimed(queue, job, "two")
    await queue.settle(job, "one", outcomes(got, "failed"))
    assert (await queue.get(one.id)).state == "claimed"
    assert again[0].redrives == 2
    await queue.settle(job, "two", outcomes(again, "resolved"))
    await queue.settle(job, "two", outcomes(again, "failed"))

    assert (await queue.get(one.id)).state == "resolved"
    assert [each.outcome for each in (await queue.history(one.id)).attempts] == ["unknown", "resolved"]
    assert (await queue.job(job)).counts.resolved == 1


async def test_an_expired_attempt_counts_towards_the_limit(queue):
    """A letter that kills its process each time is parked by the next claim, and the batch has no open letter."""
    (one,) = await stored(queue, 1)
    job = await running(queue, limit=1)
    await queue.claim(job, "one", 0, 1, SHORT)
    async with asyncio.timeout(HANG_SECONDS):
        while (await queue.job(job)).counts.open:
            assert await queue.claim(job, "one", 0, 1) == []
            await asyncio.sleep(0.005)

    assert (await queue.get(one.id)).state == "parked"
    assert (await queue.job(job)).counts.failed == 1
    assert [each.outcome for each in (await queue.history(one.id)).attempts] == ["unknown"]


async def test_a_stopped_job_can_be_given_up_and_resumed_by_another_runner(queue):
    """At once: the next runner does not wait for the lease of the one that stopped it."""
    await stored(queue, 2)
    job = (await queue.create_job(ALL, JobOptions(), ME)).id
    assert await queue.acquire_job(job, "one")
    await queue.change_job(job, None, state="stopped", message="too many")
    await queue.acquire_job(job, "one", 0)
    await queue.change_job(job, ME, state="running")

    assert await queue.acquire_job(job, "two")


async def test_a_job_has_one_runner_until_its_lease_ends(queue):
    """The runner extends its lease, and those of its letters. Stopped and ended jobs have no runner."""
    await stored(queue, 2)
    job = await running(queue, lease=5)
    got = await queue.claim(job, "one", 0, 1, 5)
    assert (await queue.job(job)).runner == "one"
    assert await queue.acquire_job(job, "two") is None
    assert await queue.claim(job, "two", 0, 1) == []
    assert (await queue.acquire_job(job, "one", 60)).runner == "one"
    await asyncio.sleep(5.1)  # longer than the first lease

    assert await queue.acquire_job(job, "two") is None
    assert [one.seq for one in await queue.claim(job, "one", 0, 5)] == [1]
    await queue.settle(job, "one", outcomes(got, "resolved"))
    await queue.change_job(job, None, state="stopped", message="too many")
    assert await queue.acquire_job(job, "one") is None
    await queue.change_job(job, ME, state="cancelled")
    assert (await queue.job(job)).runner is None
    assert await queue.acquire_job(job, "one") is None


async def test_letters_that_are_gone_parked_or_resolved_are_skipped(queue):
    """They count as skipped when their batch is claimed, however many they are."""
    letters = await stored(queue, 30)
    job = await running(queue)
    await queue.update([letters[0].id], state="resolved")
    await queue.mark(DeadLetterQuery(ids=tuple(one.id for one in letters[1:14])), "parked", ME)
    await queue.purge(DeadLetterQuery(ids=tuple(one.id for one in letters[14:28])), ME)

    got = await queue.claim(job, "one", 0, 5)

    assert [one.id for one in got] == [one.id for one in letters[28:]]
    assert (await queue.job(job)).counts.skipped == 28
    assert (await queue.job(job)).counts.open == 2


async def test_a_claim_of_large_letters_is_smaller(queue):
    """Claimed letters are in memory, as those of a page are."""
    await stored(queue, 9, input=b"x" * 1_000_000, input_size=1_000_000)
    job = await running(queue)

    sizes = []
    while got := await queue.claim(job, "one", 0, 100):
        sizes.append(len(got))

    assert sum(sizes) == 9
    assert max(sizes) < 9


async def test_pausing_stopping_and_resuming(queue):
    """Claims stop at once, outcomes of claimed letters still count, and resuming goes on. The rate can change."""
    letters = await stored(queue, 3)
    job = await running(queue, rate=5.0)
    got = await queue.claim(job, "one", 0, 1)

    assert (await queue.change_job(job, ME, state="paused")).state == "paused"
    assert await queue.claim(job, "one", 0, 1) == []
    await queue.settle(job, "one", outcomes(got, "resolved"))
    assert (await queue.acquire_job(job, "one")).state == "paused"
    stopped = await queue.change_job(job, None, state="stopped", message="1 of 1 failed")
    assert (stopped.state, stopped.message, stopped.ended_at) == ("stopped", "1 of 1 failed", None)
    assert await queue.claim(job, "one", 0, 1) == []
    resumed = await queue.change_job(job, ME, state="running", rate=None)
    assert (resumed.state, resumed.message, resumed.options.rate) == ("running", None, None)
    assert (await queue.change_job(job, ME, rate=2.5)).options.rate == 2.5
    await queue.acquire_job(job, "one")
    assert [one.id for one in await queue.claim(job, "one", 0, 9)] == [one.id for one in letters[1:]]


async def test_an_ended_job_cannot_be_changed(queue):
    """Neither can one that does not exist."""
    await stored(queue)
    job = await running(queue)
    ended = await queue.change_job(job, None, state="completed")
    assert ended.ended_at is not None

    with pytest.raises(JobEnded):
        await queue.change_job(job, ME, state="running")
    with pytest.raises(JobNotFound):
        await queue.change_job(new_id(), ME, state="running")
    with pytest.raises(JobNotFound):
        await queue.claim(new_id(), "one", 0, 1)
    assert await queue.job(new_id()) is None
    assert await queue.acquire_job(new_id(), "one") is None


async def test_letters_of_a_cancelled_job_wait_again(queue):
    """Those in work when their lease ends, if their runner does not settle them; the next job gets them all."""
    await stored(queue, 3)
    job = await running(queue)
    got = await queue.claim(job, "one", 0, 2, SHORT)
    await queue.change_job(job, ME, state="cancelled")
    await queue.settle(job, "one", outcomes(got[:1], "cancelled"))

    async with asyncio.timeout(HANG_SECONDS):
        while (job := await queue.create_job(ALL, JobOptions(), ME)).counts.total != 3:
            await queue.change_job(job.id, ME, state="cancelled")
            await asyncio.sleep(0.005)

    assert set((await states(queue)).values()) == {"waiting"}


async def test_a_cancelled_job_keeps_the_letters_in_work(queue):
    """The runner extends their leases until it has settled them, so that no other job gets them meanwhile."""
    await stored(queue, 1)
    job = await running(queue, lease=1)
    got = await claimed(queue, job, lease=0.4)
    await queue.change_job(job, ME, state="cancelled")
    assert await queue.acquire_job(job, "one", 30) is None
    await asyncio.sleep(0.5)
    assert await queue.release_expired() == 0
    with pytest.raises(NoLetters):
        await queue.create_job(ALL, JobOptions(), ME)
    settled = await queue.settle(job, "one", outcomes(got, "resolved"))
    assert (settled.job.counts.resolved, settled.ids) == (1, {got[0].id})


async def test_giving_a_job_up_keeps_letters_that_are_not_settled(queue):
    """Their outcomes may be known, but not recorded yet: nobody gets them before their lease ends."""
    await stored(queue, 1)
    job = await running(queue)
    got = await claimed(queue, job)
    assert await queue.acquire_job(job, "one", 0) is not None
    assert await queue.acquire_job(job, "two") is not None
    assert await queue.claim(job, "two", 0, 1) == []
    assert (await queue.settle(job, "one", outcomes(got, "resolved"))).job.counts.resolved == 1


async def test_settle_returns_what_it_recorded(queue):
    """Not the letters whose lease another runner has."""
    await stored(queue, 2)
    job = await running(queue)
    kept = await claimed(queue, job, count=1)
    lost = await claimed(queue, job, count=1, lease=SHORT)
    await asyncio.sleep(2 * SHORT)
    await queue.acquire_job(job, "one", 0)
    await queue.acquire_job(job, "two")
    assert await claimed(queue, job, "two") == [replace(lost[0], redrives=2)]
    assert (await queue.settle(job, "one", outcomes(lost + kept, "resolved"))).ids == {kept[0].id}


async def test_groups_with_letters_in_a_state(queue):
    """A group whose letters are all in other states is left out, in every page."""
    await stored(queue, step="a")
    await stored(queue, step="b", state="resolved")
    await stored(queue, step="c")
    waiting = DeadLetterQuery(state="waiting")
    found = [group.step for group in await queue.groups(waiting)]
    assert sorted(found) == ["a", "c"]
    first = await queue.groups(waiting, limit=1)
    assert [group.step for group in first + await queue.groups(waiting, after=first[0].id)] == found


MANY = 11_000
"""Letters that a SQL database does not take into a job in one transaction."""


async def many(queue):
    """Store letters of three groups, alternating."""
    letters = [letter(seq=seq, type=f"T{seq % 3}") for seq in range(MANY)]
    await queue.add(letters)
    return letters


async def creation_of(queue, query, **options):
    """Begin to create a job, up to its first transaction."""
    creation = asyncio.create_task(queue.create_job(query, JobOptions(**options), ME))
    while not creation.done() and not await queue.jobs():
        await asyncio.sleep(0.001)
    return creation


@pytest.mark.parametrize("query", [DeadLetterQuery(flow="f"), DeadLetterQuery(type="T1")])
async def test_a_job_of_many_letters_is_created_in_steps(queue, query):
    """It has exactly the letters that matched when it began, the canary batches those with the first ids."""
    letters = await many(queue)
    creation = await creation_of(queue, query, canary=(1, 5))
    await stored(queue, 1, type="T1")
    job = await creation

    expected = [one for one in letters if query.type in (None, one.type)]
    assert [batch.total for batch in job.batches] == [1, 5, len(expected) - 6]
    assert (job.state, job.message, job.runner) == ("running", None, None)
    assert await queue.acquire_job(job.id, "one") is not None
    claimed_ids = [one.id for batch in (0, 1) for one in await queue.claim(job.id, "one", batch, 100)]
    assert claimed_ids == [one.id for one in expected[:6]]
    assert [(each.action, each.count) for each in await queue.audit()] == [("redrive", len(expected))]


async def test_a_creation_that_meets_the_letters_of_another_job_leaves_nothing(queue):
    """Whatever it has taken before belongs to no job then."""
    await many(queue)
    await stored(queue, 1, type="Last")
    other = await queue.create_job(DeadLetterQuery(type="Last"), JobOptions(), ME)

    with pytest.raises(JobConflict):
        await queue.create_job(ALL, JobOptions(canary=(5,)), ME)

    assert [each.id for each in await queue.jobs()] == [other.id]
    assert (await queue.create_job(DeadLetterQuery(type="T1"), JobOptions(), ME)).counts.total > 0


async def test_a_cancelled_creation_leaves_no_job(queue):
    """Neither does it reserve groups."""
    await many(queue)
    creation = await creation_of(queue, ALL)
    if creation.done():  # in memory
        return

    creation.cancel()
    with pytest.raises(asyncio.CancelledError):
        await creation

    assert await queue.jobs() == []
    assert (await queue.create_job(ALL, JobOptions(), ME)).counts.total == MANY


async def test_a_job_can_be_cancelled_while_it_is_created(queue):
    """The creation ends with an error, unless its last transaction was the first of the two."""
    await many(queue)
    creation = await creation_of(queue, ALL)
    (job,) = await queue.jobs()

    await queue.change_job(job.id, ME, state="cancelled")
    with suppress(JobEnded):
        await creation

    assert (await queue.job(job.id)).state == "cancelled"
    assert (await queue.create_job(ALL, JobOptions(), ME)).counts.total == MANY


async def test_letters_of_a_killed_runner_are_released_when_their_job_is_cancelled(queue):
    """Those of a running job are left to the next runner; those that reached the limit are parked."""
    letters = await stored(queue, 3)
    job = await running(queue, lease=SHORT, limit=1)
    await claimed(queue, job, count=2, lease=SHORT)
    other = await stored(queue, 1, type="Other")
    running_job = await running(queue, DeadLetterQuery(type="Other"), lease=SHORT)
    await claimed(queue, running_job, lease=SHORT)
    assert await queue.release_expired() == 0

    await queue.change_job(job, ME, state="cancelled")
    async with asyncio.timeout(HANG_SECONDS):
        while "claimed" in {(await queue.get(one.id)).state for one in letters}:
            await queue.release_expired()
            await asyncio.sleep(0.005)

    assert Counter((await states(queue)).values()) == {"parked": 2, "waiting": 1, "claimed": 1}
    assert (await queue.get(other[0].id)).state == "claimed"


async def test_letters_in_work_are_not_changed_by_others(queue):
    """Neither their state nor that they are there: the job of a letter that is gone would never end."""
    one, other = await stored(queue, 2)
    job = await running(queue)
    (in_work,) = await queue.claim(job, "one", 0, 1)
    assert in_work.id == one.id

    assert await queue.update([one.id, other.id, new_id()], state="parked") == 1
    assert await queue.delete(ALL) == 1

    ended = await queue.settle(job, "one", outcomes([in_work], "resolved"))
    assert await queue.claim(job, "one", 0, 100) == []
    assert ((await queue.job(job)).counts.open, ended.job.counts.resolved) == (0, 1)
    assert await states(queue) == {one.id: "resolved"}


# Changes by hand


async def test_only_changes_of_a_job_are_recorded(queue):
    """Neither a running job that is resumed, nor a paused one that is paused."""
    await stored(queue)
    job = (await queue.create_job(ALL, JobOptions(), ME)).id
    for state in ("running", "paused", "paused", "running"):
        await queue.change_job(job, ME, state=state)

    assert [each.action for each in await queue.audit()] == ["resume", "pause", "redrive"]


async def test_edits_keep_the_old_inputs(queue):
    """The header of a row goes into the history too. Letters in work or resolved are not edited."""
    one = letter(input=b"1;2", input_size=3, header="a;b")
    (claimed_one,) = await stored(queue, 1, type="Claimed")
    await queue.add([one, resolved := letter(state="resolved")])
    job = await running(queue, DeadLetterQuery(type="Claimed"))
    await queue.claim(job, "one", 0, 1)

    assert await queue.edit({one.id: b'{"a":1}', resolved.id: b"", claimed_one.id: b"", new_id(): b""}, ME) == [one.id]
    assert await queue.edit({one.id: b'{"a":22}'}, Requester("you"), query={"set": ["a=22"]}) == [one.id]

    found = await queue.get(one.id)
    assert (found.input, found.input_size, found.header) == (b'{"a":22}', 8, None)
    edits = (await queue.history(one.id)).edits
    assert [(each.input, each.header) for each in edits] == [(b"1;2", "a;b"), (b'{"a":1}', None)]
    assert [(each.requester, each.reason) for each in edits] == [("me", "because"), ("you", "")]
    last, first = [each for each in await queue.audit() if each.action == "edit"]
    assert (first.count, last.count, last.query) == (1, 1, {"set": ["a=22"]})


async def test_edits_change_only_letters_that_are_as_they_were_read(queue):
    """Of two edits that read the same input, the second one changes nothing."""
    one, other = await stored(queue, 2, input=b"1")
    read = {one.id: b"1", other.id: b"1"}

    assert await queue.edit({one.id: b"2"}, ME, expected=read) == [one.id]
    assert await queue.edit({one.id: b"3", other.id: b"3"}, ME, expected=read) == [other.id]

    assert [each.input for each in await walk(queue)] == [b"2", b"3"]
    assert len((await queue.history(one.id)).edits) == 1


async def test_marking_parks_and_unparks_the_letters_that_match(queue):
    """Only waiting letters are parked, only parked ones wait again."""
    waiting = await stored(queue, 3)
    (other,) = await stored(queue, 1, type="Other")
    (resolved,) = await stored(queue, 1, state="resolved")

    assert await queue.mark(DeadLetterQuery(type="T"), "parked", ME) == 3
    assert await queue.mark(DeadLetterQuery(type="T"), "parked", ME) == 0
    assert await states(queue) == {one.id: "parked" for one in waiting} | {other.id: "waiting", resolved.id: "resolved"}
    assert await queue.mark(DeadLetterQuery(ids=(waiting[0].id, resolved.id)), "waiting", ME) == 1
    assert (await states(queue))[waiting[0].id] == "waiting"


async def test_purging_deletes_the_letters_that_match_and_their_histories(queue):
    """In as many transactions as it takes. Letters in work stay."""
    letters = await stored(queue, 4500)
    keep = await stored(queue, 2, type="Other")
    await queue.edit({letters[0].id: b"2"}, ME)
    job = await running(queue)
    (in_work,) = await queue.claim(job, "one", 0, 1)

    assert await queue.purge(DeadLetterQuery(type="T"), ME) == 4499

    assert [one.id for one in await walk(queue)] == [in_work.id, *(one.id for one in keep)]
    assert await queue.history(letters[1].id) == await queue.history(new_id())
    assert next(each.count for each in await queue.audit() if each.action == "purge") == 4499


async def test_letters_expire_by_their_age_in_their_state(queue):
    """Waiting letters by their failure, others by their last change; of one flow only, if that is named."""
    old = now() - timedelta(days=10)
    letters = [
        letter(seq=n, flow=flow, state=state, failed_at=old, id=old_id(old, n))
        for n, (flow, state) in enumerate([("f", "waiting"), ("f", "resolved"), ("g", "waiting"), ("g", "parked")])
    ]
    await queue.add([*letters, *(fresh := [letter(state="resolved"), letter()])])
    await queue.update([letters[1].id], state="parked")
    await queue.update([letters[1].id], state="resolved")  # now, not ten days ago

    assert await queue.expire({"resolved": 86400, "waiting": 86400 * 30}) == 0
    assert await queue.expire({"waiting": 86400, "parked": 86400}, flow="g") == 2
    assert await queue.expire({"waiting": 86400, "resolved": 86400}) == 1
    assert {one.id for one in await walk(queue)} == {letters[1].id, *(one.id for one in fresh)}
    assert [(each.action, each.count) for each in await queue.audit()] == [("expire", 1), ("expire", 2)]


def old_id(time, number):
    """An id that a letter of that time would have."""
    return f"{id_at(time)}-7000-8000-{number:012x}"


async def test_the_oldest_letters_above_a_number_are_deleted(queue):
    """Resolved ones first, then parked, then waiting; those in work stay."""
    waiting = await stored(queue, 4)
    await stored(queue, 2, state="parked")
    await stored(queue, 2, state="resolved")
    job = await running(queue, DeadLetterQuery(ids=(waiting[0].id,)))
    await queue.claim(job, "one", 0, 1)

    assert await queue.expire({}, max=7) == 1
    assert await queue.count(ALL, by=("state",)) == {
        ("claimed",): 1, ("waiting",): 3, ("parked",): 2, ("resolved",): 1
    }  # fmt: skip
    assert await queue.expire({}, max=3) == 4
    assert [one.id for one in await walk(queue)] == [waiting[0].id, *(one.id for one in waiting[2:])]
    assert await queue.expire({}, max=0) == 2
    assert await queue.expire({}, max=0) == 0


async def test_imported_letters_keep_their_ids_and_states(queue):
    """A known id is skipped, and a letter in work elsewhere waits here."""
    known, new, parked, in_work = letter(), letter(key="k"), letter(state="parked"), letter(state="claimed")
    await queue.add([known])

    assert await queue.import_letters([known, new, parked, in_work, new], ME) == 3
    assert await queue.import_letters([], ME) == 0

    assert await queue.get(new.id) == new
    assert await queue.get(in_work.id) == replace(in_work, state="waiting")
    assert await states(queue) == {
        known.id: "waiting", new.id: "waiting", parked.id: "parked", in_work.id: "waiting"
    }  # fmt: skip
    assert [each.count for each in await queue.audit() if each.action == "import"] == [0, 3]


async def test_every_action_has_a_record(queue):
    """Who, why, which letters, how many. Records come newest first, in pages, and of one job."""
    await stored(queue, 3)
    await queue.mark(DeadLetterQuery(type="T", state="waiting"), "parked", ME)
    await queue.mark(ALL, "waiting", ME)
    job = await running(queue, DeadLetterQuery(type="T"))
    await queue.change_job(job, Requester("you", "slow"), rate=10.0)
    await queue.change_job(job, ME, state="paused")
    await queue.change_job(job, ME, state="running")
    await queue.change_job(job, ME, state="cancelled")
    await queue.purge(ALL, ME)

    records = await queue.audit()

    assert [(each.action, each.count) for each in reversed(records)] == [
        (action, 3) for action in ("park", "unpark", "redrive", "rate", "pause", "resume", "cancel", "purge")
    ]
    assert (records[0].requester, records[0].reason, records[0].job) == ("me", "because", None)
    assert records[-1].query == {"type": "T", "state": "waiting"}
    assert {each.action for each in await queue.audit(job=job)} == {"redrive", "rate", "pause", "resume", "cancel"}
    numbers = [each.number for each in records]
    assert numbers == sorted(set(numbers), reverse=True)
    assert [each.number for each in await queue.audit(after=numbers[2], limit=2)] == numbers[3:5]
    assert [each.requester for each in records if each.action == "rate"] == ["you"]


async def test_the_oldest_waiting_letter_of_each_flow(queue):
    """Not of flows whose letters are resolved or parked."""
    first = letter(flow="a", message="1st")
    await queue.add([first, letter(flow="a", message="other"), letter(flow="b", state="parked")])
    last = letter(flow="c")
    await queue.add([last])

    assert await queue.oldest_waiting() == {"a": first.failed_at, "c": last.failed_at}
