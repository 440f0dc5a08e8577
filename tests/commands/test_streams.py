"""Standard streams of the commands: encodings, terminals, full disks, and a working directory that is gone."""

from __future__ import annotations

import itertools
import json
import os
import pty
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import forking
from penstock.support.text import for_terminal

FLOW = "flow: f\nsamples: {n: seq}\n"
ODD = "a\x9bb\u202ec\U000e0001d\x7fe"
"""A control sequence introducer, a right-to-left override, a tag, a delete."""


def run(folder: Path, *words: str, **options: object) -> subprocess.CompletedProcess[bytes]:
    """Run a command."""
    return forking.run(*words, cwd=folder, stdin=subprocess.DEVNULL, **options)


@pytest.mark.parametrize(
    ("words", "environment"),
    [
        *itertools.product(
            ["--help", "serve --help", "schema", "completion fish", "check größe.yaml", "check --json größe.yaml"],
            [{"PYTHONIOENCODING": "latin-1"}, {"PYTHONIOENCODING": "ascii"}],
        ),
        *itertools.product(
            ["serve --help", "check größe.yaml", "check --json größe.yaml"], [{"LC_ALL": "C", "PYTHONUTF8": "0"}]
        ),
    ],
    ids=str,
)
def test_no_encoding_ends_a_command_with_a_traceback(tmp_path: Path, words: str, environment: dict[str, str]) -> None:
    """Text for people is escaped where the encoding has no such character; JSON is UTF-8 whatever the locale is."""
    (tmp_path / "größe.yaml").write_text(FLOW, encoding="utf-8")
    options: dict[str, Any] = {"env": os.environ | environment, "capture_output": True}
    if "LC_ALL" in environment:  # Python itself chooses the encoding of names and arguments when it starts
        command = [sys.executable, "-m", "penstock", *words.split()]
        process = subprocess.run(command, cwd=tmp_path, stdin=subprocess.DEVNULL, check=False, **options)
    else:
        process = run(tmp_path, *words.split(), **options)
    assert (process.returncode, process.stderr) == (0, b"")
    if words == "schema" or "--json" in words:
        json.loads(process.stdout.decode("utf-8"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is of Linux")
@pytest.mark.parametrize(
    ("words", "code"), [("run f.yaml --samples 2", 0), ("run none.yaml", 2), ("run --bogus", 2), ("bogus", 2)]
)
def test_messages_that_cannot_be_written_do_not_change_the_exit_code(tmp_path: Path, words: str, code: int) -> None:
    """Results are on standard output; what is on standard error is only about them."""
    (tmp_path / "f.yaml").write_text(FLOW)
    with open("/dev/full", "wb") as full:
        process = run(tmp_path, *words.split(), stdout=subprocess.PIPE, stderr=full)
    assert process.returncode == code
    if code == 0:
        assert json.loads(process.stdout.splitlines()[-1])["end"]["reason"] == "completed"


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc/PID/fd to enter a deleted folder")
@pytest.mark.parametrize(
    "words", ["serve --port 0", "serve --port 0 shop:flow", "dead-letters list", "check f.yaml", "run f.yaml", "new x"]
)
def test_a_deleted_working_directory_is_told_in_a_sentence(tmp_path: Path, words: str) -> None:
    """No command ends in a traceback because relative paths have no beginning."""
    folder = tmp_path / "gone"
    folder.mkdir()
    gone = os.open(folder, os.O_RDONLY)
    folder.rmdir()
    try:
        process = run(Path(f"/proc/{os.getpid()}/fd/{gone}"), *words.split(), capture_output=True)
    finally:
        os.close(gone)
    assert process.returncode in (1, 2), process.stdout
    assert b"Traceback" not in process.stderr + process.stdout


def on_terminal(folder: Path, *words: str) -> str:
    """What a command shows on a terminal."""
    ours, theirs = pty.openpty()
    process = forking.start(
        *words,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=subprocess.DEVNULL,
    )
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 65_536):
            shown += piece
    except OSError:  # Linux says so when the other side has closed
        pass
    finally:
        os.close(ours)
        process.wait()
    return shown.decode()


@pytest.fixture
def letters(tmp_path: Path) -> Path:
    """A folder with the dead letter of an item that holds control characters."""
    (tmp_path / "f.yaml").write_text("flow: f\nkey: k\nitem: {k: integer}\ndead_letters: sqlite:///letters.db\n")
    (tmp_path / "in.ndjson").write_text(json.dumps({"k": ODD}, ensure_ascii=False) + "\n", encoding="utf-8")
    run(tmp_path, "run", "f.yaml", "--input", "in.ndjson", capture_output=True)
    return tmp_path


def test_json_on_a_terminal_is_escaped_and_the_same(letters: Path) -> None:
    """Control and bidirectional characters become escapes of JSON; in a pipe the text is as it was."""
    words = ("dead-letters", "list", "--json", "--dead-letters", "sqlite:///letters.db")
    shown = on_terminal(letters, *words)
    assert all(character.isprintable() or character in "\r\n" for character in shown)
    assert json.loads(shown) == json.loads(run(letters, *words, capture_output=True).stdout)
    assert ODD in json.dumps(json.loads(shown), ensure_ascii=False)


def test_results_on_a_terminal_are_escaped_and_the_same(tmp_path: Path) -> None:
    """So are the lines of a run."""
    (tmp_path / "f.yaml").write_text("flow: f\n")
    (tmp_path / "in.ndjson").write_text(json.dumps({"k": ODD}, ensure_ascii=False) + "\n", encoding="utf-8")
    shown = on_terminal(tmp_path, "run", "f.yaml", "--input", "in.ndjson")
    assert all(character.isprintable() or character in "\r\n" for character in shown)
    assert json.loads(shown.splitlines()[0])["value"] == {"k": ODD}


def test_escapes_for_terminals_keep_json_the_same() -> None:
    """For every character that JSON can hold."""
    text = json.dumps("".join(map(chr, (*range(0xD800), *range(0xE000, 0x11000), 0xE0001))), ensure_ascii=False)
    shown = for_terminal(text)
    assert shown.isprintable()
    assert json.loads(shown) == json.loads(text)


def test_a_state_that_does_not_exist_is_wrong_usage(letters: Path) -> None:
    """An empty page would look as if there were no such letters."""
    process = run(letters, "dead-letters", "list", "--state", "bogus", capture_output=True)
    assert process.returncode == 2
    assert b"'--state': 'bogus' is not one of 'waiting', 'claimed', 'resolved', 'parked'" in process.stderr


@pytest.mark.parametrize(("command", "code"), [("check", 1), ("run", 1), ("serve", 2)])
def test_a_missing_output_folder_is_told_before_anything_runs(tmp_path: Path, command: str, code: int) -> None:
    """By its resolved path; found at the first write, it would fail every item after all the work."""
    (tmp_path / "f.yaml").write_text("flow: f\nsamples: {n: seq}\nsteps: [{to: {file: '${OUT:-out}/x.ndjson'}}]\n")
    flags = {"check": [], "run": ["--samples", "1"], "serve": ["--port", "0"]}[command]
    process = run(tmp_path, command, "f.yaml", *flags, capture_output=True)
    told = (process.stderr + process.stdout).decode()
    assert process.returncode == code
    assert "out/x.ndjson cannot be written to: the folder out does not exist; create it, or name another" in told
    assert "${OUT" not in told


TWO_WAYS = """\
flow: f
samples: {n: seq}
steps:
  - to: {file: out.csv}
  - to: {file: ./out.csv, fields: [n]}
"""


@pytest.mark.parametrize(("command", "code"), [("check", 1), ("run", 1), ("serve", 2)])
def test_one_output_file_written_in_two_ways_is_told_before_anything_runs(
    tmp_path: Path, command: str, code: int
) -> None:
    """Both names are told, and nothing is written."""
    (tmp_path / "f.yaml").write_text(TWO_WAYS)
    flags = {"check": [], "run": ["--samples", "1"], "serve": ["--port", "0"]}[command]
    process = run(tmp_path, command, "f.yaml", *flags, capture_output=True)
    told = (process.stderr + process.stdout).decode()
    assert process.returncode == code
    assert (
        "./out.csv cannot be written to: it is the same file as out.csv (csv), and this sink is csv with the fields n"
        in told
    )
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize("command", ["check", "serve"])
def test_one_output_file_of_two_flows_written_in_two_ways_is_told(tmp_path: Path, command: str) -> None:
    """They cannot be served together; with the same settings they can."""
    (tmp_path / "a.yaml").write_text("flow: a\nsteps: [{to: {file: out.csv}}]\n")
    (tmp_path / "b.yaml").write_text("flow: b\nsteps: [{to: {file: ./out.csv, fields: [n]}}]\n")
    flags = {"check": [], "serve": ["--port", "0", "--dead-letters", "memory:"]}[command]
    process = run(tmp_path, command, "a.yaml", "b.yaml", *flags, capture_output=True)
    told = (process.stderr + process.stdout).decode()
    assert process.returncode == {"check": 1, "serve": 2}[command]
    assert "b.yaml: ./out.csv cannot be written to: it is the same file as out.csv of the flow 'a' (csv)" in told
    if command == "check":
        (tmp_path / "b.yaml").write_text("flow: b\nsteps: [{to: {file: ./out.csv}}]\n")
        assert run(tmp_path, command, "a.yaml", "b.yaml", *flags, capture_output=True).returncode == 0


LOCKING = """
import fcntl

import penstock.sinks.shared
from penstock import Flow
from penstock.sinks import FileSink

penstock.sinks.shared.LOCK_SECONDS = 0.2
held = open("out.ndjson", "ab")


def lock(value):  # as another process would do it: the outlet does not know of it
    fcntl.flock(held, fcntl.LOCK_EX)
    return value


flow = Flow("f").map(lock).to(FileSink("out.ndjson")).dead_letters("sqlite:///letters.db")
"""


def test_a_lock_that_stays_ends_a_run(tmp_path: Path) -> None:
    """Exit code 1 and a sentence; the items are cancelled, and none is a dead letter."""
    (tmp_path / "shop.py").write_text(LOCKING)
    (tmp_path / "in.ndjson").write_bytes(b"1\n2\n")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    process = run(tmp_path, "run", "shop:flow", "--input", "in.ndjson", capture_output=True, env=environment)
    end = json.loads(process.stdout.splitlines()[-1])["end"]
    sentence = "out.ndjson cannot be written to: another process has been writing to it for 0.2 s; stop that process"
    assert process.returncode == 1
    assert (end["reason"], end["cancelled"], end["failed"]) == ("failed", 2, 0)
    assert sentence in process.stderr.decode()
    listed = run(tmp_path, "dead-letters", "list", "--dead-letters", "sqlite:///letters.db", capture_output=True)
    assert b"no dead letters" in listed.stdout + listed.stderr


@pytest.fixture
def read_only(letters: Path) -> Iterator[Path]:
    """A folder that cannot be written to, with a database that cannot be either."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copy(letters / "letters.db", folder)
        (folder / "letters.db").chmod(0o444)
        folder.chmod(0o555)
        yield folder
        folder.chmod(0o755)


def list_without_rights(folder: Path) -> subprocess.CompletedProcess[bytes]:
    """List the letters as a user who can only read: root has to give up the capability to write everywhere."""
    program = (
        "import ctypes, os, sys\n"
        "if os.geteuid() == 0: ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)  # PR_CAPBSET_DROP, CAP_DAC_OVERRIDE\n"
        "os.execv(sys.executable, [sys.executable, '-m', 'penstock', *sys.argv[1:]])"
    )
    words = ("dead-letters", "list", "--json", "--dead-letters", f"sqlite:///{folder}/letters.db")
    return subprocess.run([sys.executable, "-c", program, *words], capture_output=True, check=False)


def test_letters_are_listed_without_write_permission(read_only: Path) -> None:
    """Neither for the database nor for its folder; without -wal and -shm files SQLite could not make them."""
    process = list_without_rights(read_only)
    assert process.returncode == 0, process.stderr
    assert len(process.stdout.splitlines()) == 1


def test_letters_in_a_wal_file_are_listed_without_write_permission(letters: Path, read_only: Path) -> None:
    """The -wal file holds what a process that still runs has committed."""
    read_only.chmod(0o755)
    database = letters / "letters.db"
    program = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('PRAGMA wal_autocheckpoint=0'); "
        "c.execute(\"UPDATE letters SET step = 'changed'\"); c.commit(); print('ready', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(database)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
        for ending in ("", "-wal", "-shm"):
            copied = read_only / f"letters.db{ending}"
            copied.unlink(missing_ok=True)
            shutil.copy(f"{database}{ending}", copied)
            copied.chmod(0o444)
        read_only.chmod(0o555)
        process = list_without_rights(read_only)
        writer.communicate()
    assert process.returncode == 0, process.stderr
    assert json.loads(process.stdout)["error"]["step"] == "changed"


def test_letters_of_an_older_schema_without_write_permission_are_told_in_a_sentence(read_only: Path) -> None:
    """They cannot be brought up to date there."""
    read_only.chmod(0o755)
    database = read_only / "letters.db"
    database.chmod(0o644)
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("DELETE FROM letters_schema WHERE version > 1")
        connection.execute("DROP INDEX letters_by_run")
        connection.execute("ALTER TABLE letters DROP COLUMN revision")
    database.chmod(0o444)
    read_only.chmod(0o555)
    process = list_without_rights(read_only)
    assert process.returncode == 1
    told = rb"have schema 1, this Penstock reads schema \d+, and the file or its folder is not writable"
    assert re.search(told, process.stderr)
    assert b"Traceback" not in process.stderr
