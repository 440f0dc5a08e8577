"""The examples: flow files that are well, whose tests pass, and programs that do what their docstring says."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from invoking import invoke
from penstock.flowfile import dump, load, loads
from penstock.flowfile.discovery import is_shared
from penstock.flowtests import FlowTestResult, run_test, verify
from penstock.flowtests import load as load_tests
from penstock.flowtests.report import FileReport, as_text
from penstock.graph import TEXT_FORMATS, build_graph
from waiting import HANG_SECONDS

EXAMPLES = Path(__file__).parents[2] / "flows" / "examples"
FILES = sorted(file for file in EXAMPLES.glob("*.yaml") if not is_shared(file))
PROGRAMS = sorted(program for program in EXAMPLES.glob("*.py") if 'if __name__ == "__main__":' in program.read_text())


def name_of(file: Path) -> str:
    return file.stem


def test_there_are_examples() -> None:
    """What is tested below is not nothing."""
    assert {"orders", "payments", "addresses", "webhooks", "import", "etl"} <= set(map(name_of, FILES))
    assert set(map(name_of, PROGRAMS)) == {"orders", "embedded", "in_aiohttp"}


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.yaml")), ids=name_of)
def test_an_example_file_is_well(file: Path) -> None:
    """Nothing is wrong in it, with no variable set, and it is read in a minute."""
    result = invoke("check", file, "--quiet")
    assert (result.exit_code, result.output) == (0, "")
    assert file.read_text(encoding="utf-8").count("\n") < 70


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_the_tests_of_an_example_file_pass(file: Path) -> None:
    """There are at least two, and whatever chance draws."""
    loaded = load_tests(file)
    assert len(loaded.tests) >= 2
    for seed in (None, 1, 2):
        verdicts: list[FlowTestResult] = [verify(run_test(loaded.flow, case, seed=seed)) for case in loaded.tests]
        assert all(verdict.passed for verdict in verdicts), as_text([FileReport(file.name, tuple(verdicts))])


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_an_example_file_is_drawn(file: Path) -> None:
    """In every format, with each step in it."""
    flow = load(file).flow
    graphs = {format: render(build_graph(flow)) for format, render in TEXT_FORMATS.items()}
    assert [format for format, text in graphs.items() if not all(step.name in text for step in flow.steps)] == []


@pytest.mark.parametrize("format", ["yaml", "json"])
@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_the_dump_of_an_example_file_loads_to_the_same_flow(file: Path, format: str) -> None:
    """What it shares with others is written out."""
    flow = load(file).flow
    assert loads(dump(flow, format), file.with_suffix(f".{format}")).flow == flow


@pytest.mark.parametrize("program", PROGRAMS, ids=name_of)
def test_a_program_is_short_and_stands_on_public_names(program: Path) -> None:
    """At most sixty lines, a docstring, and of Penstock only faces: modules that gather names for their users."""
    text = program.read_text(encoding="utf-8")
    tree = ast.parse(text)
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}

    assert ast.get_docstring(tree)
    assert text.count("\n") < 60
    assert {name for name in modules if name.startswith("penstock")} <= {
        "penstock",
        "penstock.flowfile",
        "penstock.observe",
        "penstock.services",
        "penstock.results",
        "penstock.sources",
    }


@pytest.mark.parametrize("program", PROGRAMS, ids=name_of)
def test_a_program_runs_from_the_command_line(program: Path, tmp_path: Path) -> None:
    """With nothing to read, nothing to set and nothing to complain about."""
    done = subprocess.run(
        [sys.executable, program],
        input="",
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
        check=False,
        cwd=tmp_path,
    )
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)


def test_orders_answer_for_every_line() -> None:
    """A result for each line on standard output and nothing else; the count on standard error."""
    lines = b'{"orderId":1,"customer":"c1"}\n{"orderId":2}\n{"orderId":"three"}\noops\n{"orderId":5}\n'
    done = subprocess.run(
        [sys.executable, EXAMPLES / "orders.py"], input=lines, capture_output=True, timeout=HANG_SECONDS
    )
    told = {record["seq"]: record for record in map(json.loads, done.stdout.splitlines())}

    assert [told[seq]["ok"] for seq in range(5)] == [True, True, False, False, False]
    assert told[0]["value"] == {
        "orderId": 1,
        "customer": "c1",
        "pricing": {"price": 1001},
        "inventory": {"inStock": True},
    }
    assert [told[seq]["error"]["step"] for seq in (2, 3, 4)] == ["decode", "decode", "inventory"]
    assert all("deadLetter" in told[seq] for seq in (2, 3, 4))
    assert done.stderr.decode().endswith("5 received, 2 ok, 3 failed\n")


def test_a_flow_file_in_a_program_is_left_when_enough_came(tmp_path: Path) -> None:
    """Of orders without end, the five results that were asked for."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / "embedded.py"],
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
        check=True,
        cwd=tmp_path,
    )
    results = list(map(ast.literal_eval, done.stdout.splitlines()))
    assert len(results) == 5
    assert all(result["pricing"] == {"price": 1000 + result["orderId"]} for result in results)


def test_an_application_of_one_s_own_streams_results(tmp_path: Path) -> None:
    """A line for each line of the body, then the end; and its server stops."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / "in_aiohttp.py"],
        capture_output=True,
        timeout=HANG_SECONDS,
        check=True,
        cwd=tmp_path,
    )
    *results, end = map(json.loads, done.stdout.splitlines())
    assert {result["seq"]: result.get("value") for result in results} == {0: 4, 1: None, 2: 3}
    assert end == {"end": "completed", "ok": 2}
