"""What commands that take a flow file end with when they are used wrongly: one code for all of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import forking
from commands.killing import run
from invoking import invoke

COMMANDS = ("check", "test", "graph", "run", "serve", "work")


def exit_code(folder: Path, command: str, *words: str) -> int:
    """Run a command in the working directory. Those that serve configure the logs of a process of their own."""
    return (
        run(folder, command, *words, "--port", "0")[0]
        if command in ("serve", "work")
        else invoke(command, *words).exit_code
    )


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("words", [("nowhere.yaml",), ("--nonsense", "f.yaml")])
def test_a_missing_file_and_a_wrong_flag_are_wrong_usage(
    command: str, words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 2."""
    (tmp_path / "f.yaml").write_text("flow: f\n")
    monkeypatch.chdir(tmp_path)
    assert exit_code(tmp_path, command, *words) == 2


@pytest.mark.parametrize("command", ["check", "test", "graph"])
def test_a_flow_in_python_is_told_to_be_no_file(command: str) -> None:
    """Commands that take files only say so; that there is no such file would lead nowhere."""
    result = invoke(command, "shop:paid")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "shop:paid is a flow in Python, but this command expects flow files" in result.stderr


def test_a_closed_standard_input_is_said_in_a_sentence(tmp_path: Path) -> None:
    """Before anything is begun, and not as a number of the system."""
    (tmp_path / "f.yaml").write_text("flow: f\nworkers: {w: {source: {stdin: true}}}\n")
    for words in (["run", "f.yaml"], ["run", "f.yaml", "--worker", "w"]):
        process = forking.run(*words, cwd=tmp_path, closed=[0], capture_output=True)
        told = b"penstock run: standard input cannot be read: Bad file descriptor; name a file: --input FILE\n"
        assert (process.returncode, process.stdout, process.stderr) == (2, b"", told)


@pytest.mark.parametrize(
    ("command", "code"), [("check", 1), ("test", 2), ("graph", 1), ("run", 2), ("serve", 2), ("work", 2)]
)
def test_a_file_with_mistakes_has_the_code_that_the_help_names(
    command: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What only looks at files says 1; what was to play one says 2."""
    (tmp_path / "f.yaml").write_text("flow: f\nky: id\n")
    monkeypatch.chdir(tmp_path)
    assert exit_code(tmp_path, command, "f.yaml") == code


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is of Linux")
@pytest.mark.parametrize("words", ["--help", "--version", "serve --help", "check f.yaml", "schema", "completion zsh"])
@pytest.mark.parametrize("closed", [(), (1,), (0, 1)], ids=[">/dev/full", ">&-", "<&- >&-"])
def test_output_that_cannot_be_written_is_said_in_a_line(words: str, closed: tuple[int, ...], tmp_path: Path) -> None:
    """A full disk, or a stream that was closed: exit code 1, no traceback."""
    (tmp_path / "f.yaml").write_text("flow: f\n")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with open("/dev/full", "wb") as full:
        process = forking.run(
            *words.split(), cwd=tmp_path, env=environment, closed=closed, stdout=full, stderr=subprocess.PIPE
        )
    (said,) = process.stderr.decode().splitlines()
    assert "the output cannot be written" in said
    assert process.returncode == 1


def test_results_go_into_no_file_that_took_the_place_of_a_closed_stream(tmp_path: Path) -> None:
    """With standard input and output closed, the next two files would be 0 and 1."""
    (tmp_path / "f.yaml").write_text("flow: f\nsamples: {n: seq}\nsteps: [to: stdout]\n")
    line = f'"{sys.executable}" -m penstock run f.yaml --samples 2 --output out.ndjson <&- >&-'
    process = subprocess.run(["sh", "-c", line], cwd=tmp_path, stderr=subprocess.PIPE, check=False)
    assert process.returncode == 1
    told = [json.loads(line) for line in (tmp_path / "out.ndjson").read_text().splitlines()]
    assert [record.get("ok", record.get("end", {}).get("ok")) for record in told] == [False, False, 0]
