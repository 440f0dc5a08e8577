"""`penstock completion`: the completions, and the scripts in the shells themselves."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete

from invoking import invoke
from penstock.cli.dead_letters import COMMANDS as DEAD_LETTER_COMMANDS
from penstock.cli.main import COMMANDS, cli

ROOT = Path(__file__).parents[2]

LINES = [
    (("ru",), {"run"}),
    (("run", "--ou"), {"--output"}),
    (("run", "--order", ""), {"input", "completion", "key"}),
    (("run", "--format", ""), {"ndjson", "csv"}),
    (("run", "--window", ""), set()),
    (("dead-letters", ""), set(DEAD_LETTER_COMMANDS)),
    (("dead-letters", "list", "--sin"), {"--since"}),
    (("serve", "--log-f"), {"--log-format"}),
    (("completion", "z"), {"zsh"}),
]


@pytest.mark.parametrize(("words", "expected"), LINES)
def test_commands_options_and_choices_are_completed(words: tuple[str, ...], expected: set[str]) -> None:
    """As far as the line goes."""
    completion = ShellComplete(cli, {}, "penstock", "_PENSTOCK_COMPLETE")
    found = completion.get_completions(list(words[:-1]), words[-1])
    assert {item.value for item in found} == expected


@pytest.mark.parametrize(
    ("words", "type"),
    [
        (("run", ""), "file"),
        (("run", "--input", ""), "file"),
        (("check", "f.yaml", ""), "file"),
        (("serve", ""), "file"),
        (("new", "--directory", ""), "dir"),
    ],
)
def test_shells_complete_file_names(words: tuple[str, ...], type: str) -> None:
    """The shell itself lists files or directories."""
    completion = ShellComplete(cli, {}, "penstock", "_PENSTOCK_COMPLETE")
    assert [item.type for item in completion.get_completions(list(words[:-1]), words[-1])] == [type]


def test_completing_the_name_of_a_command_imports_no_command() -> None:
    """Nor does the help that lists them."""
    code = (
        "import sys; from click.shell_completion import ShellComplete; from penstock.cli.main import cli, main; "
        "print(len(ShellComplete(cli, {}, 'penstock', 'X').get_completions([], ''))); main(['--help']); "
        "print(sorted(name for name in sys.modules if name.startswith(('penstock.', 'importlib.metadata'))))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    first, *_, last = told.splitlines()
    assert first == str(len(COMMANDS))
    modules = ["cli", "cli.lazy_group", "cli.main", "cli.options", "support", "support.terminal", "support.text"]
    assert last == str([f"penstock.{name}" for name in modules])


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Variables of a shell in which `penstock` is a command."""
    command = tmp_path / "bin" / "penstock"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m penstock "$@"\n')
    command.chmod(0o755)
    return {
        "HOME": str(tmp_path),
        "LANG": "C.UTF-8",
        "PATH": f"{command.parent}:/usr/bin:/bin",
        "PYTHONPATH": os.pathsep.join(map(str, (ROOT / "flows", ROOT / "http"))),
    }


def script(shell: str, folder: Path) -> Path:
    """The script for a shell, in a file."""
    result = invoke("completion", shell)
    assert result.exit_code == 0
    path = folder / f"penstock.{shell}"
    path.write_text(result.stdout)
    return path


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_first_line_says_how_to_install_the_script(shell: str) -> None:
    """As a comment."""
    first = invoke("completion", shell).stdout.splitlines()[0]
    assert first.startswith(f"# Completion of penstock for {shell}. To install, ")
    assert f"penstock completion {shell}" in first


def test_bash_completes(tmp_path: Path, environment: dict[str, str]) -> None:
    """With the script that it was given."""
    script("bash", tmp_path)
    ask = (
        'source penstock.bash; COMP_WORDS=(penstock dead-letters ""); COMP_CWORD=2; '
        '_penstock_completion penstock; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    told = subprocess.run(
        ["bash", "-c", ask], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert (set(told.stdout.split()), told.stderr) == (set(DEAD_LETTER_COMMANDS), "")


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed (apt-get install fish)")
def test_fish_completes(tmp_path: Path, environment: dict[str, str]) -> None:
    """Names with what they mean."""
    script("fish", tmp_path)
    told = subprocess.run(
        ["fish", "--private", "-c", "source penstock.fish; complete -C 'penstock dead-letters '"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert {line.split("\t")[0] for line in told.stdout.splitlines()} == set(DEAD_LETTER_COMMANDS)


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed (apt-get install zsh)")
def test_zsh_accepts_its_script(tmp_path: Path, environment: dict[str, str]) -> None:
    """It completes `penstock` by the function of the script from then on."""
    script("zsh", tmp_path)
    ask = "autoload -U compinit; compinit -u -d dump; source penstock.zsh; print $_comps[penstock]"
    told = subprocess.run(
        ["zsh", "-f", "-c", ask], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert (told.stdout, told.stderr) == ("_penstock_completion\n", "")


def each_command(command: click.Command = cli, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of all commands, with those of groups."""
    yield path
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from each_command(found, (*path, name))


def test_help_can_be_written_in_every_encoding() -> None:
    """It is ASCII, and `penstock help COMMAND` shows the same."""
    commands = list(each_command())
    assert len(commands) > len(COMMANDS)
    for words in commands:
        result = invoke(*words, "--help")
        assert (words, result.exit_code, result.stderr, result.stdout.isascii()) == (words, 0, "", True)
        assert invoke("help", *words).stdout == result.stdout


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("chek",), "No such command 'chek'. Did you mean 'check'"),
        (("dead-leters", "list"), "Did you mean 'dead-letters'?"),
        (("simulat",), "Did you mean 'simulate'?"),
        (("quux",), "No such command 'quux'. `penstock --help` lists all commands."),
        (("run", "--imput", "x"), "--input"),
        (("serve", "--grace", "1"), "--grace-period"),
    ],
)
def test_similar_names_are_suggested(words: tuple[str, ...], hint: str) -> None:
    """For commands and options that do not exist; exit code 2."""
    result = invoke(*words)
    assert (result.exit_code, result.stdout, hint in result.stderr) == (2, "", True)
