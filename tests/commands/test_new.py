"""`penstock new`: what it writes is well, its test passes, and it runs as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from commands.killing import records, run
from penstock.cli import main
from penstock.files import load


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def test_what_it_writes_can_be_checked_tested_and_run(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """It says the commands itself."""
    assert main(["new", "payments"]) == 0
    said = capfdbinary.readouterr().out.decode()
    assert [line.split()[:2] for line in said.splitlines()[1:]] == [
        ["penstock", "test"],
        ["penstock", "run"],
        ["penstock", "serve"],
    ]
    assert main(["check", "payments.yaml"]) == 0
    assert main(["test", "payments.yaml"]) == 0
    code, out, _ = run(Path(), "run", "payments.yaml", "--samples", "20")
    assert code == 1
    *results, end = records(out)
    assert [record["key"] for record in results if not record["ok"]] == [10, 20]
    assert end["end"]["ok"] == 18


def test_what_it_says_the_flow_is_for_is_to_be_written() -> None:
    """Nothing that is true of one flow only stands in all of them."""
    assert main(["new", "parcels"]) == 0
    assert load("parcels.yaml").flow.about == "What parcels is for, in one line."


def test_a_file_that_is_there_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2."""
    Path("mine.yaml").write_text("precious")
    assert main(["new", "mine"]) == 2
    assert "is there already" in capsys.readouterr().err
    assert Path("mine.yaml").read_text() == "precious"


def test_it_can_go_to_another_directory(capsys: pytest.CaptureFixture[str]) -> None:
    """Which has to be there."""
    Path("flows").mkdir()
    assert main(["new", "mine", "--directory", "flows"]) == 0
    assert Path("flows/mine.yaml").exists()
    assert main(["new", "mine", "--directory", "none"]) == 1
    assert "No such file" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a b", "../up", "", "-x"])
def test_a_name_that_no_flow_can_have_is_refused(name: str) -> None:
    """Exit code 2, as for all wrong usage."""
    with pytest.raises(SystemExit) as end:
        main(["new", name])
    assert end.value.code == 2
