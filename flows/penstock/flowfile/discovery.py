"""Find flow files in directories, and flows that cannot be served together."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from errno import EFBIG
from pathlib import Path

from penstock.errors import FlowDefinitionError, FlowFileError
from penstock.flow.serving import RESERVED
from penstock.flowfile.diagnostics import Diagnostic, SourceLocation
from penstock.flowfile.field_types import is_in_python
from penstock.flowfile.forms.record import keys_of
from penstock.flowfile.load import FlowFile, loads
from penstock.flowfile.models import Shared
from penstock.flowfile.reader import FORMATS, read_document, text_at, text_of
from penstock.sinks import SinkFiles

_BEGINNING = 65_536
"""Bytes of a file that is too large, in which `flow:` is searched."""


def files_of(path: Path) -> list[Path]:
    """Return the flow files in a directory. Any other path is returned itself.

    Raises `FlowDefinitionError` for a directory without flow files.
    """
    check_file(str(path))
    if not path.is_dir():
        return [path]
    if not (found := flow_files(path)):
        raise FlowDefinitionError(
            f"there is no flow file in {path}; a flow file has the key flow at its top: flow: NAME"
        )
    return found


def check_file(name: str) -> None:
    """Raise `FlowDefinitionError` if a name is that of a flow in Python instead of a file."""
    if is_in_python(name):
        raise FlowDefinitionError(
            f"{name} is a flow in Python, but this command expects flow files; penstock.flowfile.dump converts it"
        )


def flow_files(folder: Path) -> list[Path]:
    """Return the flow files in a directory, sorted by name. Raises `OSError`."""
    return [path for path in candidates(folder) if holds_flow(path)]


def candidates(folder: Path) -> Iterator[Path]:
    """Yield the files in a directory that may be flow files by their names; `*.test.*` are not. Raises `OSError`."""
    return (path for path in sorted(folder.iterdir()) if _may_hold_flow(path))


def holds_flow(path: Path) -> bool:
    """Return whether a file is a flow file: it has the key `flow`, or cannot be read."""
    try:
        document = read_document(text_at(path), str(path))
    except OSError as error:
        return error.errno != EFBIG or _names_a_flow(path)
    except (FlowFileError, UnicodeDecodeError):
        return True
    return any(name == "flow" for name, _ in document.items())


def _names_a_flow(path: Path) -> bool:
    """Return whether a file that is too large to be read is a flow file, by its beginning."""
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


def is_shared(path: Path) -> bool:
    """Return whether a file has only services and templates, for flow files to include."""
    try:
        names = [name for name, _ in read_document(text_of(path), str(path)).items()]
    except FlowFileError:
        return False
    return bool(names) and set(names) <= keys_of(Shared).keys()


def check_shared(path: Path, *, environment: Mapping[str, str] = os.environ) -> dict[str, int]:
    """Validate a shared file. Returns how many services and templates it has. Raises `FlowFileError`."""
    user = json.dumps({"flow": "user", "include": [path.name]})
    loads(user, path.with_name("user.json"), environment=environment)
    node = read_document(text_of(path), str(path))
    return {name: sum(1 for _ in part.items()) for name, part in node.items()}


class NameConflicts:
    """The names, paths and sinks of the flows that were added, to find flows that cannot be served together."""

    def __init__(self) -> None:
        self._names: dict[str, FlowFile] = {}
        self._paths: dict[str, FlowFile] = {}
        self._sharing = SinkFiles()

    def add(self, file: FlowFile) -> Diagnostic | None:
        """Add a flow. Returns the error if it cannot be served together with the earlier ones."""
        name, path = file.flow.name, file.flow.path_name
        before = self._names.setdefault(name, file)
        message = None
        if not _is_same(before, file):
            message = f"flow {name!r} is already defined in {before.path}"
        elif path in RESERVED:
            message = f"the path {path!r} is reserved"
        elif path is not None and not _is_same(other := self._paths.setdefault(path, file), file):
            message = f"the path {path!r} is already used by flow {other.flow.name!r}"
        if message is not None:
            return Diagnostic(SourceLocation(str(file.path)), message, hint="use another name")
        sinks = file.flow.all_sinks.values()
        if (clash := self._sharing.find_conflict(sinks)) is not None:
            return Diagnostic(SourceLocation(str(file.path)), str(clash))
        self._sharing.add(sinks, f"the flow {name!r}")
        return None


def _is_same(file: FlowFile, other: FlowFile) -> bool:
    return file.path.resolve() == other.path.resolve()
