"""Folders with flow files: which files in them are meant."""

from __future__ import annotations

import re
from collections.abc import Iterator
from errno import EFBIG
from pathlib import Path

from penstock.errors import FlowError, FlowFileError
from penstock.files.document import FORMATS, read_document
from penstock.files.functions import is_in_python
from penstock.files.reading import text_at

_BEGINNING = 65_536
"""Bytes of a file that is too large in which the name of a flow is looked for."""


def files_of(path: Path) -> list[Path]:
    """The flow files in a directory; any other path is one itself. Raises `FlowError` for a directory without one."""
    check_file(str(path))
    if not path.is_dir():
        return [path]
    if not (found := flow_files(path)):
        raise FlowError(f"there is no flow file in {path}; a flow file has its name at the top: flow: NAME")
    return found


def check_file(name: str) -> None:
    """Raise `FlowError` when a flow in Python is named, where only a file can be meant."""
    if is_in_python(name):
        raise FlowError(
            f"{name} is a flow in Python, and this command takes flow files only; penstock.files.dump makes one of it"
        )


def flow_files(folder: Path) -> list[Path]:
    """The flow files in a folder, by their names. Raises `OSError` when it cannot be read."""
    return [path for path in candidates(folder) if holds_flow(path)]


def candidates(folder: Path) -> Iterator[Path]:
    """The files in a folder that may be flow files by their names; `*.test.*` are not. Raises `OSError`."""
    return (path for path in sorted(folder.iterdir()) if _may_hold_flow(path))


def holds_flow(path: Path) -> bool:
    """Whether a file is meant as a flow file: it has a flow's name, or is too broken to tell."""
    try:
        document = read_document(text_at(path), str(path))
    except OSError as error:
        return error.errno != EFBIG or _names_a_flow(path)
    except (FlowFileError, UnicodeDecodeError):
        return True
    return any(name == "flow" for name, _ in document.items())


def _names_a_flow(path: Path) -> bool:
    """Whether a file that is too large to be read is meant as a flow file, as far as its beginning tells."""
    try:
        with path.open("rb") as file:
            return (
                re.search(rb'^(flow|"flow")\s*:|^\s*\{\s*"flow"\s*:', file.read(_BEGINNING), re.MULTILINE) is not None
            )
    except OSError:
        return True


def _may_hold_flow(path: Path) -> bool:
    hidden, tests = path.name.startswith("."), ".test" in path.suffixes
    return path.suffix.lower().removeprefix(".") in FORMATS and not hidden and not tests and path.is_file()
