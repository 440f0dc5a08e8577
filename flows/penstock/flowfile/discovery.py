"""Folders with flow files: which files in them are meant."""

from __future__ import annotations

import re
from collections.abc import Iterator
from errno import EFBIG
from pathlib import Path

from penstock.errors import FlowDefinitionError, FlowFileError
from penstock.flow.serving import RESERVED
from penstock.flowfile.diagnostics import Diagnostic, SourceLocation
from penstock.flowfile.field_types import is_in_python
from penstock.flowfile.load import FlowFile
from penstock.flowfile.read_document import FORMATS, read_document
from penstock.flowfile.reader import text_at
from penstock.sinks import SinkFiles

_BEGINNING = 65_536
"""Bytes of a file that is too large in which the name of a flow is looked for."""


def files_of(path: Path) -> list[Path]:
    """The flow files in a directory; any other path is one itself.

    Raises `FlowDefinitionError` for a directory without one.
    """
    check_file(str(path))
    if not path.is_dir():
        return [path]
    if not (found := flow_files(path)):
        raise FlowDefinitionError(f"there is no flow file in {path}; a flow file has its name at the top: flow: NAME")
    return found


def check_file(name: str) -> None:
    """Raise `FlowDefinitionError` when a flow in Python is named, where only a file can be meant."""
    if is_in_python(name):
        raise FlowDefinitionError(
            f"{name} is a flow in Python, but this command expects flow files; penstock.flowfile.dump makes one of it"
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


class NameConflicts:
    """The flows that were looked at so far."""

    def __init__(self) -> None:
        self._names: dict[str, FlowFile] = {}
        self._paths: dict[str, FlowFile] = {}
        self._sharing = SinkFiles()

    def add(self, file: FlowFile) -> Diagnostic | None:
        """Take in a flow; what is wrong, if it cannot be served beside those before it, as `serve` will say."""
        name, path = file.flow.name, file.flow.path_name
        before = self._names.setdefault(name, file)
        said = None
        if not _same(before, file):
            said = f"there is a flow {name!r} in {before.path} already"
        elif path in RESERVED:
            said = f"no flow can be served as {path!r}: that path is the service's own"
        elif path is not None and not _same(other := self._paths.setdefault(path, file), file):
            said = f"the flow {other.flow.name!r} is served as {path!r} already"
        if said is not None:
            return Diagnostic(SourceLocation(str(file.path)), said, hint="give it another name")
        outlets = file.flow.all_sinks.values()
        if (clash := self._sharing.find_conflict(outlets)) is not None:
            return Diagnostic(SourceLocation(str(file.path)), str(clash))
        self._sharing.add(outlets, f"the flow {name!r}")
        return None


def _same(file: FlowFile, other: FlowFile) -> bool:
    return file.path.resolve() == other.path.resolve()
