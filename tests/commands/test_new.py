"""`penstock new`: what it writes is well, its test passes, and it runs as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from commands.killing import records, run
from invoking import invoke
from penstock.flowfile import load


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def test_what_it_writes_can_be_checked_tested_and_run() -> None:
    """It says the commands itself."""
    result = invoke("new", "payments")
    assert result.exit_code == 0
    assert [line.split()[:2] for line in result.stdout.splitlines()[1:]] == [
        ["penstock", "test"],
        ["penstock", "run"],
        ["penstock", "serve"],
    ]
    assert invoke("check", "payments.yaml").exit_code == 0
    assert invoke("test", "payments.yaml").exit_code == 0
    code, out, _ = run(Path(), "run", "payments.yaml", "--samples", "20")
    assert code == 1
    *results, end = records(out)
    assert [record["key"] for record in results if not record["ok"]] == [10, 20]
    assert end["end"]["ok"] == 18


def test_what_it_says_the_flow_is_for_is_to_be_written() -> None:
    """Nothing that is true of one flow only stands in all of them."""
    assert invoke("new", "parcels").exit_code == 0
    assert load("parcels.yaml").flow.description == "What parcels is for, in one line."


def test_a_file_that_is_there_is_left_alone() -> None:
    """Exit code 2."""
    Path("mine.yaml").write_text("precious")
    result = invoke("new", "mine")
    assert (result.exit_code, "mine.yaml already exists" in result.stderr) == (2, True)
    assert Path("mine.yaml").read_text() == "precious"


def test_it_can_go_to_another_directory() -> None:
    """Which has to be there."""
    Path("flows").mkdir()
    assert invoke("new", "mine", "--directory", "flows").exit_code == 0
    assert Path("flows/mine.yaml").exists()
    result = invoke("new", "mine", "--directory", "none")
    assert (result.exit_code, "No such file" in result.stderr) == (1, True)


@pytest.mark.parametrize("name", ["a b", "../up", "", "-x"])
def test_a_name_that_no_flow_can_have_is_refused(name: str) -> None:
    """Exit code 2, as for all wrong usage."""
    assert invoke("new", name).exit_code == 2
