"""The public API: its names, and their declarations for type checkers."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest

import penstock

STUB = ast.parse(Path(penstock.__file__).with_suffix(".pyi").read_text())


def declared() -> dict[str, str]:
    """The names that the stub imports, and their modules."""
    imports = [node for node in STUB.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: f"{node.module}" for node in imports for alias in node.names}


def test_type_checkers_see_the_names_that_there_are() -> None:
    """The stub declares each name of the table, from the same module."""
    assert declared() == {name: f"penstock.{module}" for name, module in penstock._MODULES.items()}


def test_a_star_import_brings_all_public_names() -> None:
    """`__all__` of the module and of the stub have the same names."""
    (found,) = [node.value for node in STUB.body if isinstance(node, ast.Assign)]
    assert set(ast.literal_eval(found)) == set(penstock.__all__) == {"__version__", *penstock._MODULES}


@pytest.mark.parametrize("name", penstock._MODULES)
def test_a_public_name_is_imported_from_its_module(name: str) -> None:
    """It is the same object, and the module lists it in its `__all__`, if it has one."""
    module = import_module(f"penstock.{penstock._MODULES[name]}")
    assert getattr(penstock, name) is getattr(module, name)
    assert name in getattr(module, "__all__", (name,))


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    """As with any module."""
    with pytest.raises(AttributeError, match="module 'penstock' has no attribute 'Flwo'"):
        _ = penstock.Flwo


def test_the_version_is_that_of_the_package() -> None:
    """It stands in one place."""
    assert penstock.__version__ == version("penstock")


def test_nothing_is_imported_before_it_is_used() -> None:
    """`penstock --help` imports the package, and needs none of it."""
    program = "import sys, penstock; dir(penstock); print([name for name in sys.modules if name[:9] == 'penstock.'])"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout == "[]\n"
