"""Processes of one service write to one file: lines stay complete, and what was reported stays, whoever is killed."""

import asyncio
import csv
import errno
import gzip
import io
import json
import os
import signal
from collections import Counter
from pathlib import Path

import pytest

from flows.sibling_writing import BATCH, writing
from penstock.errors import SinkLocked, SinkWriteFailed
from penstock.sinks import FileSink, file_keeper
from penstock.sinks.file_keeper import FileKeeper
from penstock.sinks.siblings import FILE_LOCKS, FILES, Siblings, use_siblings
from penstock.sinks.torn_tail import FileFingerprint
from waiting import HANG_SECONDS


@pytest.fixture
async def keeper():
    keeper = FileKeeper()
    yield keeper
    await keeper.aclose()


async def line_of(process):
    return (await asyncio.wait_for(asyncio.to_thread(process.stdout.readline), HANG_SECONDS)).decode()


async def until_line(process, last):
    """The lines of a process up to one, or up to its end."""
    found = []
    while (line := await line_of(process)) and line != f"{last}\n":
        found.append(line.strip())
    return found


async def ended(process):
    """The exit code of a process, which waits for the parent when it closes its files."""
    return await asyncio.to_thread(process.wait, HANG_SECONDS)


def go_on(process):
    process.stdin.write(b"\n")
    process.stdin.flush()


def ids_in(path):
    """The ids of all values in a file, each line of which is complete; a header occurs once."""
    data = Path(path).read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    assert text.endswith("\n")
    if ".csv" not in path.name:
        return [json.loads(line)["id"] for line in text.splitlines()]
    rows = list(csv.reader(io.StringIO(text, newline="")))
    assert rows[0] == ["id", "text"]
    assert all(len(row) == 2 and row[1] == "x" * 100 for row in rows[1:])
    return [row[0] for row in rows[1:]]


@pytest.mark.parametrize("name", ["out.ndjson", "out.csv.gz"])
async def test_a_process_is_killed_within_a_write_and_its_siblings_go_on(tmp_path, keeper, name):
    """What it had reported stays, the rest of its write is moved away, and another service is locked out meanwhile."""
    path = tmp_path / name
    with (
        writing(keeper, 1, path, 1000, dies_at=20) as victim,
        writing(keeper, 2, path, 60) as survivor,
    ):
        for process in (victim, survivor):
            assert await line_of(process) == "open\n"
        for process in (victim, survivor):
            go_on(process)
        reported = await until_line(victim, "done") + await until_line(survivor, "done")
        assert await ended(victim) == -signal.SIGKILL
        keeper.detach(1)
        with pytest.raises(SinkLocked):
            await FileSink(path).open()
        with writing(keeper, 1, path, 5) as successor:  # the file is open, and the header is there
            await line_of(successor)
            go_on(successor)
            reported += await until_line(successor, "done")
            go_on(successor)
            assert await ended(successor) == 0
        go_on(survivor)
        assert await ended(survivor) == 0

    found = Counter(ids_in(path))
    assert found == Counter(reported)
    assert len(reported) == (19 + 60 + 5) * BATCH
    assert path.with_name(f"{name}.torn").stat().st_size > 0
    other = FileSink(path)
    await other.open()
    await other.aclose()


async def test_a_process_that_was_killed_last_leaves_an_end_that_the_next_one_moves_away(tmp_path, keeper):
    """No sibling had the file open, so the next process checks it as a service that starts does."""
    path = tmp_path / "out.ndjson"
    with writing(keeper, 1, path, 2, dies_at=2) as victim:
        go_on(victim)
        reported = (await until_line(victim, "done"))[1:]
    keeper.detach(1)
    with writing(keeper, 2, path, 1) as successor:
        go_on(successor)
        reported += (await until_line(successor, "done"))[1:]
        go_on(successor)
        assert await ended(successor) == 0

    found = ids_in(path)
    assert set(reported) <= set(found)
    assert len(set(found)) == len(found)


async def test_siblings_write_to_one_pipe_and_one_is_killed_within_a_line(keeper):
    """Only that line is incomplete, the header occurs once, and lines longer than a pipe takes are complete."""
    ours, theirs = os.pipe()
    with (
        open(ours, "rb") as pipe,
        writing(keeper, 1, theirs, 20, dies_at=10) as victim,
        writing(keeper, 2, theirs, 20) as survivor,
    ):
        os.close(theirs)
        reading = asyncio.get_running_loop().run_in_executor(None, pipe.read)
        for process in (victim, survivor):
            assert await line_of(process) == "open\n"
        for process in (victim, survivor):
            go_on(process)
        reported = await until_line(victim, "done") + await until_line(survivor, "done")
        go_on(survivor)
        assert await ended(survivor) == 0
        lines = (await reading).decode().splitlines()

    complete = [row[0] for row in csv.reader(lines) if len(row) == 2 and row[1] == "x" * 10_000]
    assert sorted(complete) == sorted(reported)
    assert lines[0] == "id,text"
    assert len(lines) == 1 + len(complete) + 1


async def test_a_file_that_siblings_have_open_is_free_for_a_flow_that_is_deployed(tmp_path, keeper):
    """The check of sinks before a deployment asks the parent whose lock it is."""
    path = tmp_path / "out.ndjson"
    with writing(keeper, 1, path, 1) as sibling:
        await line_of(sibling)
        with pytest.raises(SinkLocked):
            FileSink(path).check(locks=True)
        descriptors = keeper.attach(2)
        use_siblings(siblings := Siblings(descriptors[FILES], descriptors[FILE_LOCKS]))
        try:
            await asyncio.to_thread(FileSink(path).check, locks=True)
        finally:
            use_siblings(None)
            siblings.close()


async def test_an_error_of_a_file_system_leaves_no_process_waiting_and_no_file_locked(tmp_path, keeper, monkeypatch):
    """The state of a file can be unknown: on a network, the file may be gone. The process gets the error."""

    def fail(_: int) -> None:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    path = tmp_path / "out.ndjson"
    descriptors = keeper.attach(1)
    siblings = Siblings(descriptors[FILES], descriptors[FILE_LOCKS])
    with path.open("ab") as file:
        with monkeypatch.context() as patched:
            patched.setattr(file_keeper, "identity_of", fail)
            async with asyncio.timeout(HANG_SECONDS):
                with pytest.raises(SinkWriteFailed, match=os.strerror(errno.ESTALE)):
                    await asyncio.to_thread(siblings.acquire, file.fileno(), "out", "ndjson")
                assert not await asyncio.to_thread(siblings.hold, file.fileno())
        first = await asyncio.to_thread(siblings.acquire, file.fileno(), "out", "ndjson")
        with monkeypatch.context() as patched:
            patched.setattr(FileFingerprint, "of", fail)
            os.close(first.descriptor)
            await asyncio.to_thread(first.release)
        second = await asyncio.to_thread(siblings.acquire, file.fileno(), "out", "ndjson")
        assert (second.slot, os.fstat(second.descriptor).st_ino) == (first.slot, os.fstat(file.fileno()).st_ino)
        os.close(second.descriptor)
    siblings.close()
