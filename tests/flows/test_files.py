"""Files and standard input as sources: real threads and descriptors, on a real event loop."""

from __future__ import annotations

import asyncio
import gzip
import os
import subprocess
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypedDict, cast

import pytest

import forking
from penstock import Flow
from penstock.deadletters import DeadLetter, DeadLetterQuery, MemoryStore
from penstock.errors import FlowDefinitionError
from penstock.formats.ndjson_reader import LineSplitter
from penstock.results import DiscardResults, ResultConsumer
from penstock.runtime import Run, Summary
from penstock.sources import Emitter, Source, from_file, from_stdin
from penstock.sources.byte_stream import StdinSource
from penstock.sources.file import FileLineReader, emit_lines
from penstock.support.tasks import to_thread_uncancellable
from waiting import HANG_SECONDS

SECONDS = HANG_SECONDS
"""After this a test has failed."""


def really(work: Awaitable[Any]) -> Any:
    """Run on an ordinary event loop; afterwards no descriptor is open that was not before."""

    async def bounded() -> Any:
        async with asyncio.timeout(SECONDS):
            return await work

    before = open_files()
    result = asyncio.run(bounded())
    assert open_files() == before
    return result


def open_files() -> set[str]:
    """The regular files that this process has open."""
    found: set[str] = set()
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            found.add(os.readlink(f"/proc/self/fd/{descriptor}"))
        except OSError:
            continue
    return {path for path in found if path.startswith("/")}


def read(source: Source[Any], **window: int) -> tuple[list[Any], Summary, list[DeadLetter]]:
    """The values of a source, the summary of its run, and what failed."""

    async def main() -> tuple[list[Any], Summary, list[DeadLetter]]:
        seen: list[Any] = []
        store = MemoryStore()
        summary = (
            await Flow("f", **window).tap(seen.append).dead_letters(store).start(source, DiscardResults()).finished
        )
        return seen, summary, list((await store.page(DeadLetterQuery())).letters)

    return cast("tuple[list[Any], Summary, list[DeadLetter]]", really(main()))


class Never(ResultConsumer):
    """Takes results and settles none."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.missing = count
        self.full = asyncio.Event()

    def on_next(self, value: list[Any]) -> None:
        self.missing -= len(value)
        if self.missing <= 0:
            self.full.set()


def lines(count: int) -> bytes:
    return b"".join(b'{"number":%d}\n' % number for number in range(count))


NUMBERS = [{"number": number} for number in range(20_000)]
TEXTS = [{"number": str(number)} for number in range(20_000)]


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("a.ndjson", lines(20_000), NUMBERS),
        ("a.jsonl", lines(20_000), NUMBERS),
        ("A.NDJSON.GZ", gzip.compress(lines(20_000)), NUMBERS),
        ("members.jsonl.gz", gzip.compress(lines(20_000)[:5000]) + gzip.compress(lines(20_000)[5000:]), NUMBERS),
        ("a.csv", b"number\r\n" + b"".join(b"%d\r\n" % number for number in range(20_000)), TEXTS),
        ("a.csv.gz", gzip.compress(b"number\n" + b"".join(b"%d\n" % number for number in range(20_000))), TEXTS),
        ("empty.ndjson", b"", []),
        ("empty.csv", b"", []),
    ],
)
def test_a_file_is_read_once_from_beginning_to_end(tmp_path: Path, name: str, data: bytes, expected: list[Any]) -> None:
    """Every line of every format, in order, twice the same: each run opens the file anew."""
    (tmp_path / name).write_bytes(data)
    source = from_file(tmp_path / name)

    for _ in range(2):
        seen, summary, _ = read(source)
        assert (seen, summary.reason) == (expected, "completed")


def test_the_format_may_be_said(tmp_path: Path) -> None:
    """Whatever the name is; in CSV with another delimiter too."""
    (tmp_path / "a.json").write_bytes(b'{"a":1}\n')
    (tmp_path / "a.txt").write_bytes(b'a;b\n1;"x;y"\n')

    assert read(from_file(tmp_path / "a.json", format="ndjson"))[0] == [{"a": 1}]
    assert read(from_file(tmp_path / "a.txt", format="csv", delimiter=";"))[0] == [{"a": "1", "b": "x;y"}]


@pytest.mark.parametrize(
    ("path", "how", "reason"),
    [
        ("orders.json", {}, r"cannot be streamed; .*jq -c '.\[\]' orders.json"),
        ("orders.json.gz", {}, "cannot be streamed"),
        ("orders", {}, "its name indicates no format"),
        ("orders.xml", {"format": "xml"}, "one of ndjson, csv, got 'xml'"),
        ("orders.csv", {"delimiter": ",,"}, "one ASCII character"),
        ("orders.ndjson", {"delimiter": ";"}, "only with CSV"),
        ("orders.csv", {"limit": 0}, "1 byte for a line, got 0"),
    ],
)
def test_what_cannot_be_read_is_said_when_it_is_described(path: str, how: dict[str, Any], reason: str) -> None:
    """Before anything runs, with the way out."""
    with pytest.raises((FlowDefinitionError, ValueError), match=reason):
        from_file(path, **how)


@pytest.mark.parametrize(
    ("name", "make", "reason"),
    [
        ("gone.ndjson", None, "the file does not exist"),
        ("folder.ndjson", lambda path: path.mkdir(), "not a regular file"),
        ("pipe.ndjson", os.mkfifo, "for pipes use standard input"),
        ("a.csv", lambda path: path.write_bytes(b"a,a\n1,2\n"), "names the field 'a' twice"),
        ("plain.csv.gz", lambda path: path.write_bytes(b"a,b\n1,2\n"), "compressed data are damaged"),
    ],
)
def test_a_file_that_cannot_be_opened_breaks_the_source(
    tmp_path: Path, name: str, make: Callable[[Path], object] | None, reason: str
) -> None:
    """The run fails, and names the file and what is the matter with it."""
    if make is not None:
        make(tmp_path / name)
    _, summary, _ = read(from_file(tmp_path / name))

    assert (summary.reason, summary.received) == ("failed", 0)
    assert reason in str(summary.error)
    assert str(tmp_path / name) in str(summary.error)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda data: data[: len(data) // 2], "the file was cut off"),
        (lambda data: data + b"and more", "are damaged"),
        (lambda data: data[:-8] + bytes(8), "are damaged"),
    ],
    ids=["cut off", "more behind it", "wrong sum"],
)
def test_damaged_compression_breaks_the_source_after_what_is_readable(
    tmp_path: Path, spoil: Callable[[bytes], bytes], reason: str
) -> None:
    """Whole lines before the damage are elements, half a line is none, and the run says what happened."""
    data = b"".join(b'{"number":%d,"noise":"%s"}\n' % (number, os.urandom(30).hex().encode()) for number in range(9000))
    (tmp_path / "a.ndjson.gz").write_bytes(spoil(gzip.compress(data)))
    seen, summary, letters = read(from_file(tmp_path / "a.ndjson.gz"))

    assert [value["number"] for value in seen] == list(range(len(seen)))
    assert len(seen) > 3500
    assert (summary.reason, letters) == ("failed", [])
    assert reason in str(summary.error)


class Order(TypedDict):
    a: str


def test_a_bad_row_becomes_a_dead_letter_with_its_text(tmp_path: Path) -> None:
    """It fails at decode, the others pass; a row that fails later is kept as an object that can be run again."""
    (tmp_path / "a.csv").write_bytes(b'a,b\n1,2\n"1\n",2,3\n' + b"x" * 50 + b",2\n3,4\n")

    async def main() -> tuple[Summary, list[DeadLetter]]:
        store = MemoryStore()
        flow = Flow("f", Order, "a").map(lambda order: 1 // (int(order["a"]) - 3), name="divide").dead_letters(store)
        summary = await flow.start(from_file(tmp_path / "a.csv", limit=20), DiscardResults()).finished
        return summary, list((await store.page(DeadLetterQuery())).letters)

    summary, letters = really(main())
    assert (summary.reason, summary.ok, summary.failed) == ("completed", 1, 3)
    assert {(letter.step, letter.type, letter.input, letter.input_size) for letter in letters} == {
        ("decode", "MalformedRow", b'"1\n",2,3', 8),
        ("decode", "ElementTooLarge", b"x" * 20, 52),
        ("divide", "ZeroDivisionError", b'{"a":"3","b":"4"}', 17),
    }


@pytest.mark.parametrize(("delimiter", "prefix"), [(",", ""), (";", "sep=;\n"), ("\t", "sep=\t\n")])
@pytest.mark.parametrize("redact", [[], ["b"]], ids=["as it was", "redacted"])
def test_letters_of_rows_that_cannot_be_read_keep_their_header(
    tmp_path: Path, delimiter: str, prefix: str, redact: list[str]
) -> None:
    """With the delimiter; rows that were read are JSON, and name their fields themselves, also letters of parts."""
    lines = ["a,b", "1,2", "4111", "x" * 50 + ",2", "3,4"]
    (tmp_path / "a.csv").write_text("\n".join(lines).replace(",", delimiter))
    store = MemoryStore()
    flow = Flow[Any]("f").flat_map(lambda row: [row, row]).map(lambda _: 1 // 0).dead_letters(store, redact=redact)

    async def main() -> Any:
        await flow.start(from_file(tmp_path / "a.csv", delimiter=delimiter, limit=20), DiscardResults()).finished
        return (await store.page(DeadLetterQuery())).letters

    letters = sorted(really(main()), key=lambda letter: letter.seq)
    header = None if redact else f"{prefix}a{delimiter}b"
    assert [letter.header for letter in letters] == [None, header, header, None]
    assert [letter.type for letter in letters] == [
        "ZeroDivisionError", "MalformedRow", "ElementTooLarge", "ZeroDivisionError",
    ]  # fmt: skip
    assert (b"4111" in letters[1].input) is not redact
    assert "4111" not in str(letters[1]) or not redact


@pytest.mark.parametrize("end", ["drain", "abort"])
@pytest.mark.parametrize("name", ["a.ndjson", "a.csv.gz"])
def test_a_source_of_a_file_ends_when_it_is_told(tmp_path: Path, name: str, end: str) -> None:
    """Held back by its window it has read no more than a chunk; a drain or an abort closes the file at once."""
    data = b"number\n" + lines(200_000)
    (tmp_path / name).write_bytes(gzip.compress(data, 1) if name.endswith("gz") else data)

    async def main() -> Run:
        sink = Never(5)
        run = Flow("f").window(5).start(from_file(tmp_path / name), sink)
        await sink.full.wait()
        getattr(run, end)()
        if end == "drain":
            while not run.context.input_closed:
                await asyncio.sleep(0)
            run.abort()
        await run.finished
        return run

    run = really(main())
    assert (run.ledger.received, run.reason) == (5, "aborted")


def test_files_do_not_hold_up_the_event_loop(tmp_path: Path) -> None:
    """Reading happens in threads of the pool: never in the thread of the loop."""
    (tmp_path / "a.csv").write_bytes(b"number\n" + b"1\n" * 50_000)
    threads: set[int] = set()

    class Spy(LineSplitter):
        def feed(self, chunk: bytes) -> list[bytes]:
            threads.add(threading.get_ident())
            return super().feed(chunk)

    class Spied(Source[bytes]):
        async def produce(self, emitter: Emitter[bytes]) -> None:
            await emit_lines(emitter, FileLineReader(str(tmp_path / "a.csv"), Spy()))

    assert read(Spied())[1].received == 50_001
    assert threads
    assert threading.get_ident() not in threads


def test_sources_of_the_same_file_are_equal() -> None:
    """Read in the same way, that is."""
    assert from_file("a.csv") == from_file(Path("a.csv"), format="csv") != from_file("a.csv", delimiter=";")
    assert len({from_file("a.csv"), from_file("a.csv"), from_file("b.csv"), from_stdin(), from_stdin()}) == 3
    assert "path='a.csv'" in repr(from_file("a.csv"))


def test_a_cancelled_call_is_waited_for() -> None:
    """However often it is cancelled: what the thread works on must not be closed under its hands."""

    async def main() -> list[str]:
        begun, go_on = threading.Event(), threading.Event()
        order: list[str] = []

        def call() -> None:
            begun.set()
            go_on.wait()
            order.append("returned")

        task = asyncio.ensure_future(to_thread_uncancellable(call))
        await asyncio.to_thread(begun.wait)
        try:
            for _ in range(3):
                task.cancel()
                await asyncio.sleep(0)
            assert not task.done()
        finally:
            go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        return [*order, "cancelled"]

    assert really(main()) == ["returned", "cancelled"]


# Standard input


def test_a_pipe_is_read_until_its_writer_closes() -> None:
    """Lines that come in pieces, and a last one without end."""
    reader, writer = os.pipe()

    async def main() -> tuple[list[Any], Summary]:
        seen: list[Any] = []
        first = asyncio.Event()
        flow = Flow("f").tap(seen.append).tap(lambda _: first.set())
        run = flow.start(StdinSource(descriptor=reader), DiscardResults())
        os.write(writer, b'{"a":1}\n{"a"')
        await first.wait()
        os.write(writer, b":2}\n3")
        os.close(writer)
        return seen, await run.finished

    seen, summary = really(main())
    os.close(reader)
    assert (seen, summary.reason) == ([{"a": 1}, {"a": 2}, 3], "completed")


@pytest.mark.parametrize("end", ["drain", "abort"])
def test_waiting_for_a_pipe_ends_at_once_and_takes_nothing(end: str) -> None:
    """No thread stays behind in a read, and what comes later is there for the next run."""
    reader, writer = os.pipe()

    async def main() -> tuple[Summary, Summary]:
        source = StdinSource(descriptor=reader)
        run = Flow("f").start(source, DiscardResults())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        getattr(run, end)()
        summary = await run.finished
        assert not asyncio.get_running_loop().remove_reader(reader)  # there is none any more
        os.write(writer, b"1\n2\n")
        os.close(writer)
        return summary, await Flow("f").start(source, DiscardResults()).finished

    ended, completed = really(main())
    os.close(reader)
    assert ended.received == 0
    assert completed.ok == 2


PROGRAM = """
import asyncio
from penstock import Flow
from penstock.results import DiscardResults
from penstock.sources import from_stdin

async def main():
    run = Flow("f").start(from_stdin(), DiscardResults())
    summary = await run.finished
    print(summary.reason, summary.ok, summary.error)

asyncio.run(main())
"""


def test_standard_input_may_be_a_file_a_pipe_or_nothing(tmp_path: Path) -> None:
    """A redirected file, a pipe, /dev/null, and one that was closed: the process ends by itself."""
    (tmp_path / "a.ndjson").write_bytes(lines(1000))

    def message(input: str | None = None, **how: Any) -> str:
        given = {"stdin": subprocess.PIPE} | how
        process = forking.start_python("-c", PROGRAM, stdout=subprocess.PIPE, text=True, **given)
        done = forking.complete(process, input, SECONDS)
        assert done.returncode == 0
        return done.stdout.splitlines()[-1]

    with (tmp_path / "a.ndjson").open() as file:
        assert message(stdin=file) == "completed 1000 None"
    assert message(input=lines(10).decode()) == "completed 10 None"
    assert message(stdin=subprocess.DEVNULL) == "completed 0 None"
    assert "the source standard input failed" in message(closed=[0])


def test_a_terminal_is_read_line_by_line() -> None:
    """A line is taken when it was typed; Ctrl-D ends the input."""
    ours, theirs = os.openpty()
    os.write(ours, b"1\n2\n\x04")
    process = forking.start_python("-c", PROGRAM, stdin=theirs, stdout=subprocess.PIPE)
    done = forking.complete(process, timeout=SECONDS)
    os.close(ours)
    os.close(theirs)

    assert done.stdout.splitlines()[-1] == b"completed 2 None"


def test_the_same_line_is_the_same_wherever_it_comes_from(tmp_path: Path) -> None:
    """A line of a file is bytes like those of a request: what was written is what a dead letter keeps."""
    (tmp_path / "a.ndjson").write_bytes(b'{"a":\n')
    _, _, (letter,) = read(from_file(tmp_path / "a.ndjson"))

    assert (letter.input, letter.type) == (b'{"a":', "MalformedJson")


@pytest.mark.parametrize(
    ("name", "reason"), [("none.ndjson", "the file does not exist"), ("", "it is not a regular file")]
)
def test_errors_name_a_path_as_it_was_written(
    tmp_path: Path, name: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a variable holds may be a secret."""
    monkeypatch.setenv("HIDDEN", str(tmp_path))
    _, summary, _ = read(from_file(f"${{HIDDEN}}/{name}", format="ndjson"))
    assert f"${{HIDDEN}}/{name} cannot be read: {reason}" in str(summary.error)
    assert str(tmp_path) not in str(summary.error)


@pytest.mark.parametrize("name", ["${NOPE}.ndjson", "$$.ndjson"])
def test_lines_are_of_the_very_file(tmp_path: Path, name: str) -> None:
    """A path that was found, or given by a flag, has no variables."""
    (tmp_path / name).write_bytes(b"1\n")
    lines = FileLineReader(str(tmp_path / name), LineSplitter())
    assert lines.next() == [b"1"]
    lines.close()
