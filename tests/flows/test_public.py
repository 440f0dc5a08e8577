"""The public API: its names, and their declarations for type checkers."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

import penstock
import penstock.deadletters

PACKAGES = [penstock, penstock.deadletters]
"""Those that import a name when it is first used."""

NAMES = [(package, name) for package in PACKAGES for name in package._MODULES]


def stub_of(package: Any) -> ast.Module:
    """The declarations of a package for type checkers."""
    return ast.parse(Path(package.__file__).with_suffix(".pyi").read_text())


def declared(package: Any) -> dict[str, str]:
    """The names that the stub imports, and their modules."""
    imports = [node for node in stub_of(package).body if isinstance(node, ast.ImportFrom)]
    return {alias.name: f"{node.module}" for node in imports for alias in node.names}


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_type_checkers_see_the_names_that_there_are(package: Any) -> None:
    """The stub declares each name of the table, from the same module."""
    assert declared(package) == {name: f"{package.__name__}.{module}" for name, module in package._MODULES.items()}


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_a_star_import_brings_all_public_names(package: Any) -> None:
    """`__all__` of the module and of the stub have the same names."""
    (found,) = [node.value for node in stub_of(package).body if isinstance(node, ast.Assign)]
    names = set(package._MODULES) | ({"__version__"} if package is penstock else set())
    assert set(ast.literal_eval(found)) == set(package.__all__) == names


@pytest.mark.parametrize(("package", "name"), NAMES, ids=lambda value: getattr(value, "__name__", value))
def test_a_public_name_is_imported_from_its_module(package: Any, name: str) -> None:
    """It is the same object, and the module lists it in its `__all__`, if it has one."""
    module = import_module(f"{package.__name__}.{package._MODULES[name]}")
    assert getattr(package, name) is getattr(module, name)
    assert name in getattr(module, "__all__", (name,))


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_a_name_that_does_not_exist_is_an_attribute_error(package: Any) -> None:
    """As with any module."""
    with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute 'Flwo'"):
        _ = package.Flwo


def test_the_version_is_that_of_the_package() -> None:
    """It stands in one place."""
    assert penstock.__version__ == version("penstock")


def test_nothing_is_imported_before_it_is_used() -> None:
    """`penstock --help` imports the package, and needs none of it."""
    program = "import sys, penstock; dir(penstock); print([name for name in sys.modules if name[:9] == 'penstock.'])"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout == "[]\n"


def test_the_process_that_writes_letters_imports_only_what_it_needs() -> None:
    """Its start delays the first dead letter. It needs no event loop, no logger, and no other kinds of stores."""
    program = "import sys, penstock.deadletters.sqlite.writer_main; print(*sys.modules)"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    needless = {"asyncio", "structlog", "sqlalchemy", "subprocess", "penstock.deadletters.stores"}
    assert needless & set(ended.stdout.split()) == set()
