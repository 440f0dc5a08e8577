"""What commands that take a flow file end with when they are used wrongly: one code for all of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from commands.killing import run

COMMANDS = ("check", "test", "graph", "run", "serve")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("words", [("nowhere.yaml",), ("--nonsense", "f.yaml")])
def test_a_missing_file_and_a_wrong_flag_are_wrong_usage(command: str, words: tuple[str, ...], tmp_path: Path) -> None:
    """Exit code 2."""
    (tmp_path / "f.yaml").write_text("flow: f\n")
    port = ("--port", "0") if command == "serve" else ()
    assert run(tmp_path, command, *words, *port)[0] == 2


@pytest.mark.parametrize(("command", "code"), [("check", 1), ("test", 2), ("graph", 1), ("run", 2), ("serve", 2)])
def test_a_file_with_mistakes_has_the_code_that_the_help_names(command: str, code: int, tmp_path: Path) -> None:
    """What only looks at files says 1; what was to play one says 2."""
    (tmp_path / "f.yaml").write_text("flow: f\nky: id\n")
    port = ("--port", "0") if command == "serve" else ()
    assert run(tmp_path, command, "f.yaml", *port)[0] == code
