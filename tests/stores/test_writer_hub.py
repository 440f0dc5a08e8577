"""Processes of a service store letters through one writer: if one of them ends or stops, nothing reported is lost."""

import asyncio
import os
import signal
import sqlite3
import threading
from contextlib import closing
from unittest.mock import patch

import pytest

from penstock.deadletters import Stores
from penstock.deadletters.sqlite.store import SqliteStore
from penstock.deadletters.sqlite.writer import Writer
from penstock.deadletters.target import DeadLetterTarget
from penstock.errors import StoreError, WriterCrashed
from stores.children import children_of, writers_of
from stores.letters import letter
from stores.shared_writing import joining, sharing, storing
from waiting import HANG_SECONDS, until_async


def stored_in(url):
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as database:
        return [row[0] for row in database.execute("SELECT id FROM letters")]


async def lines_of(process, at_least=1):
    """So many lines of a process, or all until it has ended."""

    def read():
        found = []
        for line in process.stdout:
            if not line.endswith(b"\n"):  # cut by a kill: it was not reported
                break
            found.append(line.decode().strip())
            if len(found) == at_least:
                break
        return found

    return await asyncio.wait_for(asyncio.to_thread(read), HANG_SECONDS)


async def test_processes_and_the_writer_are_killed_and_each_reported_letter_is_stored_once(url, before):
    """One process is killed, the writer is killed twice, and the other process stores all of its letters."""
    async with sharing() as (hub, _):
        with storing(hub, 2, url, 100_000) as victim, storing(hub, 3, url, 4000) as survivor:
            reported = await lines_of(victim, 200) + await lines_of(survivor, 200)
            for _ in range(2):
                (writer,) = writers_of(os.getpid())
                os.kill(writer, signal.SIGKILL)
                reported += await lines_of(victim, 200) + await lines_of(survivor, 200)
            victim.kill()
            reported += await lines_of(victim, 100_000) + await lines_of(survivor, 4000)
            assert survivor.wait(HANG_SECONDS) == 0

    stored = stored_in(url)
    assert len(reported) >= 4600
    assert set(reported) <= set(stored)
    assert len(set(stored)) == len(stored)
    assert children_of() == before


async def test_a_process_that_is_stopped_delays_no_other_one(url):
    """It holds no lock, and what it has not read stays with the hub. Afterwards it goes on."""
    async with sharing() as (hub, _):
        with storing(hub, 2, url, 2000) as stopped, storing(hub, 3, url, 2000) as other:
            early = await lines_of(stopped, 8)
            stopped.send_signal(signal.SIGSTOP)
            assert len(await lines_of(other, 2001)) == 2000
            stopped.send_signal(signal.SIGCONT)
            assert len(early + await lines_of(stopped, 2001)) == 2000


async def test_the_counters_of_all_processes_add_up(url):
    """A commit that several processes shared counts for one of them; the letters in the store are those of all."""
    async with sharing() as (_, writers):
        stores = [SqliteStore(url, make_writer=writers.make, refresh_seconds=0) for _ in range(3)]
        for store in stores:
            await store.open()
        await asyncio.gather(*(store.add([letter() for _ in range(50)]) for store in stores))
        await until_async(lambda: all(store.statistics().counts == {"waiting": 150} for store in stores))

        totals = stores[0].statistics() + stores[1].statistics() + stores[2].statistics()
        assert totals.stored == 150
        assert 1 <= totals.commits <= 2  # the first one starts the writer, and the others wait together
        assert totals.commit_seconds > 0
        for store in stores:
            await store.aclose()
        assert not writers_of(os.getpid())


async def test_a_process_whose_parent_is_gone_writes_its_last_letters_itself(url, before):
    """The call under way fails, because its letters may be stored; the next one stores them, and none twice."""
    async with sharing() as (hub, writers):
        store, batch = SqliteStore(url, make_writer=writers.make), [letter() for _ in range(10)]
        await store.open()
        await store.add(batch[:5])
        (writer,) = writers_of(os.getpid())
        os.kill(writer, signal.SIGSTOP)
        adding = asyncio.ensure_future(store.add(batch))
        await until_async(lambda: writers._waiting)
        hub.detach(1)
        with pytest.raises(WriterCrashed, match="the parent process ended"):
            await adding
        os.kill(writer, signal.SIGCONT)

        await store.add(batch)

        assert sorted(stored_in(url)) == sorted(one.id for one in batch)
        assert store.statistics().counts == {"waiting": 10}
        await store.aclose()


async def test_each_file_has_one_writer_however_it_is_named(url, tmp_path):
    """By its URL, as an object of a flow in Python, by a link, and as a copy of another store."""
    (tmp_path / "link.db").symlink_to(tmp_path / "letters.db")
    copy = f"sqlite:///{tmp_path}/copy.db"
    async with sharing() as (hub, writers), joining(hub, 2) as other:
        first, second = Stores(make_writer=writers.make), Stores(make_writer=other.make)
        stores = [
            await first.get(DeadLetterTarget(url, (copy,))),
            await first.get(SqliteStore(url)),
            await second.get(f"sqlite:///{tmp_path}/link.db"),
            await second.get(DeadLetterTarget(url, (copy,))),
        ]
        for store in stores:
            await store.add([letter()])
        await until_async(lambda: sum(c.delivered for each in (first, second) for c in each.copies().values()) == 4)
        assert len(writers_of(os.getpid())) == 2
        await first.aclose()
        await second.aclose()

    assert len(stored_in(url)) == 4
    assert sorted(stored_in(copy)) == sorted(stored_in(url))


async def test_a_database_that_cannot_be_opened_without_the_parent_leaves_no_thread(url, tmp_path):
    """The process tries again until it can store its last letters."""
    async with sharing() as (hub, writers):
        store = SqliteStore(url, make_writer=writers.make)
        await store.open()
        hub.detach(1)
        await until_async(lambda: not writers.is_open)
        before = threading.active_count()
        with patch.object(Writer, "open", side_effect=sqlite3.OperationalError("disk I/O error")):
            for _ in range(3):
                with pytest.raises(StoreError):
                    await store.add([letter()])
        await until_async(lambda: threading.active_count() <= before)
        await store.add([letter()])
        await store.aclose()
