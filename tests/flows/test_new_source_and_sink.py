"""A new source and a new sink say which files they use: `penstock run` checks them like those of the library."""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from invoking import invoke
from penstock import Every, FileSink, Flow, Source
from penstock.checkpoints.output_file import FileOutput
from penstock.cli.run.execute import Job, execute
from penstock.sinks import LocalSink, Sink, UsedFile, check_sinks
from penstock.sources import Emitter


@dataclass(unsafe_hash=True)
class Words(Source[str]):
    """The words of a file, or of a descriptor."""

    name = "words"

    file: str | int

    def __post_init__(self) -> None:
        super().__init__()
        self._read = 0

    async def produce(self, emitter: Emitter[str]) -> None:
        with open(self.file, encoding="utf-8") as file:
            for word in file.read().split():
                self._read += len(word)
                await emitter.send([word])

    def used_files(self) -> Iterable[UsedFile]:
        return (UsedFile("standard input" if isinstance(self.file, int) else f"the words {self.file}", self.file),)

    @property
    def fraction_read(self) -> float | None:
        return self._read / os.stat(self.file).st_size

    @property
    def failure_hint(self) -> str | None:
        return "all words have to be numbers"


@dataclass
class Diary(LocalSink):
    """Appends values to a file or to a descriptor, with a text between them."""

    file: str | int
    between: str = " "
    name: str = field(default="", compare=False)

    def used_files(self) -> Iterable[UsedFile]:
        return (UsedFile("standard output" if isinstance(self.file, int) else f"the diary {self.file}", self.file),)

    async def open(self) -> None:
        pass

    async def write(self, values: Sequence[str]) -> None:
        with open(self.file, "a", encoding="utf-8") as file:
            file.writelines(value + self.between for value in values)

    async def aclose(self) -> None:
        pass


def flow_of(source: Source[str], *sinks: Sink) -> Flow[str, str]:
    """Make a flow with a worker that reads the source."""
    flow = Flow[str, str]("f").worker("w", source, Every(60))
    for number, sink in enumerate(sinks):
        flow = flow.to(sink, name=f"sink-{number}")
    return flow


READS = flow_of(Words("in.txt"))
WRITES = flow_of(Words("in.txt"), Diary("diary.txt"))
WRITES_ITS_INPUT = flow_of(Words("in.txt"), Diary("./in.txt"))
WRITES_TWICE = flow_of(Words("in.txt"), Diary("diary.txt"), Diary("./diary.txt", between=", "))
WRITES_BESIDE_A_FILE_SINK = flow_of(Words("in.txt"), FileSink("a.ndjson"), Diary("./a.ndjson"))
WRITES_TO_STDOUT = flow_of(Words("in.txt"), Diary(1))
READS_A_CLOSED_INPUT = flow_of(Words(-1))


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in.txt").write_text("one two")
    Path("link.txt").symlink_to("in.txt")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("READS --output in.txt", 2, "the output in.txt is the same file as the words in.txt, which would be"),
        ("READS --output link.txt", 2, "the output link.txt is the same file as the words in.txt, which would be"),
        ("WRITES --output diary.txt", 2, "the output diary.txt is the same file as the diary diary.txt, which"),
        ("WRITES_ITS_INPUT --output o", 2, "the diary ./in.txt is the same file as the words in.txt, which would"),
        (
            "WRITES_TWICE --output o",
            1,
            "the diary ./diary.txt cannot be written to: it is the same file as the diary diary.txt (Diary), and this "
            "sink is Diary; give both the same format and fields, or two files",
        ),
        (
            "WRITES_BESIDE_A_FILE_SINK --output o",
            1,
            "the diary ./a.ndjson cannot be written to: it is the same file as a.ndjson (ndjson), and this sink is",
        ),
        ("WRITES_TO_STDOUT", 2, "this flow writes to standard output itself; write its results to a file: --output"),
        ("READS_A_CLOSED_INPUT --output o", 2, "standard input cannot be read: Bad file descriptor; name a file"),
    ],
)
def test_a_file_with_two_uses_is_rejected_before_the_run(words: str, code: int, message: str) -> None:
    """An output that is also an input, two sinks of one file, standard output twice; nothing is written."""
    name, *options = words.split()
    result = invoke("run", f"{__name__}:{name}", "--worker", "w", *options)

    assert (result.exit_code, result.stdout) == (code, "")
    assert message in result.stderr
    assert Path("in.txt").read_text() == "one two"
    assert sorted(os.listdir()) == ["in.txt", "link.txt"]


def test_a_checkpoint_is_not_the_file_of_a_new_sink() -> None:
    """It would be overwritten."""
    Path("in.ndjson").touch()
    options = ("--input", "in.ndjson", "--output", "o", "--checkpoint", "diary.txt")
    result = invoke("run", f"{__name__}:WRITES", *options)
    assert "the checkpoint diary.txt is the same file as the diary diary.txt" in result.stderr


def test_equal_sinks_may_name_one_file() -> None:
    """They are opened once and shared."""
    check_sinks([Diary("diary.txt"), Diary("diary.txt"), Diary("other.txt", between=", ")], locks=True)


def test_a_run_shows_what_a_new_source_says() -> None:
    """How much was read, and what to do about elements that failed."""
    messages = io.StringIO()
    flow = Flow[str, str]("f").to(Diary("diary.txt")).map(float)
    output = FileOutput.open("o")
    try:
        job = Job(flow=flow, source=Words("in.txt"), output=output, progress=True, messages=messages)
        assert asyncio.run(execute(job)) == 1
    finally:
        output.close()

    assert Path("diary.txt").read_text() == "one two "
    assert "f    0%  0 received" in messages.getvalue()
    assert "\n  all words have to be numbers\n" in messages.getvalue()
