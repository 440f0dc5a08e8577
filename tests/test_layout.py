"""The house: what may be where, and the folder `http/`, which must never become a package."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("flows/penstock", "http/penstock_http")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
TOP = {
    "pyproject.toml",
    "flows",
    "http",
    "tests",
    "dashboards",
    "README.md",
    "LICENSE",
    "CHANGELOG.md",
}


def test_http_holds_no_python_of_its_own() -> None:
    """A folder without modules cannot hide the standard library's `http`; one stray file in it would."""
    assert list((ROOT / "http").glob("*.py*")) == []
    assert list((ROOT / "flows").glob("*.py*")) == []


@pytest.mark.parametrize("folder", [ROOT, ROOT / "http", ROOT / "flows"], ids=lambda folder: folder.name)
def test_http_stays_the_standard_library_s(folder: Path) -> None:
    """Whatever is started from the root, or beside it, imports the real one."""
    code = "import http, http.client, sys; print(http.__file__, http.client.__file__)"
    said = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    assert str(ROOT) not in said.stdout


def test_the_top_holds_what_it_has_to() -> None:
    """Nothing else, save what is hidden."""
    shown = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert {name.split("/")[0] for name in shown if not name.startswith(".")} <= TOP


def test_tests_that_the_checks_leave_out_exist() -> None:
    """pytest ignores a `--deselect` of a test that was renamed, and runs it."""
    named = [
        (ROOT / path, name)
        for script in (ROOT / ".ci").glob("*")
        for path, name in re.findall(r"--deselect ([\w/.]+)::(\w+)", script.read_text(encoding="utf-8"))
    ]
    assert [name for path, name in named if f"def {name}(" not in path.read_text(encoding="utf-8")] == []


def test_each_module_says_what_it_is() -> None:
    """Its first line, in words that need no other file."""
    first = {path: (ast.get_docstring(tree_of(path)) or "").partition("\n")[0] for path in MODULES}
    assert {str(path.relative_to(ROOT)): line for path, line in first.items() if not line.endswith(tuple(".:?!"))} == {}


def tree_of(path: Path) -> ast.Module:
    """Return a module, parsed."""
    return ast.parse(path.read_text(encoding="utf-8"))


def test_no_module_has_a_name_of_the_standard_library() -> None:
    """It would hide it from whoever starts Python beside it."""
    names = {path.stem for path in MODULES} - {"__init__", "__main__"}
    assert len(names) > 300
    assert names & sys.stdlib_module_names == set()
