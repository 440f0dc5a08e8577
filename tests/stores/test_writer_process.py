"""What the process that writes letters promises: whenever it ends, nothing is lost, and it never stays behind."""

import asyncio
import gc
import os
import re
import signal
import sqlite3
import sys
import threading
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from penstock import Flow, from_iterable
from penstock.deadletters import DeadLetterQuery, MemoryStore, Stores
from penstock.deadletters.sqlite.store import SqliteStore
from penstock.errors import StoreError, WriterCrashed, WriterStartFailed
from penstock.results import DiscardResults
from penstock.runtime import Run
from stores.children import children_of, running
from stores.letters import letter, opened
from waiting import HANG_SECONDS, ending_async, until, until_async

PROGRAM = """
import asyncio, sys, time
from penstock.deadletters import DeadLetter, create_store
from penstock.support.ids import new_id, now

async def main(url, then):
    store = create_store(url, separate_writer=True)
    await store.open()
    facts = dict(flow="orders", run="r", step="s", type="T", message="m", input=b"{}", input_size=2)
    await store.add([DeadLetter(id=new_id(), seq=n, started_at=now(), failed_at=now(), **facts) for n in range(50)])
    print("added", flush=True)
    if then == "hang":
        time.sleep(3600)  # until it is killed

asyncio.run(main(sys.argv[1], sys.argv[2]))
"""


async def writing(url, **settings):
    """An open store whose process has been started, by one letter."""
    store = await opened(url, separate_writer=True, **settings)
    await store.add([letter()])
    return store


def program(url, then, *flags):
    roots = os.pathsep.join(path for path in sys.path if path)
    return asyncio.create_subprocess_exec(
        sys.executable, *flags, "-c", PROGRAM, url, then,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=os.environ | {"PYTHONPATH": roots},
    )  # fmt: skip


async def test_a_run_whose_writer_is_killed_again_and_again_loses_nothing_and_stores_nothing_twice(url, before):
    """The run goes on with the next process, and each failed element has exactly one letter."""
    flow = Flow("f").window(512).map(lambda n: 1 // (n % 2)).dead_letters(SqliteStore(url, separate_writer=True))
    named, kills = [], 0
    async for result in flow.stream(from_iterable(range(20_000))):
        if result.ok:
            continue
        named.append(result.dead_letter)
        if len(named) > kills * 2000:
            for pid in children_of() - before:
                os.kill(pid, signal.SIGKILL)
            kills += 1

    database = sqlite3.connect(url.removeprefix("sqlite:///"))
    stored = [row[0] for row in database.execute("SELECT id FROM letters ORDER BY id")]
    database.close()
    assert kills == 5
    assert stored == sorted(named)
    assert len(set(stored)) == 10_000


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="no /proc")
async def test_the_writer_gets_no_secrets(url, before, monkeypatch):
    """Its environment has what Python and SQLite need, and nothing else: no token, no variable of a flow."""
    monkeypatch.setenv("PENSTOCK_TOKEN", "secret")
    monkeypatch.setenv("SHOP_PASSWORD", "secret")
    monkeypatch.setenv("SQLITE_TMPDIR", "/tmp")
    store = await writing(url)

    (pid,) = children_of() - before
    names = {line.partition(b"=")[0].decode() for line in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")}

    assert {"PENSTOCK_TOKEN", "SHOP_PASSWORD"} & names == set()
    assert {"PATH", "PYTHONPATH", "SQLITE_TMPDIR"} <= names
    await store.aclose()


async def test_callers_hear_that_the_writer_ended_and_the_next_ones_get_another(url, before):
    """Letters that were under way fail with what happened and what will happen; the same letters go in afterwards."""
    store, early, late = await opened(url, separate_writer=True), letter(), letter()
    await store.add([early])
    (writer,) = children_of() - before
    os.kill(writer, signal.SIGSTOP)
    adding = [asyncio.ensure_future(store.add([late])) for _ in range(2)]
    os.kill(writer, signal.SIGKILL)

    first, second = await asyncio.gather(*adding, return_exceptions=True)
    await store.add([early, late])

    assert re.search(rf"letters at {url} ended \(signal 9\); it will be restarted", str(first))
    assert isinstance(first, WriterCrashed)
    assert second is None
    assert store.statistics().counts == {"waiting": 2}
    assert (store.statistics().commits, store.statistics().failures, store.statistics().stored) == (3, 1, 2)
    await store.aclose()


async def test_a_writer_that_ends_while_nobody_waits_is_not_missed(url, before):
    """The next letters are stored by another one as if nothing had been; so is a look at what others have added."""
    ours, theirs = await writing(url, refresh_seconds=0), SqliteStore(url)
    for add in (ours.add, None):
        (writer,) = children_of() - before
        os.kill(writer, signal.SIGKILL)
        await until_async(lambda: children_of() == before)
        if add is not None:
            await add([letter()])
    await theirs.open()
    await theirs.add([letter()])

    await until_async(lambda: ours.statistics().counts == {"waiting": 3})

    assert ours.statistics().failures == 0
    await ours.aclose()
    await theirs.aclose()


async def test_a_writer_that_is_killed_leaves_commits_whole(url, before):
    """Of a call that was under way either all letters are there or none, and adding them again makes them whole."""
    store = await writing(url)
    (writer,) = children_of() - before
    call = [letter(input=b"x" * 10_000) for _ in range(2000)]
    adding = asyncio.ensure_future(store.add(call))
    log = Path(f"{url.removeprefix('sqlite:///')}-wal")
    await until_async(lambda: log.exists() and log.stat().st_size > 1_000_000)  # a twentieth is written
    os.kill(writer, signal.SIGKILL)
    await asyncio.wait((adding,))
    reader = await opened(url, separate_writer=True)
    found = reader.statistics().counts.get("waiting", 0)
    await reader.aclose()

    await store.add(call)

    assert found in (1, 2001)
    assert store.statistics().counts == {"waiting": 2001}
    await store.aclose()


async def test_a_cancelled_run_says_when_nobody_knows_whether_its_letters_are_stored(url, before):
    """Its elements are cancelled, and what the writer that ended had of them may be there all the same."""
    stores = Stores(separate_writer=True)
    store = await stores.get(url)
    await store.add([letter()])
    (writer,) = children_of() - before
    os.kill(writer, signal.SIGSTOP)
    with capture_logs() as logs:
        flow = Flow("f").map(lambda n: 1 // n).dead_letters(url)
        run = Run(flow.plan(), from_iterable([0]), DiscardResults(), stores=stores)
        await until_async(lambda: store._committer._busy)
        run.abort()
        os.kill(writer, signal.SIGKILL)
        summary = await run.finished

    assert (summary.failed, summary.cancelled) == (0, 1)
    assert [entry["letters"] for entry in logs if entry["event"] == "store.write_uncertain"] == [1]
    await stores.aclose()


async def test_it_also_says_so_while_it_waits_for_the_next_try():
    """What came of the first try is as unknown then, whatever the tries after it failed of."""

    errors = [WriterCrashed("sqlite:///letters.db", "signal 9"), StoreError("the disk is full")]

    class Failing(MemoryStore):
        async def add(self, letters):
            raise errors.pop(0)

    with capture_logs() as logs:
        flow = Flow("f").map(lambda n: 1 // n).dead_letters(Failing())
        run = Run(flow.plan(), from_iterable([0]), DiscardResults())
        await until_async(lambda: sum(entry["event"] == "store.write_failed" for entry in logs) == 2)
        run.abort()
        summary = await run.finished

    assert (summary.failed, summary.cancelled) == (0, 1)
    assert [entry["letters"] for entry in logs if entry["event"] == "store.write_uncertain"] == [1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_a_writer_minds_no_signal_but_the_end_of_its_line(url, before, number):
    """A stop that reaches all processes of a service must not take the writer away while the others drain."""
    store = await writing(url)
    writers = children_of() - before
    for pid in writers:
        os.kill(pid, number)

    await store.add([letter()])

    assert children_of() - before == writers
    await store.aclose()
    assert children_of() == before


async def test_no_writer_stays_when_its_parent_is_killed(url):
    """kill -9 ends the line too: the writer closes the database and leaves."""
    async with ending_async(await program(url, "hang")) as process, asyncio.timeout(HANG_SECONDS):
        assert await process.stdout.readline() == b"added\n"
        (writer,) = children_of(process.pid)
        process.kill()
        _, said = await process.communicate()  # their standard error is one: it ends when both have ended

    await until_async(lambda: not running(writer))
    assert said == b""
    assert [path.name for path in Path(url.removeprefix("sqlite:///")).parent.iterdir()] == ["letters.db"]


async def test_a_program_that_does_not_close_its_store_ends_in_silence(url):
    """Nor does a program that just ends leave a writer, a complaint or a wait behind."""
    async with ending_async(await program(url, "end")) as process, asyncio.timeout(HANG_SECONDS):
        said = await process.communicate()

    assert (process.returncode, *said) == (0, b"added\n", b"")


def test_a_store_that_outlives_its_event_loop_lets_its_writer_go(url, before):
    """A loop that is closed without `aclose` leaves no process behind once nobody holds the store."""

    async def leave_open():
        await (await opened(url, separate_writer=True)).add([letter()])

    asyncio.run(leave_open())
    gc.collect()

    until(lambda: not any(map(running, children_of() - before)))


async def test_closing_leaves_no_process_descriptor_or_thread_behind(url, before):
    """`aclose` waits until the writer has ended, and reaps it."""
    await (await writing(url)).aclose()  # what is imported or made once is there
    descriptors, threads, tasks = os.listdir("/proc/self/fd"), threading.enumerate(), asyncio.all_tasks()
    store = await writing(url)

    await store.aclose()

    assert children_of() == before
    assert os.listdir("/proc/self/fd") == descriptors
    assert asyncio.all_tasks() == tasks
    await until_async(lambda: set(threading.enumerate()) <= set(threads))


async def test_a_writer_that_does_not_leave_is_killed(url, before):
    """Closing has an end, whatever the process does."""
    store = await writing(url, busy_seconds=0)
    (writer,) = children_of() - before
    os.kill(writer, signal.SIGSTOP)

    async with asyncio.timeout(HANG_SECONDS):
        await store.aclose()

    assert children_of() == before


async def test_a_commit_that_hangs_does_not_hold_up_the_close(url, before):
    """What was under way is told as in doubt, and what had not begun is cancelled."""
    store = await writing(url, busy_seconds=0)
    (writer,) = children_of() - before
    os.kill(writer, signal.SIGSTOP)
    under_way, not_begun = store.add([letter() for _ in range(512)]), store.add([letter()])

    async with asyncio.timeout(HANG_SECONDS):
        await store.aclose()

    assert isinstance(under_way.exception(), WriterCrashed)
    assert not_begun.cancelled()
    assert children_of() == before


async def test_a_writer_that_does_not_answer_is_replaced(url, before, monkeypatch):
    """So a disk that hung once holds up nobody for ever, and the letters are stored once."""
    monkeypatch.setattr("penstock.deadletters.sqlite.writer_process.REPLY_SECONDS", 0.0)
    store = await writing(url, busy_seconds=0)  # timeout: two seconds
    (writer,) = children_of() - before
    os.kill(writer, signal.SIGSTOP)
    call = [letter() for _ in range(10)]

    with pytest.raises(WriterCrashed, match="no reply for 2 s, killed"):
        await store.add(call)
    await store.add(call)

    assert store.statistics().counts == {"waiting": 11}
    await store.aclose()


async def test_a_writer_has_a_session_of_its_own(url, before):
    """Ctrl-C on a terminal goes to all of a session: the writer would end before what is to be drained."""
    store = await writing(url)
    (writer,) = children_of() - before

    assert os.getsid(writer) == writer
    await store.aclose()


async def test_a_writer_that_is_started_again_writes_to_the_same_file(tmp_path, before, monkeypatch):
    """Wherever the program has gone meanwhile, and whatever it put into its path."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    store = await opened("sqlite:///letters.db", separate_writer=True)
    await store.add([letter(seq=1)])
    for pid in children_of() - before:
        os.kill(pid, signal.SIGKILL)
    await until_async(lambda: children_of() == before)
    os.chdir("elsewhere")
    monkeypatch.setattr(sys, "path", [*sys.path, tmp_path])

    await store.add([letter(seq=2)])

    assert [one.seq for one in (await store.page(DeadLetterQuery())).letters] == [1, 2]
    await store.aclose()


async def test_no_process_is_started_before_the_first_letter(url, before):
    """Opening, reading, checking and a run without failures need none; the first failed element does."""
    store = await opened(url, separate_writer=True, refresh_seconds=0)
    flow = Flow("f").map(lambda n: 1 // n).dead_letters(store)

    summary = await flow.start(from_iterable([1, 2]), DiscardResults()).finished
    await store.page(DeadLetterQuery())
    assert store.problem() is None
    await asyncio.sleep(0.05)  # the check that this has started
    assert (summary.ok, store.statistics().counts) == (2, {})
    assert children_of() == before

    assert (await flow.start(from_iterable([0]), DiscardResults()).finished).failed == 1
    assert len(children_of() - before) == 1
    await store.aclose()
    assert children_of() == before


async def test_letters_that_were_there_before_are_counted_when_the_process_starts(url, before):
    """The process takes over the counts of the thread, and counts anew after a crash."""
    store = await opened(url)
    await store.add([letter(), letter(state="parked")])
    await store.aclose()

    store = await writing(url)
    assert store.statistics().counts == {"waiting": 2, "parked": 1}
    for pid in children_of() - before:
        os.kill(pid, signal.SIGKILL)
    await until_async(lambda: children_of() == before)
    await store.add([letter()])

    assert store.statistics().counts == {"waiting": 3, "parked": 1}
    await store.aclose()


async def test_an_opening_that_is_cancelled_leaves_nothing_behind(url, before):
    """A caller that stops waiting need not close anything."""
    threads = threading.enumerate()
    opening = asyncio.ensure_future(opened(url, separate_writer=True))
    await asyncio.sleep(0)
    opening.cancel()
    await asyncio.wait((opening,))

    assert opening.cancelled()
    assert children_of() == before
    for thread in {one for one in threading.enumerate() if one.name.startswith("dead letters")} - set(threads):
        thread.join(HANG_SECONDS)
        assert not thread.is_alive()


async def test_closing_while_the_process_starts_finishes_what_was_added(url, before):
    """A letter handed over before `aclose` is stored, though its process has not been started yet."""
    store = await opened(url, separate_writer=True)
    adding = store.add([letter()])
    await store.aclose()
    await adding

    assert children_of() == before
    store = await opened(url)
    assert store.statistics().counts == {"waiting": 1}
    await store.aclose()


async def test_a_close_that_is_cancelled_while_the_process_starts_leaves_nothing_behind(url, before):
    """The letter is stored or its caller is told that it may not be."""
    store = await opened(url, separate_writer=True)
    adding = store.add([letter()])
    closing = asyncio.ensure_future(store.aclose())
    await until_async(lambda: store._committer._backend._process is not None)
    closing.cancel()
    await asyncio.wait((closing,))

    async with asyncio.timeout(HANG_SECONDS):
        await asyncio.gather(adding, return_exceptions=True)
    await until_async(lambda: children_of() == before)


@pytest.mark.parametrize(
    ("python", "words"),
    [
        ("/bin/false", r"cannot be started: it ended before it was ready \(exit code 1\); see standard error"),
        ("/bin/none", r"cannot be started: No such file or directory \(/bin/none\)"),
    ],
)
async def test_a_writer_that_cannot_start_is_a_store_error_with_a_way_out(url, before, monkeypatch, python, words):
    """Both with the first letter and after a crash: then the letters are tried again."""
    store, other = await writing(url), await opened(url, separate_writer=True)
    for pid in children_of() - before:
        os.kill(pid, signal.SIGKILL)
    await until_async(lambda: children_of() == before)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", python)
        for one in (store, other):
            with pytest.raises(WriterStartFailed, match=words):
                await one.add([letter()])
    await store.add([letter()])
    await other.add([letter()])

    assert other.statistics().counts == {"waiting": 3}
    assert (store.statistics().failures, other.statistics().failures) == (1, 1)
    await store.aclose()
    await other.aclose()
    assert children_of() == before


async def test_stores_share_one_process_for_each_file(url, before):
    """Of all stores that `Stores(separate_writer=True)` opens, each that writes to a file has one process."""
    stores = Stores(separate_writer=True)
    for name in ("memory", url, url):
        await (await stores.get(name)).add([letter()])

    assert len(children_of() - before) == 1
    await stores.aclose()
    assert children_of() == before
