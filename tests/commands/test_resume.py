"""`penstock run --checkpoint`: after a kill at any moment, the next one goes on, and every input has one line."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from commands.killing import CLOCK, FLOW, PARTS, WORK, prepare, records, run, start
from penstock.deadletters import DeadLetter, DeadLetterQuery, create_store
from waiting import until

COUNT = int(os.environ.get("INPUTS", "1500"))
KILLS = int(os.environ.get("KILLS", "4"))
SEED = int(os.environ.get("SEED", "1"))
RUN = ("run", "flow.yaml", "--input", "in.ndjson", "--output", "out.ndjson", "--checkpoint", "point.json",
       "--checkpoint-every", "0.1", "--quiet")  # fmt: skip


def kill_again_and_again(folder: Path, chance: random.Random, *flags: str) -> tuple[int, list[int]]:
    """Kill the command at random moments, then let it come to its end; its exit code, and the lines after each."""
    lines: list[int] = []
    for _ in range(KILLS):
        process = start(folder, *RUN, *flags)
        wait_for_output(folder, process)  # the moment is to lie in the work, not in the start of Python
        time.sleep(chance.uniform(0, 0.25))
        process.send_signal(signal.SIGKILL)
        process.wait()
        lines.append((folder / "out.ndjson").read_bytes().count(b"\n"))
    code, _, said = run(folder, *RUN, *flags)
    assert said == ""
    return code, lines


def wait_for_output(folder: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait until a process writes to its output, or has ended."""
    size = output_size(folder)
    until(lambda: process.poll() is not None or output_size(folder) != size, period=0.005)


def letters_older_than(folder: Path, *, hours: int) -> int:
    """How many letters were written so long ago, as their times say."""
    path = folder / "letters.db"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        (count,) = database.execute(
            "SELECT count(*) FROM letters WHERE failed_at < ?", ((time.time() - hours * 3600) * 1e6,)
        ).fetchone()
    return int(count)


def output_size(folder: Path) -> int:
    path = folder / "out.ndjson"
    return path.stat().st_size if path.exists() else 0


def letters_in(folder: Path) -> list[DeadLetter]:
    async def read() -> list[DeadLetter]:
        store = create_store(f"sqlite:///{folder / 'letters.db'}", create=False)
        await store.open()
        found, after = [], None
        while True:
            page = await store.page(DeadLetterQuery(), after=after, limit=1000)
            found += page.letters
            after = page.next
            if after is None:
                break
        await store.aclose()
        return found

    return asyncio.run(read())


@pytest.mark.parametrize("order", ["completion", "input", "key"])
def test_every_input_has_one_line_after_kills_at_random_moments(tmp_path: Path, order: str) -> None:
    """Those that were filtered have none; values, letters and the end record agree with it; nothing is redone.

    What fails is left to chance: an element that was run twice would fail once and not the other time.
    """
    prepare(tmp_path, COUNT)
    code, lines = kill_again_and_again(tmp_path, random.Random(SEED), "--order", order)

    *results, end = records((tmp_path / "out.ndjson").read_bytes())
    kept = [seq for seq in range(COUNT) if seq % 13 != 4]
    failed = [record for record in results if not record["ok"]]
    seqs = [record["seq"] for record in results]
    assert sorted(seqs) == kept
    assert (seqs == kept) == (order == "input")
    for record in results:
        if record["ok"]:
            assert record["value"] == {"id": record["seq"], "thrice": record["seq"] * 3}
        else:
            assert (record["key"], record["error"]["message"]) == (record["seq"], f"no {record['seq']}")
    letters = letters_in(tmp_path)
    assert sorted((record["seq"], record["deadLetter"]) for record in failed) == sorted(
        (letter.seq, letter.id) for letter in letters
    )
    assert len({letter.run for letter in letters}) == 1
    expected = {
        "received": COUNT,
        "ok": len(kept) - len(failed),
        "failed": len(failed),
        "filtered": COUNT - len(kept),
    }
    assert {name: end["end"][name] for name in expected} == expected
    assert code == 1
    assert lines == sorted(lines)
    assert lines[-1] > lines[0]


def test_a_clock_that_is_set_back_between_kills_makes_no_second_letter(tmp_path: Path) -> None:
    """Letters of a run are found by the run's id: a clock set back by two hours, before a kill, duplicates none."""
    prepare(tmp_path, 600, FLOW.replace("window: 64", "window: 256"))
    (tmp_path / "work.py").write_text(WORK.replace("random.random() < 0.1", "random.random() < 0.7"))
    (tmp_path / "sitecustomize.py").write_text(CLOCK)
    for _ in range(3):
        (tmp_path / "clock-set-back").unlink(missing_ok=True)
        process = start(tmp_path, *RUN)
        wait_for_output(tmp_path, process)
        until(lambda: letters_older_than(tmp_path, hours=0))
        (tmp_path / "clock-set-back").touch()
        old = letters_older_than(tmp_path, hours=1)
        until(lambda: process.poll() is not None or letters_older_than(tmp_path, hours=1) > old)  # noqa: B023 - at once
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert run(tmp_path, *RUN)[0] == 1

    *results, end = records((tmp_path / "out.ndjson").read_bytes())
    letters = letters_in(tmp_path)
    assert 0 < letters_older_than(tmp_path, hours=1) < len(letters)
    assert sorted((letter.seq, letter.id) for letter in letters) == sorted(
        (record["seq"], record["deadLetter"]) for record in results if not record["ok"]
    )
    assert end["end"]["failed"] == len(letters) == len({letter.seq for letter in letters})


def test_parts_are_not_doubled(tmp_path: Path) -> None:
    """Of an element that was half done, the parts that have lines keep them, and the others get theirs."""
    prepare(tmp_path, 1000, PARTS)
    kill_again_and_again(tmp_path, random.Random(SEED))

    *results, end = records((tmp_path / "out.ndjson").read_bytes())
    expected = Counter((seq, part) for seq in range(1000) for part in range(3) if seq % 5 != 1 or part != 1)
    assert Counter((record["seq"], record["part"]) for record in results) == expected
    failing = [seq for seq in range(1000) if seq % 11 == 5]
    assert sorted(letter.seq for letter in letters_in(tmp_path)) == failing
    assert (end["end"]["received"], end["end"]["failed"]) == (1000, len(failing))
