"""Copies of a store get every letter, later and at least once, and never delay the store."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from penstock import Flow, from_iterable
from penstock.deadletters import DeadLetter, DeadLetterQuery, MemoryStore, Stores, create_store
from penstock.deadletters import stores as stores_module
from penstock.deadletters.copies import BATCH, Copier, Copies
from penstock.deadletters.dead_letter_queue import Requester
from penstock.deadletters.memory_outbox import MemoryOutboxStore
from penstock.deadletters.target import DeadLetterTarget
from penstock.errors import FlowDefinitionError, StoreError
from penstock.results import DiscardResults
from penstock.runtime import Supervisor
from penstock.support.ids import id_at
from servers import PostgresServer, running
from stores.letters import letter, opened
from waiting import until_async

YESTERDAY = datetime.now(UTC) - timedelta(days=1)


class Copy(MemoryStore):
    """A copy that can be unavailable, and that cannot store letters of one kind."""

    def __init__(self) -> None:
        super().__init__()
        self.available = True
        self.hangs = False

    async def open(self) -> None:
        """Connect."""
        self.check()

    async def add(self, letters: Sequence[DeadLetter]) -> None:
        """Store letters."""
        self.check()
        if self.hangs:
            await asyncio.get_running_loop().create_future()
        if any(one.message == "too large" for one in letters):
            raise StoreError("a letter is too large")
        await super().add(letters)

    def check(self) -> None:
        """Raise if the copy is unavailable."""
        if not self.available:
            raise StoreError("no connection")

    def stored(self) -> int:
        """Return how many letters it has."""
        return sum(self.statistics().counts.values())


def copier_of(primary: MemoryOutboxStore, copy: Copy, **options: Any) -> Copier:
    """Return a running copier."""
    primary.copies = ("copy",)
    copier = Copier(primary, "copy", lambda: copy, **options)
    copier.start()
    return copier


async def test_a_copy_gets_every_letter() -> None:
    """Those that were stored before it started and those that come later, each once, in batches."""
    primary, copy = MemoryOutboxStore(), Copy()
    primary.copies = ("copy",)
    letters = [letter(seq=seq) for seq in range(2 * BATCH + 1)]
    await primary.add(letters)
    copier = copier_of(primary, copy)
    await until_async(lambda: copy.stored() == len(letters))
    await primary.add([letter()])
    await until_async(lambda: copy.stored() == len(letters) + 1)
    await copier.aclose()
    assert copy.statistics().commits == 4
    assert copier.statistics().delivered == len(letters) + 1
    assert await primary.count_uncopied() == {"copy": 0}


async def test_an_unavailable_copy_does_not_delay_the_store_and_catches_up() -> None:
    """Its letters are counted meanwhile; that it failed and that it is back is logged once each."""
    primary, copy = MemoryOutboxStore(), Copy()
    copy.available = False
    with capture_logs() as events:
        copier = copier_of(primary, copy)
        for _ in range(20):
            await asyncio.wait_for(primary.add([letter()]), 1)
        await until_async(lambda: copier.statistics().failed >= 2)
        assert not copier.statistics().available
        copy.available = True
        await until_async(lambda: copy.stored() == 20)
        await until_async(lambda: copier.statistics().available)
        await copier.aclose()
    assert [event["event"] for event in events] == ["copy.unavailable", "copy.recovered"]
    assert copier.statistics().behind == 0


async def test_a_copy_that_hangs_is_tried_again() -> None:
    """After half of the lease, before another process may deliver the letters too."""
    primary, copy = MemoryOutboxStore(), Copy()
    copy.hangs = True
    copier = copier_of(primary, copy, lease=0.2)
    await primary.add([letter()])
    await until_async(lambda: copier.statistics().failed >= 1)
    copy.hangs = False
    await until_async(lambda: copy.stored() == 1)
    await copier.aclose()


async def test_a_letter_that_the_copy_rejects_does_not_block_the_others() -> None:
    """It stays in the outbox, is tried again and counts as behind."""
    primary, copy = MemoryOutboxStore(), Copy()
    primary.copies = ("copy",)
    await primary.add([letter(), letter(message="too large"), *(letter() for _ in range(100))])
    copier = copier_of(primary, copy)
    await until_async(lambda: copy.stored() == 101)
    await copier.aclose()
    assert await primary.count_uncopied() == {"copy": 1}


async def test_closing_delivers_what_it_can_and_ends_in_time() -> None:
    """Letters stored just before are delivered; a copy that hangs does not delay the end beyond its limit."""
    primary, copy = MemoryOutboxStore(), Copy()
    copier = copier_of(primary, copy)
    await asyncio.sleep(0)
    await primary.add([letter() for _ in range(BATCH + 1)])
    await copier.aclose()
    assert copy.stored() == BATCH + 1

    copy.hangs = True
    with capture_logs() as events:
        copier = copier_of(primary, copy)
        await primary.add([letter()])
        await asyncio.wait_for(copier.aclose(), 10)
    assert [event["event"] for event in events] == ["copy.letters_pending"]
    assert await primary.count_uncopied() == {"copy": 1}


async def test_a_letter_that_was_deleted_needs_no_copy() -> None:
    """It is forgotten."""
    primary, copy = MemoryOutboxStore(), Copy()
    primary.copies = ("copy",)
    await primary.add([letter(flow="gone"), letter()])
    await primary.delete(stores_module.DeadLetterQuery(flow="gone"))
    copier = copier_of(primary, copy)
    await until_async(lambda: copy.stored() == 1)
    await copier.aclose()
    assert await primary.count_uncopied() == {"copy": 0}


async def test_a_store_has_the_copies_of_all_flows_that_name_it() -> None:
    """A copy ends with the last of them; its letters wait in the outbox until it is a copy again."""
    made: dict[str, Copy] = {}
    primary = MemoryOutboxStore()
    copies = Copies(primary, lambda url: made.setdefault(url, Copy()))
    copies.add(["kafka://a:secret@host/one", "kafka://host/two"])
    copies.add(["kafka://host/two"])
    assert primary.copies == ("kafka://host/one", "kafka://host/two")
    await copies.retain(["kafka://host/two"])
    await primary.add([letter()])
    await until_async(lambda: "kafka://host/two" in made and made["kafka://host/two"].stored() == 1)
    assert primary.copies == ("kafka://host/two",)
    assert "kafka://a:secret@host/one" not in made
    await copies.aclose()


async def test_a_flow_names_its_store_and_copies(tmp_path: Path) -> None:
    """`Stores` opens both; the copy is not one of the stores that are listed."""
    stores = Stores()
    url = f"sqlite:///{tmp_path}/copy.db"
    target = DeadLetterTarget("memory", (url,))
    assert stores.opened(target) is None
    store = await stores.get(target)
    assert stores.opened(target) is store
    assert stores.opened("memory") is store
    assert stores.all() == [store]
    await store.add([letter(), letter()])
    await until_async(lambda: stores.copies()["memory:", url].delivered == 2)
    await stores.close(target)
    assert stores.copies() == {}
    await stores.aclose()

    copy = stores_module.create_store(url)
    await copy.open()
    assert copy.statistics().counts == {"waiting": 2}
    await copy.aclose()


async def test_an_unavailable_copy_does_not_keep_a_flow_from_starting(tmp_path: Path) -> None:
    """The store is open at once; the copy is tried again and again."""
    stores = Stores()
    target = DeadLetterTarget("memory", (f"sqlite:///{tmp_path}/missing/copy.db",))
    store = await stores.get(target)
    await store.add([letter()])
    await until_async(lambda: [each.failed > 1 for each in stores.copies().values()] == [True])
    await stores.aclose()


async def test_a_log_cannot_have_copies() -> None:
    """It does not record which letters were copied."""
    stores = Stores()

    class Log(MemoryStore):
        editable = False

    log = Log()
    await stores.get(log)
    stores._stores["s3://bucket/letters"] = log
    with pytest.raises(FlowDefinitionError, match="a log does not record which letters were copied"):
        await stores.get(DeadLetterTarget("s3://bucket/letters", ("memory",)))


def refuse(value: Any) -> Any:
    """A step that fails."""
    raise ValueError(value)


async def test_the_letters_of_a_run_are_copied(tmp_path: Path) -> None:
    """Those that could not be delivered before its end stay in the outbox.

    So do those of a batch that was stored while the run ended, before that was recorded; they are copied again later.
    """
    store, *copies = (f"sqlite:///{tmp_path}/{name}.db" for name in ("letters", "first", "second"))
    flow = Flow[Any]("f").map(refuse).dead_letters(store, copy=copies)
    summary = await flow.start(from_iterable(range(700)), DiscardResults()).finished
    assert summary.failed == 700
    primary = await opened(store)
    uncopied = await primary.count_uncopied()
    await primary.aclose()
    for url in copies:
        copy = await opened(url)
        copied = copy.statistics().counts.get("waiting", 0)
        assert 700 - copied <= uncopied.get(url, 0) <= 700
        assert copied <= 700
        await copy.aclose()


@pytest.mark.parametrize("separate", [False, True], ids=["thread", "process"])
async def test_copies_follow_the_flows_of_a_service(tmp_path: Path, separate: bool) -> None:
    """A new revision may add one or end one while the service runs."""
    store, *copies = (f"sqlite:///{tmp_path}/{name}.db" for name in ("letters", "first", "second"))
    supervisor = Supervisor(separate_writer=separate)
    plain = Flow[Any]("f").map(refuse).dead_letters(store)
    revisions = [plain, *(Flow[Any]("f").map(refuse).dead_letters(store, copy=[copy]) for copy in copies)]
    before: Flow[Any] | None = None
    for revision in revisions:
        await supervisor.add(revision)
        if before is not None:
            await supervisor.remove(before, [revision])
        before = revision
        await supervisor.start(revision, from_iterable(range(20)), DiscardResults()).finished
        await until_async(lambda: all(each.delivered == 20 for each in supervisor.stores.copies().values()))
    primary = supervisor.stores.all()[0]
    assert primary.statistics().counts == {"waiting": 60}
    assert list(supervisor.stores.copies()) == [(store, copies[1])]
    await supervisor.stores.aclose()
    for url in copies:
        copy = await opened(url)
        assert copy.statistics().counts == {"waiting": 20}
        await copy.aclose()


@pytest.mark.parametrize("store", ["memory", "sqlite", "postgres"])
async def test_letters_that_a_copy_needs_do_not_expire_and_a_purge_says_how_many_it_deletes(
    store: str, tmp_path: Path
) -> None:
    """They expire once the copy has them. A copy that the store no longer has needs none."""
    urls = {"sqlite": lambda: f"sqlite:///{tmp_path}/letters.db", "postgres": running(PostgresServer).new_schema}
    queue: Any = MemoryOutboxStore() if store == "memory" else create_store(urls[store]())
    await queue.open()
    queue.copies = ("copy",)
    letters = [letter(seq=seq, failed_at=YESTERDAY, started_at=YESTERDAY, id=id_at(YESTERDAY)[:-2] + f"{seq:02}")
               for seq in range(5)]  # fmt: skip
    await queue.add(letters)

    assert await queue.expire({"waiting": 60.0}, max=2) == 0
    assert await queue.expire({}, max=0, flow="f") == 0
    assert await queue.expire({"waiting": 60.0}, flow="f") == 0
    await queue.mark_copied("copy", [letters[0].id, letters[1].id])
    assert await queue.expire({"waiting": 60.0}, flow="f") == 2
    assert await queue.purge(DeadLetterQuery(ids=(letters[2].id,)), Requester("me")) == 1
    assert next(each.outcome for each in await queue.audit()) == "done, 1 before they were copied"
    queue.copies = ()
    assert await queue.expire({}, max=0) == 2
    await queue.aclose()
