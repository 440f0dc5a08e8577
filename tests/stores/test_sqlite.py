"""What only the SQLite store promises: letters outlive processes, and its errors say what to do."""

import asyncio
import os
import re
import signal
import sqlite3
import sys
import threading
from contextlib import AsyncExitStack, closing
from datetime import timedelta
from pathlib import Path

import pytest
from msgspec import Raw
from sqlalchemy import create_engine, event, inspect
from sqlalchemy.dialects.sqlite import dialect

from penstock.deadletters import DeadLetterQuery, create_store
from penstock.deadletters.dead_letter_queue import FailedAgain, JobOptions, Requester, Settlement
from penstock.deadletters.sql.queries import select_page, select_ranges
from penstock.deadletters.sql.rows import COLUMNS, to_columns
from penstock.deadletters.sql.table import METADATA
from penstock.deadletters.sqlite.errors import to_store_error
from penstock.deadletters.sqlite.migrations import MIGRATIONS, add_functions, prepare
from penstock.deadletters.sqlite.store import SqliteStore
from penstock.deadletters.sqlite.writer import Writer, WriterConfig
from penstock.deadletters.store import UNUSABLE_SECONDS, Problem
from penstock.errors import (
    FlowDefinitionError,
    StoreError,
    StoreFileReplaced,
    StoreMissing,
    StoreTooNew,
    StoreTooOld,
    StoreTruncated,
)
from penstock.support.ids import CLOCK_SLACK, id_at, now
from stores.letters import letter, opened
from waiting import HANG_SECONDS, ending_async

WRITER = """
import asyncio, sys, time
from penstock.deadletters import DeadLetter, create_store
from penstock.support.ids import new_id, now

def letters(count):
    facts = dict(flow="orders", run="r", step="s", type="T", message="m", input=b"{}", input_size=2)
    return [DeadLetter(id=new_id(), seq=n, started_at=now(), failed_at=now(), **facts) for n in range(count)]

async def main(url, calls):
    store = create_store(url)
    await store.open()
    for _ in range(calls):
        await store.add(letters(50))
    print("added", flush=True)
    if sys.argv[3] == "hang":
        time.sleep(3600)  # until it is killed
    await store.aclose()

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


@pytest.fixture(params=[False, True], ids=["thread", "process"])
def separate(request):
    return request.param


async def writer(url, calls, then):
    roots = os.pathsep.join(path for path in sys.path if path)
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", WRITER, url, str(calls), then,
        stdout=asyncio.subprocess.PIPE, env=os.environ | {"PYTHONPATH": roots},
    )  # fmt: skip


async def test_letters_survive_a_kill_right_after_add_returned(url):
    """What `add` returned for is there after kill -9."""
    async with ending_async(await writer(url, 3, "hang")) as process, asyncio.timeout(HANG_SECONDS):
        assert await process.stdout.readline() == b"added\n"
        process.send_signal(signal.SIGKILL)
        await process.communicate()

    store = await opened(url)

    assert store.statistics().counts == {"waiting": 150}
    await store.aclose()


async def test_processes_that_start_and_add_at_once_lose_nothing(url):
    """Several processes create one database and write it side by side."""
    async with AsyncExitStack() as stack, asyncio.timeout(HANG_SECONDS):
        processes = [await stack.enter_async_context(ending_async(await writer(url, 20, "end"))) for _ in range(3)]
        for process in processes:
            await process.communicate()

    assert [process.returncode for process in processes] == [0, 0, 0]
    store = await opened(url)
    assert store.statistics().counts == {"waiting": 3000}
    await store.aclose()


async def test_letters_of_another_process_are_counted_at_a_later_look(url, separate):
    """`counts` follows what others commit."""
    ours, theirs = (
        await opened(url, separate_writer=separate, refresh_seconds=0),
        await opened(url, separate_writer=separate),
    )
    await theirs.add([letter(), letter(state="parked")])

    async with asyncio.timeout(HANG_SECONDS):
        while ours.statistics().counts != {"waiting": 1, "parked": 1}:
            await asyncio.sleep(0.001)

    await ours.aclose()
    await theirs.aclose()


async def test_counts_and_letters_are_kept_when_it_is_opened_again(url, separate):
    """A store finds what an earlier one left."""
    one = letter(state="parked")
    store = await opened(url, separate_writer=separate)
    await store.add([one, letter()])
    await store.aclose()

    store = await opened(url, separate_writer=separate, create=False)

    assert store.statistics().counts == {"waiting": 1, "parked": 1}
    assert await store.get(one.id) == one
    await store.aclose()


def own_threads():
    """All threads but those of the event loop's pool, which end with it."""
    return {thread for thread in threading.enumerate() if not thread.name.startswith("asyncio_")}


async def test_closing_leaves_no_task_thread_or_log_behind(url, separate):
    """Also when reads and adds were under way or cancelled, `aclose` ends with nothing left but the file."""
    tasks, threads = asyncio.all_tasks(), own_threads()
    store = await opened(url, separate_writer=separate)
    await store.add([letter()])
    work = [asyncio.create_task(store.page(DeadLetterQuery())) for _ in range(4)]
    work.append(asyncio.ensure_future(store.add([letter() for _ in range(600)])))
    await asyncio.sleep(0)  # all have begun
    work[0].cancel()
    await asyncio.gather(*work, return_exceptions=True)

    await store.aclose()
    await store.aclose()

    for thread in own_threads() - threads:
        thread.join(5)
    assert own_threads() <= threads
    assert asyncio.all_tasks() == tasks
    assert [path.name for path in Path(store.url.removeprefix("sqlite:///")).parent.iterdir()] == ["letters.db"]


async def test_a_full_disk_does_not_keep_a_database_from_being_closed(url):
    """What was stored is in the WAL, as safe as in the file: only moving it there fails."""
    store = await opened(url)
    await store.add([letter()])
    writer = store._committer._backend._writer
    database = writer._database

    class Full:
        close = database.close

        def execute(self, statement):
            raise sqlite3.OperationalError("database or disk is full")

    writer._database = Full()
    await store.aclose()

    store = await opened(url)
    assert store.statistics().counts == {"waiting": 1}
    await store.aclose()


async def test_closing_finishes_what_was_asked_for(url, separate):
    """Letters handed over before `aclose` are stored; after it, adding is refused."""
    store = await opened(url, separate_writer=separate)
    adding = asyncio.gather(*(store.add([letter()]) for _ in range(5)))
    await asyncio.sleep(0)
    await store.aclose()
    await adding

    with pytest.raises(StoreError, match="not open"):
        await store.add([letter()])
    store = await opened(url, separate_writer=separate)
    assert store.statistics().counts == {"waiting": 5}
    await store.aclose()


async def test_callers_at_once_share_commits(url, separate):
    """Group commit: a hundred callers need far fewer commits, and the numbers for metrics say so."""
    store = await opened(url, separate_writer=separate)

    await asyncio.gather(*(store.add([letter()]) for _ in range(100)))

    assert store.statistics().stored == 100
    assert 1 <= store.statistics().commits <= 3
    assert store.statistics().commit_seconds > 0
    await store.aclose()


async def test_a_lone_surrogate_is_stored_as_its_escape(url, separate):
    """An error's text that is no Unicode does not hold up the run."""
    one = letter(step="\udc80", message="no \udc80", key="\ud800", partial_results={"a": object, "b": "\udc80"})
    store = await opened(url, separate_writer=separate)
    await store.add([one])

    found = await store.get(one.id)

    assert (found.step, found.message) == ("\\udc80", "no \\udc80")
    assert (found.key, found.partial_results["b"]) == ("\ud800", "\udc80")
    await store.aclose()


async def test_what_was_json_already_stays_with_its_letter(url, separate):
    """Many values are encoded at once and parted at their line breaks, also when one brings its own."""
    store = await opened(url, separate_writer=separate)
    letters = [letter(seq=n, partial_results={"n": Raw(b"[%d,\n0]" % n) if n else None}) for n in range(3)]
    await store.add([*letters, letter(seq=3)])

    found = (await store.page(DeadLetterQuery())).letters

    assert [one.partial_results for one in found] == [{"n": None}, {"n": [1, 0]}, {"n": [2, 0]}, None]
    await store.aclose()


async def test_a_newer_schema_is_refused(url, separate):
    """A database of a newer Penstock is not touched."""
    await (await opened(url, separate_writer=separate)).aclose()
    database = sqlite3.connect(url.removeprefix("sqlite:///"))
    with database:
        database.execute("INSERT INTO letters_schema VALUES (99, '')")
    database.close()

    with pytest.raises(StoreTooNew, match="install a newer Penstock"):
        await opened(url, separate_writer=separate)


def make_old(url, version, *old):
    """A database of an older schema, with letters."""
    database = sqlite3.connect(url.removeprefix("sqlite:///"))
    add_functions(database)
    with database:
        database.execute("CREATE TABLE letters_schema (version INTEGER NOT NULL PRIMARY KEY, applied_at TEXT)")
        for number, statements in enumerate(MIGRATIONS[:version], start=1):
            for statement in statements:
                database.execute(statement)
            database.execute("INSERT INTO letters_schema VALUES (?, '')", (number,))
        known = {name for _, name, *_ in database.execute("PRAGMA table_info(letters)")}
        for letter in old:
            columns = dict(zip(COLUMNS, [column[0] for column in to_columns([letter])], strict=True))
            row = {name: value for name, value in columns.items() if name in known}
            marks = ",".join("?" * len(row))
            database.execute(f"INSERT INTO letters ({','.join(row)}) VALUES ({marks})", list(row.values()))
    database.close()


@pytest.mark.parametrize("version", range(1, len(MIGRATIONS)))
async def test_who_only_reads_brings_an_older_schema_up_to_date(url, version):
    """As who writes does, if the file may be written; the letters are kept."""
    old = letter()
    make_old(url, version, old)
    store = await opened(url, create=False, read_only=True)

    assert (await store.page(DeadLetterQuery())).letters == [old]
    assert await store.get(old.id) == old
    await store.aclose()
    assert versions(url) == list(range(1, len(MIGRATIONS) + 1))


@pytest.mark.parametrize("place", ["file", "folder"])
async def test_who_may_not_write_hears_that_a_schema_is_older(url, monkeypatch, place):
    """And what to do; the file stays as it is."""
    make_old(url, 1, letter())
    path = Path(url.removeprefix("sqlite:///"))
    refused = path if place == "file" else path.parent
    monkeypatch.setattr("penstock.deadletters.sqlite.existing.os.access", lambda asked, mode: asked != refused)

    with pytest.raises(StoreTooOld) as caught:
        await opened(url, create=False, read_only=True)

    assert str(caught.value) == (
        f"the dead letters at {url} have schema 1, this Penstock reads schema {len(MIGRATIONS)}, and the file or "
        "its folder is not writable; list them once as a user who may write to both, which migrates the file"
    )
    assert versions(url) == [1]


async def test_who_only_reads_refuses_a_newer_schema(url):
    """Whatever is in it could be misread."""
    await (await opened(url)).aclose()
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as database, database:
        database.execute("INSERT INTO letters_schema VALUES (99, '')")

    with pytest.raises(StoreTooNew, match="install a newer Penstock"):
        await opened(url, create=False, read_only=True)


@pytest.mark.parametrize("table", ["CREATE TABLE t (a)", "CREATE TABLE letters (a)", None])
@pytest.mark.parametrize("create", [False, True])
async def test_who_only_reads_hears_that_there_are_no_letters(url, table, create):
    """In a database of something else, an empty file, or none; nothing is made there."""
    path = Path(url.removeprefix("sqlite:///"))
    if table is None:
        path.touch()
    else:
        with closing(sqlite3.connect(path)) as database, database:
            database.execute(table)
    before = path.read_bytes()

    with pytest.raises(StoreMissing, match="there are no dead letters at"):
        await opened(url, create=create, read_only=True)
    assert path.read_bytes() == before
    path.unlink()
    with pytest.raises(StoreMissing, match="there are no dead letters at"):
        await opened(url, create=create, read_only=True)
    assert not path.exists()


def versions(url):
    """The schemas that a database has had."""
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as database:
        return [version for (version,) in database.execute("SELECT version FROM letters_schema ORDER BY version")]


@pytest.mark.parametrize("version", range(1, 4))
async def test_letters_of_before_there_were_groups_get_theirs(url, version, separate):
    """With their counts by state, as if they were added now."""
    old = [letter(message=f"no order {n}", state="parked" if n % 2 else "waiting") for n in range(7)]
    make_old(url, version, *old, letter(message="other"))

    store = await opened(url, separate_writer=separate)
    groups = {group.pattern: group for group in await store.groups(DeadLetterQuery())}

    assert groups["no order #"].counts == {"waiting": 4, "parked": 3}
    assert groups["no order #"].id == old[0].group
    assert (groups["no order #"].first_seen, groups["no order #"].last_seen) == (old[0].failed_at, old[-1].failed_at)
    assert groups["other"].counts == {"waiting": 1}
    assert store.statistics().counts == {"waiting": 5, "parked": 3}
    await store.aclose()


async def test_letters_of_before_there_were_revisions_are_kept(url, separate):
    """A database of the first schema becomes one of the newest; its letters have no revision, new ones have."""
    old, new = letter(), letter(revision=3)
    make_old(url, 1, old)

    store = await opened(url, separate_writer=separate)
    await store.add([new])

    assert (await store.page(DeadLetterQuery())).letters == sorted([old, new], key=lambda one: one.id)
    assert old.revision is None
    await store.aclose()


@pytest.mark.parametrize("link", [False, True], ids=["plain", "link"])
async def test_only_the_owner_can_read_a_new_database_and_its_logs(url, separate, link):
    """The mode is 0600 whatever the umask; a file that was there keeps the mode that it has."""
    path = Path(url.removeprefix("sqlite:///"))
    if link:
        path.symlink_to(path.with_name("target.db"))
    store = await opened(url, separate_writer=separate)
    await store.add([letter()])

    modes = {one.name: one.stat().st_mode & 0o777 for one in path.parent.iterdir()}

    assert set(modes.values()) == {0o600}, modes
    assert sum(name.endswith(("-wal", "-shm")) for name in modes) == 2
    await store.aclose()
    path.chmod(0o640)
    store = await opened(url, separate_writer=separate)
    await store.add([letter()])
    assert {one.stat().st_mode & 0o777 for one in path.parent.glob("*.db*")} == {0o640}
    await store.aclose()


async def test_a_missing_file_is_not_created_unless_wanted(url):
    """`create=False` finds letters or says that there are none."""
    with pytest.raises(StoreMissing) as missing:
        await opened(url, create=False)

    assert missing.value.__cause__ is not missing.value  # who follows the causes would never end
    assert not Path(url.removeprefix("sqlite:///")).exists()


@pytest.mark.parametrize("how", ["removed", "moved", "replaced"])
async def test_letters_that_went_into_a_lost_file_are_not_stored(url, separate, how):
    """Whoever stores them is told and tries again: then they are in a new file. One of somebody else is left alone."""
    path = Path(url.removeprefix("sqlite:///"))
    store = await opened(url, separate_writer=separate)
    old, new = letter(), letter()
    await store.add([old])
    assert (await store.page(DeadLetterQuery())).letters == [old]
    path.rename(path.with_name("moved.db"))
    if how == "removed":
        for left in path.parent.iterdir():
            left.unlink()
    elif how == "replaced":
        path.write_bytes(b"of somebody else")

    with pytest.raises(StoreFileReplaced, match="removed, moved or replaced"):
        await store.add([new])
    if how == "replaced":
        with pytest.raises(StoreFileReplaced):
            await store.add([new])
        assert path.read_bytes() == b"of somebody else"
    else:
        await store.add([new])
        assert (await store.page(DeadLetterQuery())).letters == [new]
        assert store.statistics().counts == {"waiting": 1}
    await store.aclose()
    if how == "moved":
        kept = await opened(f"sqlite:///{path.with_name('moved.db')}", create=False)
        assert old in (await kept.page(DeadLetterQuery())).letters
        await kept.aclose()


async def filled(url, separate, count=400):
    """An open store whose letters are in its main file, not only in its log."""
    store = await opened(url)
    await store.add([letter(input=b"x" * 200) for _ in range(count)])
    await store.aclose()
    return await opened(url, separate_writer=separate, refresh_seconds=0)


async def problem_until(store, condition):
    async with asyncio.timeout(20):
        while not condition(store.problem()):
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("size", [0, 100, 4096, 40_000])
async def test_nothing_is_told_as_stored_in_a_truncated_file(url, separate, size):
    """Missing pages read as zeros, and a commit into the log succeeds. A new file is begun when it is moved away."""
    path, one = Path(url.removeprefix("sqlite:///")), letter()
    store = await filled(url, separate)
    os.truncate(path, size)

    for _ in range(2):
        with pytest.raises(StoreTruncated, match="move it away"):
            await store.add([one])
    assert store.problem().lasting

    path.rename(path.with_name("damaged.db"))
    await store.add([one])
    assert store.problem() is None
    assert (await store.page(DeadLetterQuery())).letters == [one]
    await store.aclose()


async def test_a_file_that_was_vacuumed_is_not_truncated(url, separate):
    """VACUUM of another process makes the file shorter, and all pages are there."""
    path = Path(url.removeprefix("sqlite:///"))
    store = await filled(url, separate)
    before = path.stat().st_size
    database = sqlite3.connect(path, isolation_level=None)
    for statement in ("DELETE FROM letters", "VACUUM", "PRAGMA wal_checkpoint(TRUNCATE)"):
        database.execute(statement).fetchall()
    database.close()
    assert path.stat().st_size < before

    await store.add([letter()])

    assert store.problem() is None
    await store.aclose()


async def test_a_lost_file_is_noticed_while_nothing_is_stored(url, separate):
    """Whoever asks has the file checked: one that was replaced or truncated is a problem until it is repaired."""
    path = Path(url.removeprefix("sqlite:///"))
    store = await filled(url, separate)
    assert store.problem() is None

    path.rename(path.with_name("ours.db"))
    path.write_bytes(b"of somebody else")
    await problem_until(store, lambda problem: problem is not None and problem.lasting)
    path.with_name("ours.db").replace(path)
    await problem_until(store, lambda problem: problem is None)

    os.truncate(path, 0)
    await problem_until(store, lambda problem: problem is not None and problem.lasting)
    await store.aclose()


async def test_a_locked_store_is_unusable_only_after_a_while(url, separate):
    """A lock is a problem that may pass: it lasts after 30 seconds. It is gone without further letters, too."""
    store = await opened(url, separate_writer=separate, busy_seconds=0.01, refresh_seconds=0)
    other = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="another process holds its lock"):
        await store.add([letter()])

    problem = store.problem()
    assert not problem.lasting
    assert Problem(problem.error, problem.since - UNUSABLE_SECONDS).lasting
    other.execute("ROLLBACK")
    other.close()
    await problem_until(store, lambda problem: problem is None)
    await store.aclose()


async def test_a_letter_that_cannot_be_kept_is_no_problem_of_the_store(url, separate):
    """Other letters can be stored."""
    store = await opened(url, separate_writer=separate)

    with pytest.raises(StoreError):
        await store.add([letter(seq=2**70)])

    assert store.problem() is None
    await store.aclose()


async def test_to_read_is_not_to_create(url, separate):
    """A file that is gone is missed, and not made anew by who looks for letters."""
    path = Path(url.removeprefix("sqlite:///"))
    store = await opened(url, separate_writer=separate)
    path.unlink()

    with pytest.raises(StoreError):
        await store.page(DeadLetterQuery())

    assert not path.exists()
    await store.aclose()


async def test_a_database_of_something_else_holds_no_letters(url, separate):
    """`create=False` adds no tables to a database that is not ours."""
    database = sqlite3.connect(url.removeprefix("sqlite:///"))
    database.execute("CREATE TABLE theirs (a)")
    database.close()

    with pytest.raises(StoreMissing):
        await opened(url, separate_writer=separate, create=False)


async def test_garbage_a_folder_and_a_missing_folder_are_named(tmp_path, separate):
    """What cannot be opened is a `StoreError` that says why and what to do."""
    (tmp_path / "garbage").write_bytes(b"this is no database, " * 100)

    with pytest.raises(StoreError, match="is not a SQLite database; name another file"):
        await opened(f"sqlite:///{tmp_path}/garbage", separate_writer=separate)
    with pytest.raises(StoreError, match="is a folder; name a file in it"):
        await opened(f"sqlite:///{tmp_path}", separate_writer=separate)
    with pytest.raises(StoreError, match=r"there is no folder .*/missing; create it"):
        await opened(f"sqlite:///{tmp_path}/missing/letters.db", separate_writer=separate)


async def test_a_lock_that_is_not_given_back_is_a_store_error_and_passes(url, separate):
    """A lock of another process fails the add after the busy time; the same letters go in when it is gone."""
    store, one = await opened(url, separate_writer=separate, busy_seconds=0.05), letter()
    other = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    with pytest.raises(StoreError, match="another process holds its lock"):
        await store.add([one])
    other.close()
    await store.add([one])

    assert store.statistics().counts == {"waiting": 1}
    assert store.statistics().failures == 1
    await store.aclose()


@pytest.mark.parametrize(
    ("code", "way_out"),
    [
        ("SQLITE_FULL", "free some space"), ("SQLITE_READONLY_DIRECTORY", "give this user write permission"),
        ("SQLITE_CANTOPEN", "give this user read and write permission"), ("SQLITE_CORRUPT", "recover"),
    ],
)  # fmt: skip
def test_what_the_disk_refuses_becomes_a_sentence_with_a_way_out(tmp_path, code, way_out):
    """Every error of the disk says what to do, and keeps its cause."""
    error = sqlite3.OperationalError("driver words")
    error.sqlite_errorname = code

    story = to_store_error(error, "sqlite:///x", tmp_path / "x")

    assert way_out in str(story)
    assert story.__cause__ is error


@pytest.mark.parametrize(
    ("filter", "after", "plan"),
    [
        (DeadLetterQuery(), None, r"SCAN letters USING INDEX sqlite_autoindex_letters_1"),
        (DeadLetterQuery(until=now()), "0190", r"SEARCH .* sqlite_autoindex_letters_1 \(id>\?\)"),
        (DeadLetterQuery(since=now()), None, r"SEARCH .* sqlite_autoindex_letters_1 \(id>\?\)"),
        (DeadLetterQuery(run="r"), None, r"SEARCH .* letters_by_run \(run=\?\)"),
        (DeadLetterQuery(run="r", min_seq=5), "0190", r"SEARCH .* letters_by_run \(run=\? AND id>\?\)"),
        (DeadLetterQuery(state="waiting"), None, r"SEARCH .* letters_by_state \(state=\?\)"),
        (
            DeadLetterQuery(group="1-a", state="waiting"),
            None,
            r"SEARCH .* letters_by_group \(group_id=\? AND state=\?\)",
        ),
        (
            DeadLetterQuery(state="waiting", key=5, since=now()),
            "0190",
            r"SEARCH .* letters_by_state \(state=\? AND id>\?\)",
        ),
    ],
)
async def test_a_page_is_read_in_order_from_where_it_begins(url, filter, after, plan):
    """Whatever is asked for, letters come off an index in the order of ids: nothing is sorted, `since` skips ahead."""
    await (await opened(url)).aclose()

    plans = plans_of(url, select_page(filter, after, 10))

    assert len(plans) == 1
    assert re.match(plan, plans[0]), plans


async def test_a_page_of_groups_merges_the_first_letters_of_each(url):
    """Of each group and state, the index yields the next ids in order; only these few are sorted."""
    await (await opened(url)).aclose()
    ranges = [("1-a", "waiting"), ("1-b", "parked")]

    plans = plans_of(url, select_ranges(DeadLetterQuery(), ranges, "0190", 10))

    index = r"SEARCH .* COVERING INDEX letters_by_group \(group_id=\? AND state=\? AND id>\?\)"
    assert sum(bool(re.match(index, plan)) for plan in plans) == 2, plans
    assert not any(plan.startswith("SCAN letters") for plan in plans), plans


async def test_operations_scan_no_table_of_letters(url):
    """Every statement of the life of a letter finds its rows by an index, however many letters there are."""
    store, statements = await opened(url), []
    await store.add([letter(message="a"), letter(message="b"), letter(message="c", type="Other")])
    await store.count(DeadLetterQuery())  # connects
    await store.update([], state="parked")
    for thread in (store._reads, store._writes):
        event.listen(thread._engine, "before_cursor_execute", lambda *facts: statements.append(facts[2:4]))
    me, found = Requester("me"), await store.groups(DeadLetterQuery())
    await store.page(DeadLetterQuery(state="waiting"))
    await store.page(DeadLetterQuery(group=found[0].id))
    await store.page(DeadLetterQuery(type="T", state="waiting"))
    job = await store.create_job(DeadLetterQuery(type="T"), JobOptions(canary=(1,)), me)
    await store.acquire_job(job.id, "runner")
    (claimed,) = await store.claim(job.id, "runner", 0, 10)
    await store.settle(
        job.id, "runner", [Settlement(claimed.id, "failed", FailedAgain(step="s", type="T", message=""))]
    )
    await store.change_job(job.id, me, state="cancelled")
    await store.mark(DeadLetterQuery(type="T"), "parked", me)
    await store.purge(DeadLetterQuery(state="parked"), me)
    await store.expire({"waiting": 0}, max=0)
    await store.oldest_waiting()
    await store.aclose()

    explained = {
        words: plans_of(url, words, values) for words, values in statements if words[:5] not in ("BEGIN", "COMMI")
    }

    assert len(explained) > 30
    tables = "letters|job_letters|attempts|edits|copies"
    scans = [
        (words, plan)
        for words, plans in explained.items()
        for plan in plans
        if re.match(rf"SCAN ({tables})\b(?! USING INDEX job_letters_claimed)", plan)
    ]
    assert not scans


def plans_of(url, statement, values=()):
    """How SQLite executes a statement."""
    if not isinstance(statement, str):
        statement = str(statement.compile(dialect=dialect(), compile_kwargs={"literal_binds": True}))
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as database:
        values = values[0] if isinstance(values, list) else values  # of many executions
        return [row[3] for row in database.execute(f"EXPLAIN QUERY PLAN {statement}", values)]


async def test_since_and_after_both_hold(url):
    """The later of the two is where a page begins."""
    letters = [letter(seq=number) for number in range(4)]
    store = await opened(url)
    await store.add(letters)

    page = await store.page(DeadLetterQuery(since=letters[0].failed_at), after=letters[1].id)

    assert [one.seq for one in page.letters] == [2, 3]
    assert (
        await store.page(DeadLetterQuery(since=letters[3].failed_at + CLOCK_SLACK), after=letters[1].id)
    ).letters == []
    await store.aclose()


def test_the_table_of_the_queries_is_the_one_of_the_migrations(tmp_path):
    """One definition serves all SQL databases; in SQLite, released migrations lead to the same table."""
    migrated, created = (create_engine(f"sqlite:///{tmp_path}/{name}.db") for name in ("migrated", "created"))
    database = sqlite3.connect(tmp_path / "migrated.db", isolation_level=None)
    prepare(database, "sqlite:///x", create=True, timeout=1)
    database.close()
    METADATA.create_all(created)

    facts = []
    for engine in (migrated, created):
        found = inspect(engine)
        for table in METADATA.tables:
            columns = [(one["name"], str(one["type"]), one["nullable"]) for one in found.get_columns(table)]
            keys = found.get_pk_constraint(table)["constrained_columns"]
            indexes = [
                (one["name"], one["column_names"], str(one["dialect_options"].get("sqlite_where", "")))
                for one in found.get_indexes(table)
            ]
            facts.append((engine.url.database[-10:], table, sorted(columns), keys, indexes))
        with engine.connect() as connection:
            triggers = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'trigger'").scalars()
            facts.append((engine.url.database[-10:], sorted(triggers)))
        engine.dispose()

    half = len(facts) // 2
    assert [fact[1:] for fact in facts[:half]] == [fact[1:] for fact in facts[half:]]
    assert len(facts[-1][1]) == 2


async def test_a_store_that_is_open_for_reading_changes_nothing(url):
    """It needs no write permission, so it says what it cannot do."""
    one = letter()
    store = await opened(url)
    await store.add([one])
    await store.aclose()
    store = await opened(url, create=False, read_only=True)

    for change in (store.update([one.id], state="parked"), store.delete(DeadLetterQuery())):
        with pytest.raises(StoreError, match="open for reading only"):
            await change

    assert await store.count(DeadLetterQuery(), by=("state",)) == {("waiting",): 1}
    await store.aclose()


async def test_an_update_that_fails_changes_nothing(url):
    """A lock of another process is reported, and the same update works when it is gone."""
    letters = [letter() for _ in range(3)]
    store = await opened(url, busy_seconds=0.05)
    await store.add(letters)
    other = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    with pytest.raises(StoreError, match="another process holds its lock"):
        await store.update([one.id for one in letters], state="parked")
    with pytest.raises(StoreError, match="another process holds its lock"):
        await store.delete(DeadLetterQuery())
    other.close()

    assert await store.count(DeadLetterQuery(), by=("state",)) == {("waiting",): 3}
    assert await store.update([one.id for one in letters], state="parked") == 3
    assert await store.delete(DeadLetterQuery(state="parked")) == 3
    await store.aclose()


@pytest.mark.parametrize("url", ["sqlite:///", "sqlite:///:memory:", "postgresql://x"])
def test_a_url_without_a_file_is_refused(url):
    """SQLite's own memory would be lost silently."""
    with pytest.raises(FlowDefinitionError):
        SqliteStore(url)


def test_the_law_can_be_reached_by_url(url):
    """`create_store` gives this store for its URL."""
    assert isinstance(create_store(url), SqliteStore)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("sqlite:///${HIDDEN}/none/a.db", "there is no folder ${HIDDEN}/none; create it"),
        ("sqlite:///${HIDDEN}", "${HIDDEN} is a folder; name a file in it"),
        ("sqlite:///${HIDDEN}/no.db", "it is not a SQLite database"),
        ("${WHOLE}", "there is no folder for it; create it"),
    ],
)
async def test_errors_name_a_url_as_it_was_written(tmp_path, url, reason, monkeypatch, separate):
    """What a variable holds may be a secret."""
    monkeypatch.setenv("HIDDEN", str(tmp_path))
    monkeypatch.setenv("WHOLE", f"sqlite:///{tmp_path}/none/a.db")
    (tmp_path / "no.db").write_bytes(b"no database" * 100)

    with pytest.raises(StoreError) as caught:
        await create_store(url, separate_writer=separate).open()

    assert f"dead-letter store {url}: {reason}" in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


async def test_a_store_that_is_missing_is_named_as_it_was_written(tmp_path, monkeypatch):
    """As every other that cannot be opened."""
    monkeypatch.setenv("HIDDEN", str(tmp_path))
    with pytest.raises(StoreMissing, match=r"no dead letters at sqlite:///\$\{HIDDEN\}/a.db;"):
        await create_store("sqlite:///${HIDDEN}/a.db", create=False).open()


def test_a_connection_that_may_not_write_is_made_anew(tmp_path):
    """SQLite opens what may not be written for reading only, and such a connection stays so when the right is given."""
    place = WriterConfig(os.fsencode(tmp_path / "letters.db"), f"sqlite:///{tmp_path}/letters.db", True, 1.0)
    writer = Writer(place)
    writer.open()
    writer._database.execute("PRAGMA query_only = 1")
    columns = to_columns([letter()])

    (error,) = writer.write([columns], refresh=False)
    assert "readonly" in str(error)
    assert writer.write([columns], refresh=False) == [None]
    assert writer.statistics.counts == {"waiting": 1}
    writer.close()


def test_a_database_that_may_not_be_written_is_refused_when_it_is_opened(tmp_path):
    """Not with the first letter; to read it is enough to be allowed to read."""
    path = tmp_path / "letters.db"
    prepare(sqlite3.connect(path, isolation_level=None), "sqlite:///x", create=True, timeout=1)
    reading = sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)

    prepare(reading, "sqlite:///x", create=False, timeout=1)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        prepare(reading, "sqlite:///x", create=True, timeout=1)


async def test_the_database_rejects_changes_of_the_audit(url):
    """Records can only be added, with whatever tool."""
    store = await opened(url)
    await store.purge(DeadLetterQuery(), Requester("me"))
    await store.aclose()

    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as database:
        for statement in ("UPDATE audit SET requester = 'you'", "DELETE FROM audit"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                database.execute(statement)
        assert database.execute("SELECT requester FROM audit").fetchall() == [("me",)]


def test_each_new_letter_is_put_into_the_outbox_once(tmp_path):
    """For each copy, in the commit of the letter; without copies the outbox stays empty."""
    for copies in ((), ("kafka://a/b", "s3://c")):
        path = tmp_path / f"{len(copies)}.db"
        writer = Writer(WriterConfig(os.fsencode(path), "sqlite:///x", True, 1.0))
        writer.copies = copies
        writer.open()
        letters = [letter() for _ in range(3)]
        assert writer.write([to_columns(letters[:2])], refresh=False) == [None]
        assert writer.write([to_columns(letters), to_columns(letters[1:])], refresh=False) == [None, None]
        writer.close()

        with closing(sqlite3.connect(path)) as database:
            found = database.execute("SELECT copy, letter_id FROM copies").fetchall()
        assert sorted(found) == sorted((copy, one.id) for copy in copies for one in letters)


async def test_a_redriven_letter_with_a_header_is_stored_with_both(url, separate):
    """Most letters have neither, and are inserted without these columns."""
    store = await opened(url, separate_writer=separate)
    letters = [letter(header="a;b"), letter(redrives=3), letter()]
    await store.add(letters)
    await store.add([plain := letter()])

    assert [await store.get(one.id) for one in (*letters, plain)] == [*letters, plain]
    await store.aclose()


class CountingStore(SqliteStore):
    """Counts transactions."""

    writes = 0

    async def _write(self, operation):
        self.writes += 1
        return await super()._write(operation)


async def test_retention_of_a_flow_does_not_search_the_letters_of_others(url):
    """However many old ones these have. All letters of the flow that are too old are deleted."""
    old = now() - timedelta(days=1)
    store = CountingStore(url)
    await store.open()
    others = [letter(flow="other", seq=seq, id=id_at(old)[:-5] + f"{seq:05}", failed_at=old) for seq in range(7000)]
    mine = [
        letter(seq=seq, type=f"T{seq % 50}", id=id_at(old)[:-5] + f"{seq:05}", failed_at=old)
        for seq in range(7000, 9500)
    ]
    await store.add(others + mine)
    store.writes = 0

    assert await store.expire({"waiting": 60.0}, flow="f") == 2500

    assert store.writes <= 6
    assert await store.count(DeadLetterQuery(), by=("flow",)) == {("other",): 7000}
    await store.aclose()


async def test_the_sets_of_ended_jobs_are_deleted_without_any_retention(url, tmp_path):
    """A little with each call of `release_expired`."""
    store = SqliteStore(url)
    await store.open()
    await store.add([letter(seq=seq) for seq in range(2500)])
    job = await store.create_job(DeadLetterQuery(), JobOptions(), Requester("me"))
    await store.change_job(job.id, Requester("me"), state="cancelled")

    for left in (500, 0, 0):
        await store.release_expired()
        with closing(sqlite3.connect(tmp_path / "letters.db")) as connection:
            assert connection.execute("SELECT count(*) FROM job_letters").fetchone() == (left,)
    assert (await store.job(job.id)).counts.total == 2500
    await store.aclose()


async def test_a_long_search_does_not_delay_changes(url):
    """The leases of a redrive are extended meanwhile."""
    store = await opened(url)
    await store.add([letter()])
    job = await store.create_job(DeadLetterQuery(), JobOptions(), Requester("me"))
    begun, released = threading.Event(), threading.Event()
    search = asyncio.create_task(store._read(lambda _: begun.set() or released.wait(HANG_SECONDS)))
    try:
        assert await asyncio.to_thread(begun.wait, HANG_SECONDS)
        async with asyncio.timeout(HANG_SECONDS / 2):
            assert await store.acquire_job(job.id, "one") is not None
        assert not search.done()
    finally:
        released.set()
    assert await search
    await store.aclose()
