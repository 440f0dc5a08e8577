"""A directory as a source: every whole file is read, and moved only when all of it is settled."""

from __future__ import annotations

import asyncio
import gzip
import os
import shutil
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from flows.test_files import SECONDS, really
from penstock import Flow
from penstock import testing as virtual
from penstock.deadletters import MemoryStore
from penstock.errors import FileReadFailed, FlowDefinitionError
from penstock.formats.format import Format
from penstock.results import DiscardResults, ResultConsumer
from penstock.runtime import Run, Summary
from penstock.sources import from_directory
from penstock.sources.directory_scanner import unique_path
from penstock.sources.file import FileLineReader, make_splitter
from penstock.sources.growth import LineCounter, ReadProgress

EVERY = 0.01


class Gate(ResultConsumer):
    """Takes results, and settles them when it is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[Any] = []
        self.closed = True
        self.ended = False

    def on_next(self, value: list[Any]) -> None:
        if self.closed:
            self.held += value
        else:
            self.context.ledger.settle_accepted(value)

    def let_through(self) -> None:
        self.closed = False
        held, self.held = self.held, []
        self.context.ledger.settle_accepted(held)
        if self.ended:
            self.complete()

    def on_completed(self) -> None:
        self.ended = True
        if not self.held:
            self.complete()


async def until(holds: Callable[[], bool]) -> None:
    """Wait for what another thread or the disk brings about; the test as a whole has a timeout."""
    while not holds():
        await asyncio.sleep(0.002)


async def given_out(run: Run) -> None:
    """Wait until a source has given out its file to the end, and waits for it to be settled."""
    await until(lambda: run.window._capacity is not None)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def put(path: Path, data: bytes, modified: float | None = None) -> None:
    path.write_bytes(data)
    if modified is not None:
        os.utime(path, (modified, modified))


def watched(
    folder: Path, then: Callable[[Run, list[Any]], Awaitable[object]], sink: ResultConsumer | None = None, **how: Any
) -> tuple[list[Any], Summary, list[dict[str, Any]]]:
    """The values of a directory until `then` has happened and the run is drained; its summary and its log."""

    async def main() -> tuple[list[Any], Summary]:
        seen: list[Any] = []
        flow = Flow("f").tap(seen.append).dead_letters(MemoryStore())
        run = flow.start(from_directory(folder, poll_interval=EVERY, stable_for=EVERY, **how), sink or DiscardResults())
        await then(run, seen)
        run.drain()
        return seen, await run.finished

    with capture_logs() as logs:
        seen, summary = really(main())
    return seen, summary, [dict(entry) for entry in logs if entry["event"].startswith("directory.")]


def test_files_are_read_oldest_first_and_moved_when_done(tmp_path: Path) -> None:
    """Those that are there and those that come, of every format; hidden and unmatched ones stay."""
    put(tmp_path / "b.ndjson", b"1\n2\n", 1000)
    put(tmp_path / "a.csv", b"n\n3\n", 2000)
    put(tmp_path / ".hidden.ndjson", b"0\n")
    put(tmp_path / "c.ndjson.gz", gzip.compress(b"4\n"), 3000)

    async def then(run: Run, _: list[Any]) -> None:
        await until(lambda: len(names(tmp_path / "done")) == 3)
        put(tmp_path / "later.ndjson", b"5\n")
        await until(lambda: len(names(tmp_path / "done")) == 4)

    seen, summary, logs = watched(tmp_path, then)
    assert seen == [1, 2, {"n": "3"}, 4, 5]
    assert (summary.reason, summary.ok) == ("draining", 5)
    assert names(tmp_path) == [".hidden.ndjson", "done", "failed"]
    assert [(entry["file"], entry["first_seq"], entry["elements"]) for entry in logs] == [
        ("b.ndjson", 0, 2),
        ("a.csv", 2, 1),
        ("c.ndjson.gz", 3, 1),
        ("later.ndjson", 4, 1),
    ]


def test_a_file_that_still_grows_is_left_alone(tmp_path: Path) -> None:
    """It is taken when two looks see the same; nothing of it is read before."""

    async def then(run: Run, seen: list[Any]) -> None:
        put(tmp_path / "steady.ndjson", b'"steady"\n', 10_000_000)
        written = 0
        with (tmp_path / "a.ndjson").open("ab", buffering=0) as file:
            os.utime(tmp_path / "a.ndjson", (1, 1))
            while "steady" not in seen:
                file.write(b"%d\n" % written)
                os.utime(tmp_path / "a.ndjson", (written, written))
                written += 1
                await asyncio.sleep(EVERY / 10)
            assert seen == ["steady"]
        await until(lambda: "a.ndjson" in names(tmp_path / "done"))
        assert seen == ["steady", *range(written)]

    watched(tmp_path, then)


def test_a_file_stays_until_all_of_it_is_settled(tmp_path: Path) -> None:
    """Given out to the end, and not settled: it is not moved, and no further file is begun."""
    put(tmp_path / "a.ndjson", b"1\n2\n3\n", 1000)
    put(tmp_path / "b.ndjson", b"4\n", 2000)
    gate = Gate()

    async def then(run: Run, seen: list[Any]) -> None:
        await until(lambda: len(gate.held) == 3)
        await asyncio.sleep(EVERY * 5)
        assert (names(tmp_path / "done"), seen) == ([], [1, 2, 3])
        gate.let_through()
        await until(lambda: len(names(tmp_path / "done")) == 2)

    seen, _, _ = watched(tmp_path, then, gate)
    assert seen == [1, 2, 3, 4]


def test_an_abort_leaves_the_file_for_the_next_run(tmp_path: Path) -> None:
    """At least once: what was given out and not settled is read again from the beginning."""
    put(tmp_path / "a.ndjson", b"1\n2\n3\n")
    gate = Gate()

    async def then(run: Run, _: list[Any]) -> None:
        await until(lambda: len(gate.held) == 3)
        run.abort()

    _, summary, _ = watched(tmp_path, then, gate)
    assert (summary.reason, summary.cancelled) == ("aborted", 3)
    assert (names(tmp_path), names(tmp_path / "done")) == (["a.ndjson", "done", "failed"], [])

    async def moved(run: Run, _: list[Any]) -> None:
        await until(lambda: names(tmp_path / "done") == ["a.ndjson"])

    assert watched(tmp_path, moved)[0] == [1, 2, 3]


def test_a_drain_between_two_lines_leaves_the_file(tmp_path: Path) -> None:
    """What was given out is finished; the file stays where it is."""
    put(tmp_path / "a.ndjson", b"1\n" * 1000)
    gate = Gate()

    async def main() -> Summary:
        run = Flow("f").window(5).start(from_directory(tmp_path, poll_interval=EVERY, stable_for=EVERY), gate)
        await until(lambda: len(gate.held) == 5)
        run.drain()
        gate.let_through()
        return await run.finished

    summary = really(main())
    assert (summary.reason, summary.ok, summary.cancelled) == ("draining", 5, 0)
    assert (names(tmp_path), names(tmp_path / "done")) == (["a.ndjson", "done", "failed"], [])


def test_a_file_that_was_given_out_to_its_end_is_moved_by_a_drain_too(tmp_path: Path) -> None:
    """When what it gave is settled before the run is over, there is nothing to read again."""
    put(tmp_path / "a.ndjson", b"1\n2\n")
    gate = Gate()

    async def then(run: Run, _: list[Any]) -> None:
        await given_out(run)
        run.drain()
        await until(lambda: gate.ended)
        assert names(tmp_path / "done") == []
        gate.let_through()

    watched(tmp_path, then, gate)
    assert names(tmp_path / "done") == ["a.ndjson"]


def test_a_file_that_breaks_is_put_aside_and_watching_goes_on(tmp_path: Path) -> None:
    """What could be read of it is settled, why it broke is logged, and the next file is read."""
    put(tmp_path / "a.ndjson.gz", gzip.compress(b"1\n2\n3")[:-8], 1000)
    put(tmp_path / "b.csv", b"a,a\n1,2\n", 2000)
    put(tmp_path / "c.ndjson", b"4\n", 3000)

    async def then(run: Run, _: list[Any]) -> None:
        await until(lambda: names(tmp_path / "done") == ["c.ndjson"])

    seen, summary, logs = watched(tmp_path, then)
    failed = [entry for entry in logs if entry["event"] == "directory.file_failed"]
    assert (seen, summary.reason) == ([1, 2, 4], "draining")
    assert names(tmp_path / "failed") == ["a.ndjson.gz", "b.csv"]
    assert [(entry["file"], entry["elements"]) for entry in failed] == [("a.ndjson.gz", 2), ("b.csv", 0)]
    assert "the file was cut off" in failed[0]["error"]
    assert "names the field 'a' twice" in failed[1]["error"]


@pytest.mark.parametrize("name", ["${NOPE}.ndjson", "${HOME}.ndjson", "$$.ndjson"])
def test_a_name_that_was_found_is_taken_as_it_is(tmp_path: Path, name: str) -> None:
    """Whoever puts files into a directory reads no variables with their names."""
    put(tmp_path / name, b"1\n")

    async def then(run: Run, _: list[Any]) -> None:
        await until(lambda: names(tmp_path / "done") == [name] or run.reason is not None or run.error is not None)

    seen, summary, _ = watched(tmp_path, then)
    assert (seen, summary.reason, names(tmp_path / "done")) == ([1], "draining", [name])


@pytest.mark.skipif(sys.platform != "linux", reason="where names are texts, there are no others")
@pytest.mark.parametrize(("ending", "folder"), [("ndjson", "done"), ("ndjson.gz", "failed")])
def test_a_name_that_is_no_text_is_shown_as_its_bytes(tmp_path: Path, ending: str, folder: str) -> None:
    """The log is UTF-8; a name is whatever somebody gave."""
    name = os.fsdecode(b"\xff." + ending.encode())
    put(tmp_path / name, b"1\n")

    async def then(run: Run, _: list[Any]) -> None:
        await until(lambda: names(tmp_path / folder) == [name])

    _, _, logs = watched(tmp_path, then)
    assert [entry["file"] for entry in logs] == [f"\\udcff.{ending}"]
    str(logs).encode()


def test_whatever_is_wrong_with_a_file_is_said_of_that_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is put aside as any other that breaks, and no error shows what the variables hold."""
    monkeypatch.setenv("INBOX", str(tmp_path))
    put(tmp_path / "a.ndjson.gz", b"no", 1000)
    put(tmp_path / "b.ndjson", b"1\n", 2000)

    async def main() -> tuple[Summary, list[Any]]:
        with capture_logs() as logs:
            run = Flow("f").start(from_directory("${INBOX}", poll_interval=EVERY, stable_for=EVERY), DiscardResults())
            await until(lambda: names(tmp_path / "done") == ["b.ndjson"])
            (tmp_path / "done" / "b.ndjson").unlink()
            shutil.rmtree(tmp_path)
            return await run.finished, list(logs)

    summary, logs = really(main())
    (failed,) = [entry for entry in logs if entry["event"] == "directory.file_failed"]
    assert failed["error"].startswith("${INBOX}/a.ndjson.gz cannot be read: its compressed data are damaged")
    assert summary.error == "the source directory failed: ${INBOX} cannot be read: No such file or directory"


def test_lines_that_fail_do_not_hold_a_file_back(tmp_path: Path) -> None:
    """Their letters are durable, so they are settled, and the file is done."""
    put(tmp_path / "a.csv", b"a,b\n1,2\n3\n")

    async def then(run: Run, _: list[Any]) -> None:
        await until(lambda: names(tmp_path / "done") == ["a.csv"])

    _, summary, _ = watched(tmp_path, then)
    assert (summary.ok, summary.failed) == (1, 1)


def in_virtual_time(
    folder: Path, then: Callable[[Run, list[Any]], Awaitable[object]], **how: Any
) -> tuple[list[Any], Summary, list[dict[str, Any]]]:
    """As `watched`, with a virtual clock and the default settings."""

    async def main() -> tuple[list[Any], Summary]:
        seen: list[Any] = []
        flow = Flow("f").tap(seen.append).dead_letters(MemoryStore())
        run = flow.start(from_directory(folder, **how), DiscardResults())
        await then(run, seen)
        run.drain()
        return seen, await run.finished

    with capture_logs() as logs:
        seen, summary = virtual.run(main())
    return seen, summary, [dict(entry) for entry in logs if entry["event"].startswith("directory.")]


def errors_in(logs: list[dict[str, Any]]) -> list[str]:
    return [entry["event"] for entry in logs if entry["log_level"] == "error"]


def test_a_file_that_is_written_with_pauses_is_read_as_a_whole(tmp_path: Path) -> None:
    """By default it has to be unchanged for ten seconds, so pauses of several polls do not count as its end."""

    async def then(run: Run, seen: list[Any]) -> None:
        with (tmp_path / "a.ndjson").open("ab", buffering=0) as file:
            for number in range(4):
                file.write(b"%d\n" % number)
                await asyncio.sleep(3 * number)
                assert seen == []
        await asyncio.sleep(12)
        assert seen == [0, 1, 2, 3]

    _, summary, logs = in_virtual_time(tmp_path, then)
    assert (summary.received, names(tmp_path / "done"), errors_in(logs)) == (4, ["a.ndjson"], [])


@pytest.mark.parametrize(
    ("name", "parts", "expected"),
    [
        ("a.ndjson", [b"1\n", b"2\n", b"3\n4"], [1, 2, 3, 4]),
        ("a.ndjson", [b"1\n2", b"\n", b"3\n"], [1, 2, 3]),
        ("a.ndjson", [b"", b"1\n"], [1]),
        ("a.csv", [b"n\n1\n", b"2\n", b"3\n"], [{"n": "1"}, {"n": "2"}, {"n": "3"}]),
        ("a.csv", [b"n", b"ame\n1\n", b"2\n"], [{"name": "1"}, {"name": "2"}]),
        ("a.ndjson.gz", [gzip.compress(b"1\n"), gzip.compress(b"2\n")], [1, 2]),
        ("a.ndjson.gz", [whole := gzip.compress(b"1\n2\n"), b""], [1, 2]),
        ("a.ndjson.gz", [whole[:-4], whole[-4:]], [1, 2]),
    ],
)
def test_what_is_written_to_a_file_after_it_was_moved_is_read_too(
    tmp_path: Path, name: str, parts: list[bytes], expected: list[Any]
) -> None:
    """A writer that keeps it open writes into `done`. An error is logged, and each line is read once."""

    async def then(run: Run, _: list[Any]) -> None:
        with (tmp_path / name).open("ab", buffering=0) as file:
            for part in parts:
                file.write(part)
                await asyncio.sleep(30)

    seen, summary, logs = in_virtual_time(tmp_path, then)
    assert (seen, summary.received) == (expected, len(expected))
    assert (names(tmp_path / "done"), names(tmp_path / "failed")) == ([name], [])
    assert errors_in(logs) == ["directory.file_appended"] * (len([part for part in parts if part]) - bool(parts[0]))
    assert (tmp_path / "done" / name).read_bytes() == b"".join(parts)


def test_a_line_that_was_cut_by_a_pause_is_read_again_when_it_is_complete(tmp_path: Path) -> None:
    """Its beginning failed, or was taken for a line: the log names the element."""

    async def then(run: Run, _: list[Any]) -> None:
        with (tmp_path / "a.ndjson").open("ab", buffering=0) as file:
            for part in (b"1\n2", b"3\n4\n"):
                file.write(part)
                await asyncio.sleep(30)

    seen, summary, logs = in_virtual_time(tmp_path, then)
    assert (seen, summary.received) == ([1, 2, 23, 4], 4)
    assert errors_in(logs) == ["directory.file_appended", "directory.line_completed"]
    assert [entry["first_seq"] for entry in logs if entry["event"] == "directory.line_completed"] == [2]


def test_the_order_of_files_stays_when_one_grows(tmp_path: Path) -> None:
    """The oldest first; what comes later of a file is read in its turn."""
    put(tmp_path / "a.ndjson", b"1\n", 1000)
    put(tmp_path / "b.ndjson", b"2\n", 2000)

    async def then(run: Run, seen: list[Any]) -> None:
        await asyncio.sleep(20)
        assert seen == [1, 2]
        with (tmp_path / "done" / "a.ndjson").open("ab") as file:
            file.write(b"3\n")
        os.utime(tmp_path / "done" / "a.ndjson", (4000, 4000))
        put(tmp_path / "c.ndjson", b"4\n", 3000)
        await asyncio.sleep(20)

    assert in_virtual_time(tmp_path, then)[0] == [1, 2, 4, 3]


def test_a_file_that_grew_as_the_run_ends_is_left_for_the_next_run(tmp_path: Path) -> None:
    """It is moved back, and read again from its beginning: at least once."""
    put(tmp_path / "a.ndjson", b"1\n")

    async def then(run: Run, _: list[Any]) -> None:
        await asyncio.sleep(20.5)
        with (tmp_path / "done" / "a.ndjson").open("ab") as file:
            file.write(b"2\n")

    _, _, logs = in_virtual_time(tmp_path, then)
    assert (names(tmp_path), errors_in(logs)) == (["a.ndjson", "done", "failed"], ["directory.file_appended"])


@pytest.mark.parametrize("seconds", [20, 700])
def test_a_file_that_is_taken_out_of_done_is_not_missed(tmp_path: Path, seconds: int) -> None:
    """Archiving it, or putting another in its place, is no matter of the source; after ten minutes no change is."""
    put(tmp_path / "a.ndjson", b"1\n")
    put(tmp_path / "b.ndjson", b"2\n")

    async def then(run: Run, _: list[Any]) -> None:
        await asyncio.sleep(seconds)
        (tmp_path / "done" / "a.ndjson").unlink()
        if seconds > 600:
            (tmp_path / "done" / "b.ndjson").write_bytes(b"3\n4\n")
        else:
            put(tmp_path / "new", b"3\n4\n")
            (tmp_path / "new").rename(tmp_path / "done" / "b.ndjson")
        await asyncio.sleep(30)

    seen, _, logs = in_virtual_time(tmp_path, then)
    assert (seen, errors_in(logs), names(tmp_path)) == ([1, 2], [], ["done", "failed"])


@pytest.mark.parametrize(
    ("written", "expected", "events"),
    [
        (b"1\n2\n", [1, 2], ["directory.file_changed"]),
        (b"3\n4\n", [1, 3, 4], ["directory.file_changed", "directory.file_rewritten"]),
        (b"", [1], ["directory.file_changed", "directory.file_rewritten"]),
    ],
)
def test_a_file_that_was_written_to_while_it_was_read_stays_and_is_read_on(
    tmp_path: Path, written: bytes, expected: list[int], events: list[str]
) -> None:
    """What was appended is new; of a file that was written anew, everything."""
    put(tmp_path / "a.ndjson", b"1\n", 1000)
    gate = Gate()

    async def then(run: Run, _: list[Any]) -> None:
        await given_out(run)
        put(tmp_path / "a.ndjson", written, 2000)
        gate.let_through()
        await until(lambda: names(tmp_path / "done") == ["a.ndjson"])

    seen, summary, logs = watched(tmp_path, then, gate)
    assert (seen, summary.received, errors_in(logs)) == (expected, len(expected), events)


LINE = st.sampled_from(["1", "22", '"a\nb"', "", '"', "x,y"])


@given(st.sampled_from(list(Format)), st.lists(LINE), st.data())
def test_what_was_given_out_before_and_what_is_new_are_all_lines(
    tmp_path_factory: pytest.TempPathFactory, format: Format, lines: list[str], data: st.DataObject
) -> None:
    """Wherever the file was cut, and however often: only a line that was cut is given out again."""
    whole = "\n".join(lines).encode()
    path = tmp_path_factory.getbasetemp() / "growing"

    def pass_over(content: bytes, before: ReadProgress) -> tuple[list[bytes], LineCounter]:
        path.write_bytes(content)
        new = LineCounter(lambda: FileLineReader(str(path), make_splitter(format)), before)
        found: list[bytes] = []
        try:
            while (more := new.next()) is not None:
                found += more
        except FileReadFailed:  # a header that is none
            pass
        new.close()
        return found, new

    progress, given_before = ReadProgress(), list[bytes]()
    for size in sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=3))):
        found, new = pass_over(whole[:size], progress)
        assert not new.rewritten or format is Format.CSV
        given_before = [] if new.rewritten else given_before
        given_before = (given_before[:-1] if new.completed else given_before) + found
        progress = new.progress
    found, new = pass_over(whole, progress)
    given_before = [] if new.rewritten else given_before
    given_before = (given_before[:-1] if new.completed else given_before) + found
    assert given_before == pass_over(whole, ReadProgress())[0]


def test_a_file_that_went_away_is_no_reason_to_stop(tmp_path: Path) -> None:
    """Somebody else took it while it was read; it is said, and the next file is read."""
    put(tmp_path / "a.ndjson", b"1\n", 1000)
    gate = Gate()

    async def then(run: Run, _: list[Any]) -> None:
        await until(lambda: len(gate.held) == 1)
        (tmp_path / "a.ndjson").unlink()
        gate.let_through()
        put(tmp_path / "b.ndjson", b"2\n")
        await until(lambda: names(tmp_path / "done") == ["b.ndjson"])

    seen, _, logs = watched(tmp_path, then, gate)
    assert seen == [1, 2]
    assert "directory.file_removed" in [entry["event"] for entry in logs]


def test_nothing_in_done_is_overwritten(tmp_path: Path) -> None:
    """A file of the same name gets a number."""
    (tmp_path / "done").mkdir()
    put(tmp_path / "done" / "a.b.csv", b"")
    put(tmp_path / "a.b.csv", b"n\n1\n")

    async def then(run: Run, _: list[Any]) -> None:
        await until(lambda: len(names(tmp_path / "done")) == 2)

    watched(tmp_path, then)
    assert names(tmp_path / "done") == ["a-2.b.csv", "a.b.csv"]
    assert unique_path(tmp_path / "done", "a.b.csv").name == "a-3.b.csv"


def test_files_of_no_known_format_stay_and_are_told_of_once(tmp_path: Path) -> None:
    """They may be uploads under a passing name; with a format given, or a pattern that misses them, none is unknown."""
    put(tmp_path / "a.tmp", b"1\n")
    put(tmp_path / "b.ndjson", b"2\n")

    async def then(run: Run, seen: list[Any]) -> None:
        await until(lambda: names(tmp_path / "done") == ["b.ndjson"])
        await asyncio.sleep(EVERY * 5)

    seen, _, logs = watched(tmp_path, then)
    unknown = [entry for entry in logs if entry["event"] == "directory.unknown_format"]
    assert (seen, names(tmp_path)) == ([2], ["a.tmp", "done", "failed"])
    assert [(entry["files"], entry["example"]) for entry in unknown] == [(1, "a.tmp")]

    async def read(run: Run, seen: list[Any]) -> None:
        await until(lambda: "a.tmp" in names(tmp_path / "done"))

    assert watched(tmp_path, read, pattern="*.tmp", format="ndjson")[0] == [1]


def test_a_directory_that_is_not_there_breaks_the_source(tmp_path: Path) -> None:
    """With what to do about it."""

    async def main() -> Summary:
        async with asyncio.timeout(SECONDS):
            return await Flow("f").start(from_directory(tmp_path / "none"), DiscardResults()).finished

    assert "the directory does not exist; create it" in str(really(main()).error)


def test_a_file_that_cannot_be_moved_breaks_the_source(tmp_path: Path) -> None:
    """Going on would read it again and again."""
    put(tmp_path / "a.ndjson", b"1\n")
    gate = Gate()

    async def main() -> Summary:
        run = Flow("f").start(from_directory(tmp_path, poll_interval=EVERY, stable_for=EVERY), gate)
        await given_out(run)
        (tmp_path / "done").rmdir()
        (tmp_path / "done").write_bytes(b"")
        gate.let_through()
        return await run.finished

    summary = really(main())
    assert summary.reason == "failed"
    assert "cannot be moved to done/" in str(summary.error)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"poll_interval": 0}, "> 0, got 0"),
        ({"stable_for": 0}, "expected a number of seconds > 0, got 0"),
        ({"processed_dir": "failed"}, "other than 'failed'"),
        ({"processed_dir": "a/b"}, "name of a subfolder"),
        ({"format": "xml"}, "one of ndjson, csv"),
        ({"limit": 0}, "1 byte for a line, got 0"),
    ],
)
def test_what_cannot_be_watched_is_said_when_it_is_described(how: dict[str, Any], reason: str) -> None:
    """Before anything runs."""
    with pytest.raises((FlowDefinitionError, ValueError), match=reason):
        from_directory("in", **how)


def test_sources_of_the_same_directory_are_equal() -> None:
    """Read in the same way, that is."""
    assert from_directory("in") == from_directory(Path("in")) != from_directory("in", poll_interval=2)
    assert len({from_directory("in"), from_directory("in"), from_directory("out")}) == 2
    assert "pattern='*.csv'" in repr(from_directory("in", pattern="*.csv"))
