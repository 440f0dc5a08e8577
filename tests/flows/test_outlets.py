"""Outlets: whole lines only, and values that cannot be written refused alone."""

from __future__ import annotations

import asyncio
import csv
import errno
import fcntl
import gzip
import io
import math
import os
import resource
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct
from structlog.testing import capture_logs

from flows.test_files import read, really
from penstock import Flow, from_async_iterable, from_iterable
from penstock.deadletters import DeadLetterQuery, MemoryStore
from penstock.errors import (
    ColumnMismatch,
    EncodingFailed,
    FlowDefinitionError,
    SinkAlreadyOpen,
    SinkConflict,
    SinkLocked,
    SinkWriteFailed,
)
from penstock.formats.format import Format
from penstock.formats.writers import CsvWriter
from penstock.results import DiscardResults
from penstock.runtime import Summary
from penstock.sinks import DiscardSink, FileSink, Sink, StdoutSink, check_sinks
from penstock.sinks.shared import LOCK_SECONDS, SharedSink
from penstock.sources import from_file
from penstock.testing import run as virtual

EVERY_NAME = ["a.ndjson", "a.csv", "a.ndjson.gz", "a.csv.gz"]
every_name = pytest.mark.parametrize("name", EVERY_NAME)


async def put(outlet: Sink, *writes: list[Any]) -> list[Any]:
    """Open, write, close; returns what each write answered."""
    await outlet.open()
    try:
        return [await outlet.write(values) for values in writes]
    finally:
        await outlet.aclose()


def written(path: Path) -> list[Any]:
    """The values of a file, as our own source reads them."""
    seen, summary, letters = read(from_file(path))
    assert (summary.reason, letters) == ("completed", [])
    return seen


def contents(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes()) if path.name.endswith("gz") else path.read_bytes()


VALUES = [{"id": str(number), "text": f'"{number}",\nä'} for number in range(1000)]


@every_name
def test_what_is_written_can_be_read(tmp_path: Path, name: str) -> None:
    """In several writes, by several openings: every value is there once, in order, and one header at most."""
    outlet = FileSink(tmp_path / name)
    for start in range(0, 1000, 250):
        middle = start + 100
        assert really(put(outlet, VALUES[start:middle], [], VALUES[middle : start + 250])) == [None, None, None]

    assert written(tmp_path / name) == VALUES
    assert contents(tmp_path / name).count(b"id,text") == (1 if "csv" in name else 0)


class Order(Struct):
    id: int
    found: dict[str, Any] | None = None


def test_rows_are_made_of_any_object_with_fields(tmp_path: Path) -> None:
    """Texts as they are, nothing as nothing, all else as JSON; the columns are as the fields say."""
    outlet = FileSink(tmp_path / "a.csv", fields=["found", "id"])
    really(put(outlet, [Order(1, {"price": 2.5}), {"id": "x", "found": True}, Order(2)]))

    assert contents(tmp_path / "a.csv") == b'found,id\r\n"{""price"":2.5}",1\r\ntrue,x\r\n,2\r\n'


def test_a_value_that_cannot_be_written_is_refused_alone(tmp_path: Path) -> None:
    """Those around it are written, and the refusal says which fields are too many or missing."""
    outlet = FileSink(tmp_path / "a.csv")
    ((first, *others),) = really(put(outlet, [7, {"a": 1}, {"a": 1, "b": 2}, {"b": 2}, {"a": "\ud800"}, {"a": 2}]))

    assert (type(first), str(first)) == (EncodingFailed, "the value cannot be written: " + ROW)
    assert [type(error) for error in others] == [type(None), ColumnMismatch, ColumnMismatch, EncodingFailed, type(None)]
    assert "the first value has the columns, but the value has also b; give all values equal fields" in str(others[1])
    assert "the value lacks a and has also b; " in str(others[2])
    assert written(tmp_path / "a.csv") == [{"a": "1"}, {"a": "2"}]


def test_a_value_with_more_fields_than_the_columns_that_were_asked_for_is_told_how_to_lose_them(tmp_path: Path) -> None:
    """To give every value the same fields would not help: all have too many."""
    (outcomes,) = really(put(FileSink(tmp_path / "a.csv", fields=["a"]), [{"a": 1, "b": 2}, {"a": 2}]))

    assert outcomes[1] is None
    assert str(outcomes[0]) == (
        "the columns are those of `fields` or of the header, but the value has also b; "
        "keep only the columns, with a step `map` before this one, or write NDJSON"
    )


ROW = "expected an object with fields for a CSV row"


def test_a_value_that_is_no_json_is_refused_alone(tmp_path: Path) -> None:
    """Those around it are written."""
    ((one, two, three),) = really(put(FileSink(tmp_path / "a.ndjson"), [1, object(), 3]))

    assert (one, type(two), three) == (None, EncodingFailed, None)
    assert contents(tmp_path / "a.ndjson") == b"1\n3\n"


@pytest.mark.parametrize("name", ["a.ndjson", "a.csv"])
@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf], ids=repr)
def test_a_number_that_json_cannot_hold_is_refused_alone(tmp_path: Path, name: str, number: float) -> None:
    """It would be written as `null`. What is nothing, and the text null, are written as ever."""
    values = [{"a": None}, {"a": number}, {"a": {"b": [number, None]}}, {"a": Order(1)}, {"a": "null"}, {"a": [None]}]
    ((one, *two, three, four, five),) = really(put(FileSink(tmp_path / name), values))

    assert [one, three, four, five] == [None] * 4
    assert [str(error) for error in two] == [
        f"the value cannot be written: {number!r} is not a number that JSON can represent"
    ] * 2
    assert len(contents(tmp_path / name).splitlines()) == 4 + name.endswith("csv")


@settings(max_examples=200, deadline=None)
@given(rows=st.lists(st.lists(st.text(st.sampled_from('a,"\r\n é')), min_size=2, max_size=2), min_size=1))
def test_rows_are_what_the_csv_module_reads(rows: list[list[str]]) -> None:
    """Whatever the texts are."""
    data, refusals = CsvWriter().write([{"a": first, "b": second} for first, second in rows])

    assert refusals is None
    assert list(csv.reader(io.StringIO(data.decode(), newline=""))) == [["a", "b"], *rows]


def test_the_columns_of_a_file_stay(tmp_path: Path) -> None:
    """What is appended follows the header that is there; other columns that are asked for are refused."""
    really(put(FileSink(tmp_path / "a.csv"), [{"a": 1, "b": 2}]))
    really(put(FileSink(tmp_path / "a.csv", fields=["b", "a"]), [{"b": 4, "a": 3}]))
    with pytest.raises(SinkWriteFailed, match="columns are a, b, expected c; name another file"):
        really(put(FileSink(tmp_path / "a.csv", fields=["c"]), [{"c": 3}]))

    assert written(tmp_path / "a.csv") == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]


@every_name
def test_a_full_disk_leaves_no_half_of_a_write(tmp_path: Path, name: str) -> None:
    """All values of that write are refused, the file holds what it held, and later writes go on behind it."""
    path = tmp_path / name
    outlet = FileSink(path)
    small = [{"id": "1", "text": "x"}]
    large = [{"id": "2", "text": os.urandom(100_000).hex()}]

    async def main() -> int:
        await outlet.open()
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        try:
            with pytest.raises(SinkWriteFailed, match="File too large"):
                await outlet.write(large)
            await outlet.write(small)
            size = path.stat().st_size
            with pytest.raises(SinkWriteFailed, match="File too large"):
                await outlet.write(large)
            assert path.stat().st_size == size
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, handler)
        await outlet.write(small)
        await outlet.aclose()
        return size

    really(main())
    assert written(path) == small * 2


@every_name
def test_half_a_write_that_cannot_be_taken_back_is_before_the_next_one(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that takes half of it and refuses even to cut it off: its values fail, and none is glued to that half."""
    well = os.write, os.ftruncate

    def refuse(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    def half(descriptor: int, data: memoryview) -> int:
        monkeypatch.setattr(os, "write", refuse)
        return well[0](descriptor, data[: len(data) // 2])

    async def main() -> None:
        outlet = FileSink(tmp_path / name)
        await outlet.open()
        monkeypatch.setattr(os, "write", half)
        monkeypatch.setattr(os, "ftruncate", refuse)
        for _ in range(2):
            with pytest.raises(SinkWriteFailed, match="Input/output error"):
                await outlet.write([{"id": "1"}])
        monkeypatch.setattr(os, "write", well[0])
        monkeypatch.setattr(os, "ftruncate", well[1])
        await outlet.write([{"id": "2"}])
        await outlet.aclose()

    really(main())
    assert written(tmp_path / name) == [{"id": "2"}]


def test_a_compressed_file_can_be_read_while_it_is_written(tmp_path: Path) -> None:
    """Up to the last write."""

    async def main() -> bytes:
        outlet = FileSink(tmp_path / "a.ndjson.gz")
        await outlet.open()
        await outlet.write([1, 2])
        found = gzip.open(tmp_path / "a.ndjson.gz").read1(100)  # noqa: SIM115
        await outlet.aclose()
        return found

    assert asyncio.run(main()) == b"1\n2\n"


@pytest.mark.parametrize(
    ("name", "reason"),
    [("none/a.ndjson", "the folder .*none does not exist"), ("folder.csv", "directory"), ("pipe.csv", "not a regular")],
)
def test_a_file_that_cannot_be_opened_says_why(tmp_path: Path, name: str, reason: str) -> None:
    """With the way out, and nothing is left open."""
    (tmp_path / "folder.csv").mkdir()
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(SinkWriteFailed, match=reason):
        really(FileSink(tmp_path / name).open())


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        (
            "${SECRET_DIR}/none/a.ndjson",
            "the folder ${SECRET_DIR}/none does not exist; create it, or name another file",
        ),
        (
            "${SECRET_DIR}/file/a.ndjson",
            "the folder ${SECRET_DIR}/file does not exist; create it, or name another file",
        ),
        ("${SECRET_DIR}/pipe.csv", "it is not a regular file; for pipes use StdoutSink()"),
        ("${SECRET_DIR}/a.csv", "its columns are a, expected b; name another file, or its columns"),
        ("${WHOLE_KEY}", "its folder does not exist; create it, or name another file"),
    ],
)
def test_errors_do_not_name_what_a_secret_variable_holds(
    tmp_path: Path, path: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable whose name says that it is secret stays as it is written."""
    monkeypatch.setenv("SECRET_DIR", str(tmp_path))
    monkeypatch.setenv("WHOLE_KEY", str(tmp_path / "none" / "a.csv"))
    (tmp_path / "file").touch()
    (tmp_path / "a.csv").write_bytes(b"a\n")
    os.mkfifo(tmp_path / "pipe.csv")
    outlet = FileSink(path, format="csv", fields=["b"])

    async def main() -> list[Any]:
        valve = SharedSink.of(outlet)
        answers = await valve.write([{"b": 1}], 5.0)
        await valve.release()
        return list(answers or ())

    with capture_logs() as logs:
        (error,) = really(main())
    assert str(error) == f"{path} could not be opened: {path} cannot be written to: {reason}"
    assert [(entry["event"], entry["sink"]) for entry in logs] == [("sink.open_failed", path)]
    assert str(tmp_path) not in f"{error} {logs}"


def test_errors_name_the_resolved_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader of the log has to see which folder is missing."""
    monkeypatch.setenv("OUT", str(tmp_path / "none"))
    for locks in (False, True):
        with pytest.raises(SinkWriteFailed) as caught:
            check_sinks([FileSink("${OUT:-out}/a.ndjson")], locks=locks)
        folder = tmp_path / "none"
        reason = f"the folder {folder} does not exist; create it, or name another file"
        assert str(caught.value) == f"{folder}/a.ndjson cannot be written to: {reason}"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """A lock as another process would hold it: it belongs to the open file, and no outlet knows of it."""
    with open(path, "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def delivering(*outlets: Sink, letters: MemoryStore | None = None) -> Flow[Any]:
    """A flow with a step for each of these outlets."""
    flow = Flow[Any]("f")
    for number, outlet in enumerate(outlets):
        flow = flow.to(outlet, name=f"to{number}")
    return flow if letters is None else flow.dead_letters(letters)


def waits(logs: Iterable[Mapping[str, Any]]) -> list[tuple[str, int]]:
    """What the log tells of waits for locks, and after how many seconds."""
    events = ("sink.waiting", "sink.lock_acquired")
    return [(entry["event"], int(entry["waited"])) for entry in logs if entry["event"] in events]


def test_values_wait_while_another_process_holds_the_lock(tmp_path: Path) -> None:
    """A lock is no failure of an element: the write waits, says so, and goes on when the lock is free."""
    path = tmp_path / "a.ndjson"

    async def main() -> list[Exception | None]:
        valve = SharedSink.of(FileSink(path))
        with locked(path):
            write = asyncio.create_task(valve.write([{"id": 1}], 5.0))
            await asyncio.sleep(15)
            assert not write.done()
        answers = await write
        await valve.release()
        return list(answers or ())

    with capture_logs() as logs:
        assert virtual(main()) == []
    assert waits(logs) == [("sink.waiting", 0), ("sink.waiting", 10), ("sink.lock_acquired", 15)]
    assert [entry["gives_up_in"] for entry in logs[:2]] == [60, 50]
    assert written(path) == [{"id": 1}]


def test_a_lock_that_stays_ends_the_run_and_fails_no_element(tmp_path: Path) -> None:
    """After a minute: what waited is cancelled, nothing becomes a dead letter, and the file is as it was."""
    path, letters = tmp_path / "a.ndjson", MemoryStore()

    async def main() -> tuple[Summary, float, int]:
        summary = (
            await delivering(FileSink(path), letters=letters).start(from_iterable(range(3)), DiscardResults()).finished
        )
        return summary, asyncio.get_running_loop().time(), len((await letters.page(DeadLetterQuery())).letters)

    with locked(path), capture_logs() as logs:
        summary, seconds, kept = virtual(main())
    assert (summary.reason, summary.cancelled, summary.failed, kept) == ("failed", 3, 0, 0)
    assert summary.error == (
        f"{path} cannot be written to: another process has been writing to it for 60 s; stop that process, or give "
        "each process its own file"
    )
    assert seconds == pytest.approx(LOCK_SECONDS)
    assert waits(logs) == [("sink.waiting", 0), ("sink.waiting", 10)]
    assert [entry["event"] for entry in logs if entry["log_level"] == "error"] == ["run.failed"]
    assert path.read_bytes() == b""


def test_runs_that_wait_for_one_lock_end_each_after_its_own_minute(tmp_path: Path) -> None:
    """They wait in turn, but not one minute after the other."""
    path = tmp_path / "a.ndjson"

    async def ends(flow: Flow[Any], after: float) -> tuple[str, int]:
        await asyncio.sleep(after)
        summary = await flow.start(from_iterable([1]), DiscardResults()).finished
        return summary.reason, round(asyncio.get_running_loop().time())

    async def main() -> list[tuple[str, int]]:
        flow = delivering(FileSink(path))
        return await asyncio.gather(*(ends(flow, after) for after in (0, 0, 0, 30, 200)))

    with locked(path), capture_logs():
        assert virtual(main()) == [("failed", 60)] * 3 + [("failed", 90), ("failed", 260)]


def test_a_long_wait_for_a_lock_is_told_less_and_less_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With another deadline than the usual one."""
    monkeypatch.setattr("penstock.sinks.shared.LOCK_SECONDS", 1000.0)

    async def main() -> str:
        flow = delivering(FileSink(tmp_path / "a.ndjson"))
        return (await flow.start(from_iterable([1]), DiscardResults()).finished).reason

    with locked(tmp_path / "a.ndjson"), capture_logs() as logs:
        assert virtual(main()) == "failed"
    assert [seconds for _, seconds in waits(logs)] == [0, 10, 60, 360, 660, 960]


@pytest.mark.parametrize(("way", "reason", "settled"), [("drain", "draining", "ok"), ("abort", "aborted", "cancelled")])
def test_a_run_that_waits_for_a_lock_can_be_stopped(tmp_path: Path, way: str, reason: str, settled: str) -> None:
    """A drain lets it wait for what is in flight; an abort ends it at once."""
    path = tmp_path / "a.ndjson"

    async def main() -> tuple[Summary, int]:
        with locked(path):
            run = delivering(FileSink(path)).start(from_async_iterable(endless()), DiscardResults())
            await asyncio.sleep(20)
            getattr(run, way)()
            await asyncio.sleep(10)
        return await run.finished, round(asyncio.get_running_loop().time())

    async def endless() -> AsyncIterator[int]:
        yield 1
        await asyncio.sleep(1e6)

    with capture_logs():
        summary, seconds = virtual(main())
    assert (summary.reason, getattr(summary, settled), summary.received, seconds) == (reason, 1, 1, 30)


def test_a_cancel_ends_the_wait_for_a_lock(tmp_path: Path) -> None:
    """Every wait has an end; the file is free for others after it."""
    path = tmp_path / "a.ndjson"

    async def main() -> None:
        valve = SharedSink.of(FileSink(path))
        with locked(path):
            write = asyncio.create_task(valve.write([{"id": 1}], 5.0))
            await asyncio.sleep(5)
            write.cancel()
            with pytest.raises(asyncio.CancelledError):
                await write
            await valve.release()
        await put(FileSink(path), [{"id": 2}])

    with capture_logs():
        virtual(main())
    assert written(path) == [{"id": 2}]


def other_name(path: Path, kind: str) -> str:
    """Another name of a file."""
    folder, other = path.parent, path.parent / f"other{path.suffix}"
    if kind == "dot":
        return f"{folder}/./{path.name}"
    if kind == "linked folder":
        (folder / "linked").symlink_to(folder)
        return str(folder / "linked" / path.name)
    if kind == "hard link":
        path.touch()
        other.hardlink_to(path)
    else:
        other.symlink_to(path)
    return str(other)


every_kind = pytest.mark.parametrize("kind", ["dot", "linked folder", "link", "hard link"])


@every_kind
@pytest.mark.parametrize("flows", [1, 2])
def test_outlets_of_one_file_under_two_names_share_it(tmp_path: Path, kind: str, flows: int) -> None:
    """In one flow, and in two that run at once; nobody waits for the lock that this process has itself."""
    path = tmp_path / "a.csv"
    one, two = FileSink(path), FileSink(other_name(path, kind))
    made = [delivering(one, two)] if flows == 1 else [delivering(one), delivering(two)]

    async def main() -> list[str]:
        source = [{"id": "1"}, {"id": "2"}]
        runs = [flow.start(from_iterable(source), DiscardResults()) for flow in made]
        return [(await run.finished).reason for run in runs]

    check_sinks([one, two], locks=True)
    with capture_logs() as logs:
        assert virtual(main()) == ["completed"] * flows
    assert waits(logs) == []
    assert sorted(row["id"] for row in written(path)) == ["1", "1", "2", "2"]
    assert path.read_text().count("id") == 1


@every_kind
def test_one_file_with_two_settings_is_a_fault_of_the_run(tmp_path: Path, kind: str) -> None:
    """At once, and no element is to blame."""
    path, letters = tmp_path / "a.csv", MemoryStore()
    other = other_name(path, kind)
    flow = delivering(FileSink(path), FileSink(other, fields=["id"]), letters=letters)

    async def main() -> tuple[Summary, float, int]:
        summary = await flow.start(from_iterable([{"id": "1"}]), DiscardResults()).finished
        return summary, asyncio.get_running_loop().time(), len((await letters.page(DeadLetterQuery())).letters)

    with capture_logs():
        summary, seconds, kept = virtual(main())
    assert (summary.reason, summary.cancelled, seconds, kept) == ("failed", 1, 0, 0)
    assert summary.error == (
        f"{other} cannot be written to: this process is already writing to the same file as {path} (csv), and this "
        "sink is csv with the fields id; give both the same format and fields, or two files"
    )


@every_kind
@pytest.mark.parametrize("locks", [False, True])
def test_one_file_with_two_settings_is_refused_before_anything_runs(tmp_path: Path, kind: str, locks: bool) -> None:
    """Both names are told; the file need not be there."""
    path = tmp_path / "a.csv"
    other = other_name(path, kind)
    with pytest.raises(SinkConflict) as caught:
        check_sinks([FileSink(path), DiscardSink(), FileSink(other, format="csv", fields=["a", "b"])], locks=locks)
    assert str(caught.value) == (
        f"{other} cannot be written to: it is the same file as {path} (csv), and this sink is csv with the fields a, "
        "b; give both the same format and fields, or two files"
    )


def test_a_file_that_another_process_writes_to_is_refused_at_the_start(tmp_path: Path) -> None:
    """A check says so before anything runs; the files of this process are fine."""
    path = tmp_path / "a.ndjson"
    program = (
        "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.flock(f, fcntl.LOCK_EX); print('locked', flush=True); "
        "sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"locked\n"
        check_sinks([FileSink(path)], locks=False)
        with pytest.raises(SinkLocked, match="another process is writing to it"):
            check_sinks([FileSink(path)], locks=True)
        other.communicate()

    async def main() -> None:
        mine = FileSink(path)
        await mine.open()
        check_sinks([FileSink(path)], locks=True)
        await mine.aclose()

    really(main())


@every_name
def test_a_file_has_one_writer(tmp_path: Path, name: str) -> None:
    """The second is refused until the first has closed."""

    async def main() -> None:
        first, second = FileSink(tmp_path / name), FileSink(tmp_path / name)
        await first.open()
        with pytest.raises(SinkAlreadyOpen, match="this process is already writing to the same file"):
            await second.open()
        await first.write([{"id": "1"}])
        await first.aclose()
        await second.open()
        await second.write([{"id": "2"}])
        await second.aclose()

    really(main())
    assert written(tmp_path / name) == [{"id": "1"}, {"id": "2"}]


def test_writing_to_what_is_not_open_is_refused() -> None:
    """Also after it was closed; closing twice is no fault."""
    with pytest.raises(SinkWriteFailed, match="not open"):
        really(FileSink("a.ndjson").write([1]))
    really(FileSink("a.ndjson").aclose())


def test_a_cancelled_write_is_whole(tmp_path: Path) -> None:
    """It ends as cancelled when its lines are in the file, or not begun."""

    async def main() -> None:
        outlet = FileSink(tmp_path / "a.ndjson")
        await outlet.open()
        for _ in range(20):
            task = asyncio.ensure_future(outlet.write(list(range(10_000))))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await outlet.aclose()

    really(main())
    assert len(written(tmp_path / "a.ndjson")) % 10_000 == 0


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: FileSink("a.json"), "cannot be streamed"),
        (lambda: FileSink("a.ndjson", fields=["a"]), "set the format to csv"),
        (lambda: FileSink("a.csv", fields=["a", "a"]), "each once"),
        (lambda: FileSink("a.csv", fields=[]), "each once"),
        (lambda: StdoutSink("xml"), "one of ndjson, csv"),
    ],
)
def test_what_cannot_be_written_is_said_when_it_is_described(make: Any, reason: str) -> None:
    """Before anything runs."""
    with pytest.raises(FlowDefinitionError, match=reason):
        make()


def test_outlets_of_the_same_words_are_equal(tmp_path: Path) -> None:
    """Whether they are open or not; and they are shown by their words."""
    one, other = FileSink(tmp_path / "a.csv"), FileSink(str(tmp_path / "a.csv"), format="csv")
    really(put(one, [{"a": 1}]))

    assert (one, hash(one)) == (other, hash(other))
    assert one != FileSink(tmp_path / "a.csv", fields=["a"])
    assert (StdoutSink(), DiscardSink()) == (StdoutSink("ndjson"), DiscardSink())
    assert len({StdoutSink(), StdoutSink("csv"), DiscardSink(), DiscardSink()}) == 3
    assert repr(one).startswith(f"FileSink(path='{tmp_path / 'a.csv'}', format=<Format.CSV")
    assert "_" not in repr(FileSink("a.csv"))
    assert one.format is Format.CSV


def test_nowhere_takes_everything() -> None:
    """And refuses nothing."""
    assert really(put(DiscardSink(), [1, object()])) == [None]


def test_types_fit() -> None:
    """Each is an `Sink`, as the type checkers see it."""
    outlets: list[Sink] = [FileSink("a.csv"), StdoutSink(), DiscardSink()]
    assert [outlet.name for outlet in outlets] == ["", "", ""]
