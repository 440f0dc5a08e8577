"""Checkpoints: what a run that goes on takes from them, and what it refuses to go on from."""

from __future__ import annotations

import fcntl
import json
import os
import random
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from commands.killing import FLOW, SECONDS, STARTED, prepare, records, run, start
from commands.test_resume import letters_in
from penstock.checkpoints.checkpoint import Checkpoint, write_checkpoint
from penstock.checkpoints.interval_set import IntervalSet
from service.processes import until
from waiting import end

RUN = ("run", "flow.yaml", "--input", "in.ndjson", "--output", "out.ndjson", "--checkpoint", "point.json", "--order",
       "completion")  # fmt: skip

COUNTED = """\
async def look_up(value):
    with open("calls.txt", "a") as file:
        file.write(f"{value['id']}\\n")
    if value["id"] % 3 == 2:
        raise ValueError(f"no {value['id']}")
    return value["id"] * 3
"""

GATED = """\
import asyncio, os

async def look_up(value):
    while value["id"] > 100 and not os.path.exists("changed"):
        await asyncio.sleep(0.02)
    return value["id"] * 3
"""
"""So the run is still under way when the test changes a file."""


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder in which a run of nine items came to its end, and a copy of it."""
    folder = tmp_path_factory.mktemp("complete")
    prepare(folder, 9, FLOW)
    (folder / "work.py").write_text(COUNTED)
    assert run(folder, *RUN)[0] == 1
    while STARTED:
        end(STARTED.pop())
    return folder, Path(shutil.copytree(folder, tmp_path_factory.mktemp("copy") / "of"))


@pytest.fixture
def done(complete: tuple[Path, Path]) -> Path:
    """The folder as it was after the run: a checkpoint names paths and times of its files, so it stays where it is."""
    folder, copy = complete
    shutil.rmtree(folder)
    return Path(shutil.copytree(copy, folder))


def as_if_killed(folder: Path, lost: int, tail: bytes = b"", **changes: Any) -> list[dict[str, Any]]:
    """Take the last lines off the output, and what is told of them from the checkpoint; returns those lines."""
    lines = (folder / "out.ndjson").read_bytes().splitlines(keepends=True)
    (folder / "out.ndjson").write_bytes(b"".join(lines[:-lost]) + tail)
    gone = [json.loads(line) for line in lines[-lost:]]
    point = json.loads((folder / "point.json").read_text())
    fresh = {"offset": 0, "done": [], "ok": 0, "failed": 0, "filtered": 0, "end": None}
    (folder / "point.json").write_text(json.dumps(point | fresh | changes))
    (folder / "calls.txt").unlink(missing_ok=True)
    return gone


def calls(folder: Path) -> list[int]:
    path = folder / "calls.txt"
    return sorted(map(int, path.read_text().split())) if path.exists() else []


def test_a_complete_run_does_nothing_and_says_so(done: Path) -> None:
    """Its exit code is that of the first; nothing is changed."""
    before = (done / "out.ndjson").read_bytes()
    (done / "calls.txt").unlink()
    code, _, said = run(done, *RUN)
    assert (code, calls(done), (done / "out.ndjson").read_bytes()) == (1, [], before)
    assert "the run had completed before; to run it again: --restart" in said


def test_a_run_that_was_killed_before_its_last_checkpoint_is_complete_too(done: Path) -> None:
    """The end record in the output is enough."""
    before = (done / "out.ndjson").read_bytes()
    last = as_if_killed(done, 1)
    (done / "out.ndjson").write_bytes(before)
    assert run(done, *RUN)[0] == 1
    assert calls(done) == []
    assert records((done / "out.ndjson").read_bytes())[-1] == last[0]


def test_an_element_whose_letter_was_stored_is_not_run_again(done: Path) -> None:
    """Killed between letter and line: the line comes from the letter, and there is no second one."""
    lines = (done / "out.ndjson").read_bytes().splitlines(keepends=True)
    failed = [line for line in lines if line.startswith(b'{"ok":false')]
    others = [line for line in lines if line.startswith(b'{"ok":true')]
    (done / "out.ndjson").write_bytes(b"".join((*others, *failed, lines[-1])))
    letters = [letter.id for letter in letters_in(done)]
    gone = as_if_killed(done, len(failed) + 1)

    assert run(done, *RUN)[0] == 1
    *results, end = records((done / "out.ndjson").read_bytes())
    assert sorted(results[len(others) :], key=lambda one: one["seq"]) == sorted(gone[:-1], key=lambda one: one["seq"])
    assert calls(done) == []
    assert [letter.id for letter in letters_in(done)] == letters
    assert {name: end["end"][name] for name in ("received", "ok", "failed", "filtered")} == {
        "received": 9, "ok": len(others), "failed": len(failed), "filtered": 1,
    }  # fmt: skip


@pytest.mark.parametrize("tail", [b"", b'{"ok":true,"seq":7,"val', b"\0\0\0\0", b'{"ok":true}\n', b"\n"])
def test_what_is_no_whole_line_is_cut_off(done: Path, tail: bytes) -> None:
    """Half a line, or what a power cut may leave behind; only what has no line is run."""
    gone = as_if_killed(done, 3, tail)
    assert run(done, *RUN)[0] == 1
    *results, end = records((done / "out.ndjson").read_bytes())
    assert sorted(record["seq"] for record in results) == [0, 1, 2, 3, 5, 6, 7, 8]
    assert calls(done) == sorted(record["seq"] for record in gone[:-1] if record["ok"])
    assert end["end"]["received"] == 9


def touch(folder: Path) -> None:
    os.utime(folder / "in.ndjson", (1, 1))


def lengthen(folder: Path) -> None:
    with (folder / "in.ndjson").open("a") as file:
        file.write('{"id":9}\n')


def other_flow(folder: Path) -> None:
    path = folder / "flow.yaml"
    path.write_text(path.read_text() + "description: another\n")


def shorten_output(folder: Path) -> None:
    (folder / "out.ndjson").write_bytes(b"")


def no_checkpoint(folder: Path) -> None:
    (folder / "point.json").unlink()


def garbage(folder: Path) -> None:
    (folder / "point.json").write_text("{")


def not_utf_8(folder: Path) -> None:
    (folder / "point.json").write_bytes(b'{"run":"\xff"}')


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (touch, "a run with another input: "),
        (lengthen, "a run with another input: "),
        (other_flow, "a run with another flow: "),
        (shorten_output, "lacks some of the "),
        (no_checkpoint, "is not empty, and there is no checkpoint"),
        (garbage, "it is not a checkpoint"),
        (not_utf_8, "it is not a checkpoint: not UTF-8 at byte 8"),
    ],
)
def test_a_run_does_not_go_on_with_something_else(done: Path, change: Any, sentence: str) -> None:
    """It is refused with a sentence, and the output stays as it is; `--restart` begins anew."""
    change(done)
    before = (done / "out.ndjson").read_bytes()
    code, _, said = run(done, *RUN)
    assert code in (1, 2)
    assert sentence in said
    assert "--restart" in said
    assert (done / "out.ndjson").read_bytes() == before

    assert run(done, *RUN, "--restart")[0] == 1
    assert len(records((done / "out.ndjson").read_bytes())) >= 9


def test_the_order_of_results_cannot_change_half_way(done: Path) -> None:
    """The output would be in neither."""
    code, _, said = run(done, *RUN[:-1], "input")
    assert (code, "another order of results: completion; now it is input" in said) == (2, True)


def test_two_processes_do_not_write_the_same_output(done: Path) -> None:
    """The second one is refused, as long as the first one holds the file."""
    with (done / "out.ndjson").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        code, _, said = run(done, *RUN)
    assert (code, "another process is writing to it" in said) == (1, True)
    assert "the run had completed before" in run(done, *RUN)[2]


def test_ranges_are_a_set_of_numbers() -> None:
    """In whatever order they come; the holes are told."""
    chance = random.Random(5)
    for _ in range(50):
        numbers = chance.choices(range(60), k=chance.randrange(80))
        ranges = IntervalSet()
        for number in numbers:
            ranges.add(number)
        there = set(numbers)
        assert [number for number in range(70) if number in ranges] == sorted(there)
        assert len(ranges) == len(there)
        assert ranges.first_missing == min(set(range(61)) - there)
        start, stop = chance.randrange(40), chance.randrange(30, 70)
        missing = [number for first, end in ranges.missing(start, stop) for number in range(first, end)]
        assert missing == [number for number in range(start, stop) if number not in there]
        assert all(before[1] < after[0] for before, after in zip(list(ranges), list(ranges)[1:], strict=False))


@pytest.mark.parametrize("days", [-10_000, 10_000])
def test_letters_of_the_run_are_found_whatever_the_clock_says(done: Path, days: int) -> None:
    """No time decides which letters belong to a run, neither that of the checkpoint nor one of an older version."""
    letters = [letter.id for letter in letters_in(done)]
    lines = len((done / "out.ndjson").read_bytes().splitlines())
    time = (datetime.now(UTC) + timedelta(days=days)).isoformat()
    as_if_killed(done, lines, since=time, started_at=time)

    assert run(done, *RUN)[0] == 1
    assert [letter.id for letter in letters_in(done)] == letters


@pytest.mark.parametrize(
    "changes", [{"offset": -5}, {"offset": 1 << 70}, {"done": [[3, 4], [0, 2]]}, {"done": [[0, 2], [1, 4]]}], ids=repr
)
def test_numbers_that_cannot_be_are_no_checkpoint(done: Path, changes: dict[str, Any]) -> None:
    """Nothing goes on from there; the way out is said."""
    as_if_killed(done, 1, **changes)
    code, _, said = run(done, *RUN)
    assert (code, "--restart" in said, "Traceback" in said) == (2, True, False)


def remove_output(folder: Path) -> None:
    (folder / "out.ndjson").unlink()


def lengthen_input(folder: Path) -> None:
    with (folder / "in.ndjson").open("a") as file:
        file.write('{"id":5000}\n')


@pytest.mark.parametrize(
    ("change", "reason"), [(remove_output, "was removed or replaced"), (lengthen_input, "changed while it was read")]
)
def test_a_run_whose_files_are_changed_under_it_is_not_complete(tmp_path: Path, change: Any, reason: str) -> None:
    """Its results are lost, or are not those of its input."""
    prepare(tmp_path, 300)
    (tmp_path / "work.py").write_text(GATED)
    process = start(tmp_path, *RUN, "--checkpoint-every", "0.1", stderr=subprocess.PIPE)
    path = tmp_path / "out.ndjson"
    until(lambda: path.exists() and path.stat().st_size > 1000)
    change(tmp_path)
    (tmp_path / "changed").touch()
    said = process.communicate(timeout=SECONDS)[1].decode()
    assert process.returncode == 1
    assert reason in said


def test_no_file_is_lost_whose_name_is_like_that_of_the_checkpoint(tmp_path: Path) -> None:
    """A checkpoint is written beside its place under a name that is nobody's; the input may be called `X.new`."""
    prepare(tmp_path, 9)
    (tmp_path / "in.ndjson").rename(tmp_path / "point.json.new")
    words = ["point.json.new" if word == "in.ndjson" else word for word in RUN]
    assert run(tmp_path, *words, "--format", "ndjson")[0] in (0, 1)
    assert records((tmp_path / "point.json.new").read_bytes()) == [{"id": number} for number in range(9)]
    assert records((tmp_path / "out.ndjson").read_bytes())[-1]["end"]["received"] == 9


def test_half_written_checkpoints_do_not_pile_up(done: Path) -> None:
    """One that cannot be written is removed; what a killed process left goes when its run is gone on with."""
    unwritten = Checkpoint(run="r", inputs={}, started_at=datetime.now(UTC))
    (done / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        write_checkpoint(str(done / "folder"), unwritten)
    assert list(done.glob("folder.*")) == []

    others = ["point.json.new", "point.json.0123456789abcdef.old", "my-point.json.0123456789abcdef.new"]
    for name in ("point.json.0123456789abcdef.new", *others):
        (done / name).write_text("{")
    assert run(done, *RUN)[0] == 1
    assert {path.name for path in done.glob("*point.json*")} == {"point.json", *others}


@pytest.mark.parametrize("kind", ["fifo", "/dev/full", "/dev/zero", "folder"])
@pytest.mark.parametrize("flags", [[], ["--restart"]], ids=["go on", "restart"])
def test_what_is_no_regular_file_is_no_checkpoint(done: Path, kind: str, flags: list[str]) -> None:
    """It might have no end, or hold whoever reads it up; it is refused at once, and stays where it is."""
    (done / "point.json").unlink()
    if kind == "fifo":
        os.mkfifo(done / "point.json")
    elif kind == "folder":
        (done / "point.json").mkdir()
    else:
        (done / "point.json").symlink_to(kind)
    before = (done / "point.json").lstat().st_ino, (done / "out.ndjson").read_bytes()
    code, _, said = run(done, *RUN, *flags)
    assert (code, said.endswith("it is not a regular file; name another: --checkpoint FILE\n")) == (2, True)
    assert ((done / "point.json").lstat().st_ino, (done / "out.ndjson").read_bytes()) == before


def test_a_file_that_is_far_too_large_is_no_checkpoint(done: Path) -> None:
    """No more of it is read than any checkpoint has."""
    os.truncate(done / "point.json", 1 << 42)
    code, _, said = run(done, *RUN)
    assert (code, "it has more than 268435456 bytes" in said, "--restart" in said) == (2, True, True)
