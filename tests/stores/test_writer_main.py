"""What goes over the line to the process that writes letters: it means there what it would mean here."""

import asyncio
import os
import re
import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import msgpack

from penstock.deadletters.sqlite.errors import to_store_error
from penstock.deadletters.sqlite.writer_main import (
    ErrorMessage,
    deserialize_error,
    encode_frame,
    serialize_error,
    split_frames,
)
from penstock.errors import StoreError, StoreFileReplaced, StoreMissing, StoreTooNew
from stores.letters import letter, opened
from stores.shared_writing import sharing
from waiting import HANG_SECONDS


def no_database(folder):
    (folder / "letters.db").write_bytes(b"this is no database, " * 100)


def too_new(folder):
    database = sqlite3.connect(folder / "letters.db")
    database.executescript(
        "CREATE TABLE letters_schema (version, applied_at); INSERT INTO letters_schema VALUES (9, '')"
    )
    database.close()


def of_something_else(folder):
    database = sqlite3.connect(folder / "letters.db")
    database.execute("CREATE TABLE theirs (a)")
    database.close()


def locked(folder):
    database = sqlite3.connect(folder / "letters.db", isolation_level=None)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("BEGIN IMMEDIATE")
    return database


@pytest.mark.parametrize(
    ("prepare", "place", "create", "kind"),
    [
        (no_database, "{}/letters.db", True, StoreError), (too_new, "{}/letters.db", True, StoreTooNew),
        (of_something_else, "{}/letters.db", False, StoreMissing), (locked, "{}/letters.db", True, StoreError),
        (None, "{}/letters.db", False, StoreMissing), (None, "{}", True, StoreError),
        (None, "{}/none/letters.db", True, StoreError), (None, "/proc/letters.db", True, StoreError),
    ],
)  # fmt: skip
async def test_what_cannot_be_opened_is_told_alike_by_thread_process_and_parent(tmp_path, prepare, place, create, kind):
    """Kind, words and facts of an error do not depend on who writes."""
    held = prepare and prepare(tmp_path)
    told = []
    url = f"sqlite:///{place.format(tmp_path)}"
    async with sharing() as (_, writers):
        for writer in ({}, {"separate_writer": True}, {"make_writer": writers.make}):
            with pytest.raises(StoreError) as caught:
                await opened(url, create=create, busy_seconds=0.05, **writer)
            told.append((type(caught.value), str(caught.value), vars(caught.value), type(caught.value.__cause__)))

    assert told[0] == told[1] == told[2]
    assert told[0][0] is kind
    if held:
        held.close()


async def test_a_letter_that_cannot_be_kept_fails_alone_and_alike(url, before):
    """Numbers that the wire has no room for, or only SQLite has none, are told like those that a thread was given."""
    told = []
    async with sharing() as (_, writers):
        for number, writer in enumerate(({}, {"separate_writer": True}, {"make_writer": writers.make})):
            store = await opened(f"{url}.{number}", **writer)
            calls = [[letter()], [letter(seq=2**63)], [letter(seq=2**70)], [letter(flow="\udc80")], [letter()]]
            told.append(await asyncio.gather(*(store.add(call) for call in calls), return_exceptions=True))
            assert store.statistics().counts == {"waiting": 2}
            await store.aclose()

    for error in told[0][1:4] + told[1][1:4] + told[2][1:4]:
        assert re.search(r"dead-letter store .+: a letter contains a value that SQLite cannot store \(.+\)", str(error))
    assert [each is None for each in told[1]] == [True, False, False, False, True]
    assert [each is None for each in told[2]] == [True, False, False, False, True]


@pytest.mark.parametrize(
    "error",
    [
        sqlite3.OperationalError("disk I/O error"), sqlite3.DatabaseError("file is not a database"),
        sqlite3.IntegrityError("NOT NULL"), sqlite3.ProgrammingError("closed"), sqlite3.InterfaceError("bad"),
        PermissionError(13, "Permission denied", "x"), OSError("odd"), OverflowError("too large"), MemoryError(),
        UnicodeEncodeError("utf-8", "\udc80", 0, 1, "surrogates not allowed"), ValueError("embedded null byte"),
        StoreMissing("sqlite:///x"), StoreFileReplaced("sqlite:///x"), StoreTooNew("sqlite:///x", 9, 2),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
@pytest.mark.parametrize("code", ["", "SQLITE_FULL", "SQLITE_CANTOPEN_ISDIR"])
def test_errors_mean_the_same_after_their_journey(tmp_path, error, code):
    """What is told of an error that was sent is what would have been told of the error itself."""
    if isinstance(error, sqlite3.Error) and code:
        error.sqlite_errorname = code

    (message,) = split_frames(bytearray(encode_frame(serialize_error(error))))
    arrived = deserialize_error(msgpack.decode(message, type=ErrorMessage))

    assert str(to_store_error(arrived, "sqlite:///x", tmp_path / "x")) == str(
        to_store_error(error, "sqlite:///x", tmp_path / "x")
    )
    assert isinstance(error, type(arrived))


@given(st.lists(st.binary(max_size=40), max_size=5), st.lists(st.integers(1, 30), min_size=1))
def test_messages_arrive_whole_however_they_are_split_frames(messages, sizes):
    """The line cuts bytes as it likes."""
    stream = b"".join(encode_frame(message) for message in messages)
    held, found = bytearray(), []
    while stream:
        size = sizes[len(found) % len(sizes)]
        held += stream[:size]
        stream = stream[size:]
        found += split_frames(held)

    assert found == [encode_frame(message)[4:] for message in messages]
    assert not held


async def test_letters_larger_than_the_line_go_through_it(url):
    """Megabytes of several callers at once."""
    store = await opened(url, separate_writer=True)
    calls = [[letter(seq=n, input=os.urandom(1 << 22)) for n in range(size)] for size in (1, 3, 2)]
    adding = [asyncio.ensure_future(store.add(call)) for call in calls]
    async with asyncio.timeout(HANG_SECONDS):
        await asyncio.gather(*adding)

    for one in (one for call in calls for one in call):
        assert await store.get(one.id) == one
    await store.aclose()


async def test_hundreds_of_callers_at_once_share_commits_in_the_process(url):
    """Whatever comes while one commit is under way makes the next ones."""
    store = await opened(url, separate_writer=True)
    calls = [[letter(seq=n) for n in range(size % 7)] for size in range(700)]

    await asyncio.gather(*(store.add(call) for call in calls))

    assert store.statistics().stored == sum(map(len, calls)) == store.statistics().counts["waiting"]
    assert store.statistics().commits < 10
    await store.aclose()


async def test_a_file_whose_name_is_no_text_can_be_written(tmp_path):
    """Names of files are bytes."""
    name = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.db")
    store = await opened(f"sqlite:///{name}", separate_writer=True)
    await store.add([letter()])
    await store.aclose()

    assert os.path.exists(name)


async def test_texts_of_classes_of_their_own_are_stored_as_texts(url):
    """An error may say what it has to say in any kind of text."""

    class Loud(str):
        def __str__(self):
            return self.upper()

    store, one = await opened(url, separate_writer=True), letter(message=Loud("late"))
    await store.add([one])

    found = await store.get(one.id)

    assert found.message == "late"
    await store.aclose()
