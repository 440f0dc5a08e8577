"""`penstock run`: results on standard output, everything else on standard error, and an exit code that tells."""

from __future__ import annotations

import gzip
import os
import pty
import select
import shlex
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import unused_port

from commands.killing import SECONDS, prepare, records, run, start
from invoking import invoke
from penstock.cli.run.progress import ProgressSnapshot, clock, progress_line

DOUBLE = """\
flow: double
key: id
item: {id: {type: integer, minimum: 0}}
steps:
  - filter: value.id != 3
  - map: {twice: value.id * 2}
samples: {id: seq}
workers:
  nightly: {source: {generate: 2}}
"""

READING = f"""\
{DOUBLE}
  file: {{source: {{file: "${{NONE:-.}}/in.ndjson"}}}}
  stdin: {{source: {{stdin: true}}}}
  folder: {{source: {{directory: .}}}}
include: [shared.yaml]
"""

SLOW = """\
flow: slow
item: {id: integer}
window: 8
services:
  wait: {call: "slow:wait", timeout: 2m}
steps:
  - map_async: wait
"""

DOWN = """\
flow: down
services:
  prices: {{get: "http://127.0.0.1:{port}", attempts: 1000, backoff: none, breaker: {{failures: 3, max_open: 1s}}}}
steps:
  - map_async: prices
samples: {{id: seq}}
"""

WAIT = """\
import asyncio


async def wait(value):
    await asyncio.sleep(60 if value["id"] == 99 else 0.05)
    return value
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    prepare(tmp_path, 5, DOUBLE)
    return tmp_path


def test_results_are_lines_as_over_http_and_the_end_record_is_the_last(folder: Path) -> None:
    """An input that is wrong is a failed element like any other, and the exit code tells of it."""
    code, out, said = run(folder, "run", "flow.yaml", "--order", "input", stdin=b'{"id":1}\nno\n{"id":3}\n{"id":4}')
    first, second, third, end = records(out)
    assert first == {"ok": True, "seq": 0, "value": {"twice": 2}}
    assert (second["ok"], second["seq"], second["error"]["step"]) == (False, 1, "decode")
    assert third == {"ok": True, "seq": 3, "value": {"twice": 8}}
    del end["end"]["seconds"]
    assert end["end"] == {
        "reason": "completed", "received": 4, "ok": 2, "failed": 1, "filtered": 1, "cancelled": 0,
    }  # fmt: skip
    assert code == 1
    assert said.startswith("double: completed: 4 received, 2 ok, 1 failed, 1 filtered in ")
    assert said.endswith("dead letters were not stored; to store them: --dead-letters sqlite:///FILE\n")
    assert said.count("\n") == 2


def test_all_well_is_0_and_quiet_says_nothing(folder: Path) -> None:
    """What was filtered is well too."""
    code, out, said = run(folder, "run", "flow.yaml", "--input", "in.ndjson", "--quiet")
    assert (code, len(records(out)), said) == (0, 5, "")


def test_a_compressed_csv_is_an_input_and_a_file_an_output(folder: Path) -> None:
    """The output is written anew; CSV can come through a pipe too."""
    text = (folder / "flow.yaml").read_text().replace("{type: integer, minimum: 0}", "string")
    (folder / "texts.yaml").write_text(text.replace("value.id != 3", "value.id != '3'").replace("* 2", "+ '!'"))
    (folder / "in.csv.gz").write_bytes(gzip.compress(b"id\n1\n2\n"))
    (folder / "out.ndjson").write_text("what was there before, and is longer than what is written now" * 10)
    code, out, _ = run(folder, "run", "texts.yaml", "--input", "in.csv.gz", "--output", "out.ndjson")
    assert (code, out) == (0, b"")
    values = [record["value"]["twice"] for record in records((folder / "out.ndjson").read_bytes())[:-1]]
    assert sorted(values) == ["1!", "2!"]
    piped = run(folder, "run", "texts.yaml", "--format", "csv", "--order", "input", "--quiet", stdin=b"id\n1\n2\n")[1]
    assert [record["value"]["twice"] for record in records(piped)[:-1]] == ["1!", "2!"]


@pytest.mark.parametrize(("words", "count"), [(("--samples", "7"), 6), (("--worker", "nightly"), 2)])
def test_samples_and_workers_are_run_once(folder: Path, words: tuple[str, ...], count: int) -> None:
    """The flow itself says what they are."""
    code, out, _ = run(folder, "run", "flow.yaml", *words)
    assert (code, len(records(out)) - 1) == (0, count)


@pytest.mark.parametrize("name", ["mine:flow", "mine:make"])
def test_a_flow_can_be_in_python(folder: Path, name: str) -> None:
    """The flow itself, or a function that makes it."""
    (folder / "mine.py").write_text(
        "from penstock import Flow\nflow = Flow('mine').map(str)\n\n\ndef make():\n    return flow\n"
    )
    code, out, _ = run(folder, "run", name, stdin=b"5\n")
    assert (code, records(out)[0]["value"]) == (0, "5")


PRINTING = """\
from penstock import Flow
from penstock.sinks import StdoutSink

print("at import")


def say(value):
    print("in a step")
    return value


flow = Flow("says").map(say)
delivers = Flow("delivers").map(say).to(StdoutSink())
"""


def test_what_modules_print_is_not_among_the_results(folder: Path) -> None:
    """It is on standard error: standard output has results, and what an outlet writes there."""
    (folder / "says.py").write_text(PRINTING)
    code, out, said = run(folder, "run", "says:flow", stdin=b"5\n")
    assert (code, len(records(out)), records(out)[0]["value"]) == (0, 2, 5)
    assert said.startswith("at import\nin a step\n")

    delivered = run(folder, "run", "says:delivers", "--output", "o.ndjson", "--quiet", stdin=b"5\n")
    assert delivered == (0, b"5\n", "at import\nin a step\n")


@pytest.mark.parametrize("url", ["sqlite:///kept.db", "sqlite:///${KEPT:-a}/it's kept.db"])
def test_failures_are_kept_where_the_flag_says(folder: Path, url: str) -> None:
    """And the summary says how to look at them, in words for a shell."""
    (folder / "a").mkdir()
    code, out, said = run(folder, "run", "flow.yaml", "--dead-letters", url, stdin=b"no\n")
    assert code == 1
    words = shlex.split(said.splitlines()[1].partition("penstock ")[2])
    listed = run(folder, *words, "--json")
    assert listed[0] == 0
    assert records(listed[1])[0]["id"] == records(out)[0]["deadLetter"]


@pytest.mark.parametrize("url", ["memory", "memory:", "${KEPT:-memory}"])
def test_what_was_kept_in_memory_is_said_to_be_gone(folder: Path, url: str) -> None:
    """No command could show it any more; one that could have been is named."""
    code, _, said = run(folder, "run", "flow.yaml", "--dead-letters", url, stdin=b"no\n")
    assert (code, said.count("\n")) == (1, 2)
    assert said.endswith(
        "dead letters were stored in memory and are lost; to keep them: --dead-letters sqlite:///FILE\n"
    )


FULL = "the output standard output cannot be used: No space left on device"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no disk that is always full")
@pytest.mark.parametrize(
    ("stdin", "expected"),
    [
        (b'{"id":1}\n', {"run.failed", "the run failed"}),
        (b"", {"penstock run"}),
    ],
)
def test_a_full_disk_behind_standard_output_is_said_in_a_sentence(
    folder: Path, stdin: bytes, expected: set[str]
) -> None:
    """Whether the results do not fit, or the end record alone."""
    with open("/dev/full", "wb") as full:
        process = start(folder, "run", "flow.yaml", stdin=subprocess.PIPE, stdout=full, stderr=subprocess.PIPE)
        said = process.communicate(stdin, SECONDS)[1].decode()
    assert process.returncode == 1
    told = [line for line in said.splitlines() if FULL in line]
    assert {word for word in ("run.failed", "the run failed", "penstock run") if word in "".join(told)} == expected
    assert "Traceback" not in said


def test_a_missing_folder_for_the_dead_letters_is_said_before_anything_runs(folder: Path) -> None:
    """In one sentence, without a log line."""
    words = ("run", "flow.yaml", "--quiet", "--dead-letters", "sqlite:///none/a.db")
    assert run(folder, *words, stdin=b"1\n") == (
        1,
        b"",
        "penstock run: dead-letter store sqlite:///none/a.db: there is no folder none; create it, or name another "
        "file\n",
    )


@pytest.mark.parametrize(
    ("flags", "stdin", "hinted"),
    [
        ((), b"id,n\n1,2\n", True),
        ((), b'\xef\xbb\xbf"id","n"\n1,2\n', True),
        ((), b'{"id":}\n', False),
        ((), b'{"id":1}\nid\n', False),
        (("--format", "csv"), b"id,n\n1\n", False),
        (("--quiet",), b"id,n\n1,2\n", False),
    ],
)
def test_the_option_for_csv_is_named_once_if_the_input_does_not_begin_with_json(
    folder: Path, flags: tuple[str, ...], stdin: bytes, hinted: bool
) -> None:
    """At the end, unless nothing is to be said."""
    code, _, said = run(folder, "run", "flow.yaml", *flags, stdin=stdin)
    assert (code, said.count("does not look like NDJSON; for CSV add --format csv")) == (1, int(hinted))


@pytest.mark.parametrize("more", ["", "--checkpoint c.json"])
def test_an_output_in_a_folder_that_does_not_exist_is_refused(
    folder: Path, more: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder is named, and what to do."""
    monkeypatch.chdir(folder)
    result = invoke("run", "flow.yaml", "--input", "in.ndjson", "--output", "nodir/x", *more.split())
    assert result.exit_code == 1
    assert result.stderr == (
        "penstock run: the output nodir/x cannot be used: the folder nodir does not exist; create it, or name another "
        "file\n"
    )


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("none.yaml", "penstock run: none.yaml: the file does not exist\n"),
        (".", "penstock run: .: this is a directory; name a flow file in it\n"),
        ("none", "the file none does not exist; a flow in Python is named with its module: none:NAME"),
        ("waits:make", "waits:make: expected a plain function, got a coroutine function"),
        ("waits:make_many", "got a coroutine function"),
        ("stdout.yaml --samples 2 --output o", "or .samples(…) in Python"),
        ("none:flow", "the module none does not exist"),
        ("penstock.orders:nothing", "penstock.orders has no nothing"),
        ("penstock.orders:Order", "expected a flow"),
        (
            "json:loads",
            "json:loads: expected a function that can be called without arguments: missing a required argument: 's'",
        ),
        ("asyncio:get_running_loop", "asyncio:get_running_loop failed: RuntimeError: no running event loop"),
        ("flow.yaml --input none.ndjson", "the file none.ndjson does not exist"),
        ("flow.yaml --input .", "is a directory"),
        ("flow.yaml --input flow.yaml", "set the format to ndjson or csv; use --format ndjson or --format csv"),
        ("flow.yaml --worker daily", "has no worker 'daily' (workers: nightly)"),
        ("flow.yaml --samples 3 --format csv", "--format: expected only with --input"),
        ("flow.yaml --restart", "--restart: expected only with --checkpoint"),
        ("flow.yaml --checkpoint c.json", "--input FILE"),
        ("flow.yaml --checkpoint c.json --worker nightly", "--checkpoint needs --input FILE instead of --worker"),
        ("flow.yaml --checkpoint c.json --samples 3", "--checkpoint needs --input FILE instead of --samples"),
        ("flow.yaml --checkpoint c.json --input in.ndjson", "--output FILE"),
        ("flow.yaml --checkpoint in.ndjson --input in.ndjson --output o", "expected three different files"),
        ("parts.yaml --checkpoint c.json --input in.ndjson --output o", "parts in more than one step"),
        ("own.yaml --checkpoint c.json --input in.ndjson --output o", "parts in more than one step"),
        ("stdout.yaml", "writes to standard output itself"),
        ("stdout.yaml --output -", "writes to standard output itself"),
        ("stdout.yaml --output /dev/stdout", "writes to standard output itself"),
        ("flow.yaml --window 0", "expected an integer >= 1, got '0'"),
        ("flow.yaml --input in.ndjson --samples 2", "--input and --samples cannot be combined"),
        ("flow.yaml --checkpoint-every 0", "expected a number of seconds > 0, got '0'"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_a_sentence(
    folder: Path, words: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 2, and nothing was begun."""
    monkeypatch.chdir(folder)
    (folder / "waits.py").write_text("async def make(): pass\nasync def make_many(): yield\n")
    (folder / "stdout.yaml").write_text("flow: f\nsteps:\n  - to: stdout\n")
    (folder / "parts.yaml").write_text("flow: f\nsteps:\n  - flat_map: value\n  - flat_map: value\n")
    own = "{operator: operator:pos, max_parts: 2}"
    (folder / "own.yaml").write_text(f"flow: f\nsteps:\n  - flat_map: value\n  - operator: {own}\n")
    before = sorted(folder.iterdir())
    result = invoke("run", *words.split())
    assert (result.exit_code, result.stdout) == (2, "")
    assert sentence in result.stderr
    assert sorted(path for path in folder.iterdir() if path.name != "__pycache__") == before


@pytest.mark.parametrize(
    ("words", "kept", "link"),
    [
        ("--input in.ndjson", "in.ndjson", None),
        ("--input in.ndjson", "flow.yaml", os.link),
        ("--samples 1", "flow.yaml", os.symlink),
        ("--input in.ndjson", "shared.yaml", None),
        ("", "in.ndjson", os.link),
        ("--worker file", "in.ndjson", os.symlink),
        ("--worker stdin", "in.ndjson", None),
        ("--worker folder", "in.ndjson", None),
        ("--input in.ndjson --checkpoint c.json", "in.ndjson", os.link),
        ("--input in.ndjson --checkpoint c.json", "flow.yaml", None),
        ("--input in.ndjson --checkpoint c.json --restart", "flow.yaml", os.symlink),
    ],
)
def test_an_output_that_is_read_is_refused_and_stays(folder: Path, words: str, kept: str, link: Any) -> None:
    """Under its own name or another, and before it is emptied."""
    (folder / "flow.yaml").write_text(READING)
    (folder / "shared.yaml").write_text("templates: {}\n")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    name = kept
    if link is not None:
        name = "other.ndjson"
        link(folder / kept, folder / name)

    with open(folder / "in.ndjson", "rb") as stdin:
        words = f"run flow.yaml {words} --output {name}"
        process = start(folder, *words.split(), stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        out, said = process.communicate(timeout=SECONDS)

    assert (process.returncode, out, said.count(b"\n")) == (2, b"", 1)
    assert b"name another" in said
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "other.ndjson"} == before


ADDING = """\
flow: adds
key: id
item: {id: {type: integer, minimum: 2}}
steps:
  - to: {file: kept.ndjson}
dead_letters: sqlite:///${NONE:-.}/kept.db
samples: {id: seq}
"""


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("--samples 3 --output kept.db", "kept.db is the same file as the dead letters"),
        ("--samples 3 --output kept.db-wal", "kept.db-wal is the same file as the dead letters"),
        ("--samples 3 --output kept.db-shm", "kept.db-shm is the same file as the dead letters"),
        ("--input in.ndjson --output o --checkpoint kept.db-journal", "the checkpoint kept.db-journal"),
        ("--samples 3 --output kept.ndjson", "kept.ndjson is the same file as the sink"),
        ("--input in.ndjson --output o --checkpoint kept.db --restart", "the checkpoint kept.db"),
        ("--input kept.ndjson", "the sink kept.ndjson of a step is the same file as the input"),
    ],
)
@pytest.mark.parametrize("there", [True, False], ids=["there", "new"])
def test_what_a_run_adds_to_is_not_written_anew_nor_read(folder: Path, words: str, named: str, there: bool) -> None:
    """Letters and delivered lines would be emptied, or read again and again without end."""
    (folder / "flow.yaml").write_text(ADDING)
    if there or "--input kept" in words:
        code, _, _ = run(folder, "run", "flow.yaml", "--samples", "3", "--output", "first.ndjson")
        assert code == 1  # the sample 1 fails
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    code, out, said = run(folder, "run", "flow.yaml", *words.split())

    assert (code, out) == (2, b"")
    assert named in said
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_standard_output_and_the_checkpoint_are_no_file_that_is_read(folder: Path) -> None:
    """Appending to the input would never end, and beginning anew throws a checkpoint away."""
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with open(folder / "in.ndjson", "ab") as appended:
        process = start(folder, "run", "flow.yaml", "--input", "in.ndjson", stdout=appended, stderr=subprocess.PIPE)
        said = process.communicate(timeout=SECONDS)[1]
    assert (process.returncode, said.startswith(b"penstock run: standard output is the same file")) == (2, True)

    words = ("--input", "in.ndjson", "--output", "out.ndjson", "--checkpoint", "flow.yaml", "--restart")
    code, _, told = run(folder, "run", "flow.yaml", *words)
    assert (code, "the checkpoint flow.yaml is the same file" in told) == (2, True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_reader_that_has_enough_ends_the_run_quietly(folder: Path) -> None:
    """As with `| head`: exit code 1, nothing is said."""
    process = start(folder, "run", "flow.yaml", "--samples", "1000000", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(SECONDS) == 1
    assert process.stderr.read() == b""
    process.stderr.close()


def test_a_reader_that_does_not_read_holds_the_input_back(folder: Path) -> None:
    """Of 64 MB that could be written, only what pipes and one window hold is taken."""
    process = start(
        folder, "run", "flow.yaml", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdin is not None
    try:
        descriptor = process.stdin.fileno()
        os.set_blocking(descriptor, False)
        taken = 0
        # Python has to start first; after that, a second without room means that nothing is taken any more.
        while taken < 64_000_000 and select.select([], [descriptor], [], SECONDS if taken < 100_000 else 1)[1]:
            taken += os.write(descriptor, b'{"id":1}\n' * 400)
        assert 100_000 < taken < 2_000_000
    finally:
        process.kill()
        process.wait()
        os.set_blocking(process.stdin.fileno(), True)
        process.communicate()


@pytest.mark.parametrize("event_loop", ["asyncio", "uvloop"])
def test_descriptors_stay_blocking(folder: Path, event_loop: str) -> None:
    """Their mode is shared with other processes, such as the shell. libuv makes non-blocking what it polls."""
    (reader, writer), (output, stdout) = os.pipe(), os.pipe()
    words = ("run", "flow.yaml", "--event-loop", event_loop)
    process = start(folder, *words, stdin=reader, stdout=stdout, stderr=subprocess.DEVNULL)
    try:
        os.write(writer, b'{"id":1}\n')
        assert os.read(output, 1)  # it has polled both

        assert os.get_blocking(reader)
        assert os.get_blocking(stdout)
    finally:
        os.close(writer)
        process.wait(SECONDS)
        for descriptor in (reader, output, stdout):
            os.close(descriptor)


@pytest.mark.parametrize("code", ["while True: pass", "sum(range(10**12))"], ids=["in Python", "in C"])
def test_a_third_signal_ends_a_stuck_run(folder: Path, code: str) -> None:
    """Also when no Python code can run, its signal handlers included."""
    (folder / "stuck.py").write_text(
        f"import pathlib\n\ndef stuck(value):\n    pathlib.Path('begun').touch()\n    {code}\n"
    )
    (folder / "stuck.yaml").write_text("flow: stuck\nsteps: [{tap: 'stuck:stuck'}]\n")
    process = start(folder, "run", "stuck.yaml", stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert process.stdin is not None
    try:
        process.stdin.write(b"{}\n")
        process.stdin.close()
        while not (folder / "begun").exists():
            assert process.poll() is None
            time.sleep(0.02)
        for _ in range(3):
            process.send_signal(signal.SIGTERM)
            time.sleep(0.1)  # signals of one number that come at once are one
        assert process.wait(SECONDS) in (1, -signal.SIGKILL)
    finally:
        process.kill()
        process.wait()


TWO = (signal.SIGTERM, signal.SIGINT)
"""Two signals of the same number that arrive at the same moment would be one."""


def signalled(folder: Path, data: bytes, results: int, *signals: signal.Signals) -> tuple[int, bytes]:
    """Send signals once there are so many results; returns the exit code and the output."""
    (folder / "slow.py").write_text(WAIT)
    (folder / "slow.yaml").write_text(SLOW)
    process = start(
        folder, "run", "slow.yaml", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(data)
        process.stdin.flush()
        out = b"".join(process.stdout.readline() for _ in range(results))
        for number in signals:
            process.send_signal(number)
        code = process.wait(SECONDS)
        return code, out + process.stdout.read()
    finally:
        process.kill()
        process.communicate()


def test_a_signal_drains_the_run(folder: Path) -> None:
    """What was taken is finished, the end record says so, and the input was not used up: exit code 1."""
    code, out = signalled(folder, b"".join(b'{"id":0}\n' for _ in range(2000)), 1, signal.SIGTERM)
    *results, end = records(out)
    assert (code, end["end"]["reason"]) == (1, "draining")
    assert end["end"]["received"] == end["end"]["ok"] == len(results) < 2000


def test_a_second_signal_aborts_it(folder: Path) -> None:
    """What is in flight is cancelled, and the stream is cut: it has no end record."""
    code, out = signalled(folder, b"".join(b'{"id":%d}\n' % number for number in (1, 2, 99, 4, 5, 6)), 5, *TWO)
    assert code == 1
    assert sorted(record["value"]["id"] for record in records(out)) == [1, 2, 4, 5, 6]


def test_progress_is_shown_on_a_terminal(folder: Path) -> None:
    """One line that is drawn again, with the share of the input; its last trace is wiped off before the summary."""
    (folder / "slow.py").write_text(WAIT)
    prepare(folder, 90, SLOW)
    ours, theirs = pty.openpty()
    process = start(folder, "run", "flow.yaml", "--input", "in.ndjson", stdout=subprocess.DEVNULL, stderr=theirs)
    os.close(theirs)
    said = b""
    try:
        while chunk := os.read(ours, 4096):
            said += chunk
    except OSError:  # so Linux tells the end of a terminal
        pass
    finally:
        os.close(ours)
        process.kill()
        process.wait()
    drawn = [line for line in said.decode().split("\r") if "in flight" in line]
    assert len(drawn) >= 2
    assert drawn[-1].startswith("slow  100%  ")
    assert said.decode().rpartition("\x1b[K")[2].startswith("slow: completed: 90 received, 90 ok, 0 failed in ")


def test_progress_says_which_service_is_down(folder: Path) -> None:
    """While elements wait for it. Signals end the run as ever."""
    (folder / "down.yaml").write_text(DOWN.format(port=unused_port()))
    ours, theirs = pty.openpty()
    process = start(folder, "run", "down.yaml", "--samples", "9", stdout=subprocess.DEVNULL, stderr=theirs)
    os.close(theirs)
    said = b""
    try:
        while b"9 in flight, waiting for prices  " not in said:
            said += os.read(ours, 4096)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        while b"down: aborted: 9 received, 0 ok, 0 failed, 9 cancelled in " not in said:
            said += os.read(ours, 4096)
        assert process.wait(SECONDS) == 1
    finally:
        os.close(ours)
        process.kill()
        process.wait()


def test_the_line_of_progress_tells_how_a_run_stands() -> None:
    """Numbers for people."""
    assert progress_line("orders", ProgressSnapshot(12345, 12000, 89, 0, 256, 0.42), 4321.4, 75) == (
        "orders   42%  12,345 received  12,000 ok  89 failed  256 in flight  4,321/s  1:15"
    )
    waiting = ProgressSnapshot(9, 1, 0, 0, 8, None, "pricing")
    assert progress_line("orders", waiting, 0, 5).endswith("  8 in flight, waiting for pricing  0/s  5 s")
    assert [clock(seconds) for seconds in (0.314, 12.4, 245, 3845)] == ["0.31 s", "12 s", "4:05", "1:04:05"]


@pytest.mark.parametrize("flags", [(), ("--quiet",)])
def test_a_closed_standard_error_takes_nothing_away(folder: Path, flags: tuple[str, ...]) -> None:
    """Results come as ever."""
    words = ("run", "flow.yaml", "--samples", "5", *flags)
    code, usual, _ = run(folder, *words)

    process = start(folder, *words, stdout=subprocess.PIPE, preexec_fn=lambda: os.close(2))
    out, _ = process.communicate(timeout=SECONDS)

    assert (process.returncode, records(out)[:-1]) == (code, records(usual)[:-1])
