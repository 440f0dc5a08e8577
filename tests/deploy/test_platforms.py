"""Platforms without wheels of cel-expr-python and google-re2: only the flows that need them do not work there."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
LEFT_OUT = {"cel-expr-python", "google-re2"}

WITHOUT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("cel_expr_python", "re2"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
from penstock.cli.main import main
sys.exit(main())
"""
"""A program that is `penstock` where these packages are not installed."""

PATHS_ONLY = """
flow: paths
item: {id: integer, price: {type: object, fields: {net: number}}}
steps: [{set: {net: value.price.net}}, {map: value.net}]
dead_letters: memory
"""

WITH_EXPRESSIONS = """
flow: computed
item: {id: {type: string, pattern: "^[a-z]+$"}}
steps:
  - set: {total: value.id}
  - filter: value.id != ""
dead_letters: memory
"""


def penstock(folder: Path, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    """Run `penstock` without the packages."""
    command = [sys.executable, "-c", WITHOUT, *arguments]
    return subprocess.run(command, cwd=folder, input=given, capture_output=True, text=True, timeout=120)


def test_a_flow_with_paths_of_fields_works_without_cel(tmp_path: Path) -> None:
    """It runs, and its results are those of other platforms."""
    (tmp_path / "paths.yaml").write_text(PATHS_ONLY)
    done = penstock(tmp_path, "run", "paths.yaml", given='{"id":1,"price":{"net":2.5}}\n')
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[0]) == {"ok": True, "seq": 0, "value": 2.5}


def test_check_names_each_expression_that_needs_cel(tmp_path: Path) -> None:
    """With its line, the package and the alternatives; a pattern, too."""
    (tmp_path / "computed.yaml").write_text(WITH_EXPRESSIONS)
    done = penstock(tmp_path, "check", "computed.yaml")
    pattern, expression, count = (done.stdout + done.stderr).splitlines()
    assert done.returncode == 1
    assert pattern.startswith("computed.yaml:3:12: pattern: it needs the package google-re2")
    assert expression.startswith("computed.yaml:6:13: invalid expression")
    assert 'pip install "cel-expr-python<0.2"' in expression
    assert count == "computed.yaml: 2 errors"


def test_the_requirements_without_cel_are_those_of_the_package() -> None:
    """All others, with the same limits."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    file = ROOT / "http/deploy/requirements-without-cel.txt"
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    needed = [str(needed) for line in project["dependencies"] if (needed := Requirement(line)).name not in LEFT_OUT]
    assert [str(Requirement(line)) for line in lines] == needed


@pytest.mark.parametrize(
    ("system", "machine", "installed"),
    [
        *(("linux", machine, True) for machine in ("x86_64", "aarch64")),
        *(("darwin", machine, True) for machine in ("x86_64", "arm64")),
        ("win32", "AMD64", True),
        ("win32", "ARM64", False),
        ("linux", "armv7l", False),
    ],
)
def test_cel_is_installed_where_it_has_wheels(system: str, machine: str, installed: bool) -> None:
    """By the default installation; other platforms do not ask for it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    cel = next(needed for line in project["dependencies"] if (needed := Requirement(line)).name == "cel-expr-python")
    assert cel.marker is not None
    assert cel.marker.evaluate({"sys_platform": system, "platform_machine": machine}) is installed
