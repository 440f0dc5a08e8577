"""`penstock completion`: what the shells themselves complete with the scripts."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from penstock.cli import main
from penstock.commands import COMMANDS
from penstock.runner.words import all_words

LINES = [
    (("ru",), {"run"}),
    (("run", "--or"), {"--order"}),
    (("run", "--order", ""), {"input", "completion"}),
    (("run", "fl"), {"flow.yaml"}),
    (("run", "flow.yaml", "--input", "fl"), {"flow.yaml"}),
    (("run", "--window", ""), set()),
    (("dead-letters", ""), {"list", "show"}),
    (("dead-letters", "list", "--sin"), {"--since"}),
    (("completion", "z"), {"zsh"}),
]


def script(shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["completion", shell]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(("words", "expected"), LINES)
def test_bash_completes(
    words: tuple[str, ...], expected: set[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Commands, flags, their choices, and names of files."""
    (tmp_path / "flow.yaml").touch()
    (tmp_path / "penstock.bash").write_text(script("bash", capsys))
    ask = 'source penstock.bash; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _penstock; printf "%s\\n" "${COMPREPLY[@]}"'
    said = subprocess.run(
        ["bash", "-c", ask, "-", "penstock", *words], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert (set(said.stdout.split()), said.stderr) == (expected, "")


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed (apt-get install fish)")
@pytest.mark.parametrize(("words", "expected"), LINES)
def test_fish_completes(
    words: tuple[str, ...], expected: set[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same."""
    (tmp_path / "flow.yaml").touch()
    (tmp_path / "penstock.fish").write_text(script("fish", capsys))
    line = " ".join(("penstock", *words))
    said = subprocess.run(
        ["fish", "--private", "-c", f"source penstock.fish; complete -C '{line}'"],
        cwd=tmp_path,
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=True,
    )
    found = {one.split("\t")[0] for one in said.stdout.splitlines()}
    assert (found if words[-2:] != ("--window", "") else set()) == expected


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed (apt-get install zsh)")
def test_zsh_takes_its_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It completes penstock from then on, and has a function for each command."""
    (tmp_path / "penstock.zsh").write_text(script("zsh", capsys))
    ask = "autoload -U compinit; compinit -u -d dump; source penstock.zsh"
    ask += "; print $_comps[penstock]; print -l ${(k)functions}"
    said = subprocess.run(["zsh", "-f", "-c", ask], cwd=tmp_path, capture_output=True, text=True, check=True)
    first, *functions = said.stdout.split()
    assert (first, said.stderr) == ("_penstock", "")
    assert {f"_penstock_{name}" for name in COMMANDS} <= set(functions)


def test_every_command_shows_its_parser() -> None:
    """A command without `make_parser` beside it would be completed by its name only."""
    assert [word.name for word in all_words().words if not word.flags] == []
