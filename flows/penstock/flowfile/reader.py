"""Read the files of a flow: its own, those that it includes, and its tests."""

from __future__ import annotations

import errno
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import TypeVar

from penstock.errors import FlowFileError, MissingVariable
from penstock.flowfile.diagnostics import Diagnostics, SourceLocation
from penstock.flowfile.document import Node
from penstock.flowfile.forms.form import MISSING, Form, Missing
from penstock.flowfile.forms.record import keys_of
from penstock.flowfile.json_reader import read_json
from penstock.flowfile.limits import MAX_BYTES, Limits
from penstock.flowfile.models import FLOW, SHARED_FILE, FlowModel, Shared
from penstock.flowfile.yaml_reader import read_yaml
from penstock.support.environment import substitute

T = TypeVar("T")

FORMATS = {"yaml": read_yaml, "yml": read_yaml, "json": read_json}
"""The formats, by the suffixes of their files."""

NOTHING = Node("mapping", (), SourceLocation("", 1, 1))

NO_TEXTS: Mapping[Path, str] = {}


def read_document(text: str, file: str, format: str | None = None) -> Node:
    """Return the document in a text. `file` is the name in locations, and its suffix tells the format.

    YAML and JSON give the same nodes. YAML is read by the rules of YAML 1.2: `on`, `no`, `1:30`, `12_000` and dates are
    strings. Raises `FlowFileError` with all errors that do not depend on what the document is for: syntax errors,
    duplicate keys, and parts of YAML that flow files may not use.
    """
    if format is not None and format not in FORMATS:
        raise ValueError(f"format: expected one of {', '.join(FORMATS)}, got {format!r}")

    diagnostics = Diagnostics()
    suffix = format or PurePath(file).suffix.removeprefix(".").lower()
    if format is None:
        check_suffix(file, diagnostics)
    if suffix not in FORMATS:
        expected = f"one of {', '.join(f'.{known}' for known in FORMATS)}"
        message = f"unknown file suffix: expected {expected}"
        diagnostics.add(SourceLocation(file, 1, 1), message, expected=expected)
        diagnostics.check()
    node = FORMATS[suffix](text.removeprefix("\ufeff"), file, diagnostics)
    diagnostics.check()
    return node


def check_suffix(file: str, diagnostics: Diagnostics) -> None:
    """Raise `FlowFileError` for a TOML file."""
    if PurePath(file).suffix.lower() == ".toml":
        message = "flow files cannot be written in TOML"
        diagnostics.add(SourceLocation(file, 1, 1), message, hint="write it as YAML or JSON")
        diagnostics.check()


class FileReader:
    """Reads the files of one flow, and collects their errors. `texts` are those of files that are not to be read."""

    def __init__(
        self, environment: Mapping[str, str], diagnostics: Diagnostics, texts: Mapping[Path, str] = NO_TEXTS
    ) -> None:
        self._environment = environment
        self._diagnostics = diagnostics
        self._limits = Limits(diagnostics)
        self._kept = texts
        self.files: list[Path] = []
        self.texts: list[str] = []

    def flow(self, text: str, path: Path) -> tuple[Node, FlowModel | None, bool]:
        """Return the document of a flow, what was read of it, and whether that is all. Raises `FlowFileError`.

        What was read is None for a document that is not a mapping.
        """
        self._add(text, path)
        node = read_document(text, str(path)) if text.strip("\ufeff \t\r\n") else NOTHING
        if node.kind == "null" or node.value == ():
            location = SourceLocation(str(path), 1, 1)
            self._diagnostics.add(location, "the file is empty", hint="`penstock new NAME` creates one to start from")
            return NOTHING, None, False
        self._limits.add_document(node)
        self._check_variables(node)
        if node.kind != "mapping":
            FLOW.reject(node, self._diagnostics)
            return node, None, False
        return node, *FLOW.parts(node, self._diagnostics)

    def shared(self, folder: Path, name: Node) -> tuple[Node, Shared | None]:
        """Return the document of an included file, and what was read of it. Raises `FlowFileError`."""
        path = folder / str(name.value)
        try:
            text = self._kept[path] if path in self._kept else text_at(path)
        except (OSError, UnicodeDecodeError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or "it is not UTF-8"
            self._diagnostics.add(name, f"cannot read {path}: {reason}")
            return NOTHING, None
        self._add(text, path)
        node = read_document(text, str(path))
        self._limits.add_document(node)
        if node.get("flow") is not None:
            hint = "move what is shared into a file without flow:"
            self._diagnostics.add(name, "a flow file cannot be included in another", hint=hint)
            names = tuple(pair for pair in node.value if pair[0].value in keys_of(Shared))  # so that they are known
            return Node("mapping", names, node.location), None
        self._check_variables(node)
        read = SHARED_FILE.read(node, self._diagnostics)
        return node, None if read is MISSING else read

    def other(self, path: Path, form: Form[T]) -> T | Missing:
        """Read a further file of the flow by its form, such as its tests."""
        self.files.append(path)
        try:
            text = text_of(path)
            self._limits.add_text(text, str(path))
            node = read_document(text, str(path))
            self._limits.add_document(node)
            return form.read(node, self._diagnostics)
        except FlowFileError as error:
            self._diagnostics.extend(error)
            return MISSING

    def _add(self, text: str, path: Path) -> None:
        self._limits.add_text(text, str(path))
        self.files.append(path)
        self.texts.append(text)

    def _check_variables(self, node: Node) -> None:
        for text_node in (one for name, part in node.items() if name != "tests" for one in strings_in(part)):
            try:
                substitute(text_node.value, self._environment)
            except MissingVariable as error:
                self._diagnostics.add(text_node, str(error))


def strings_in(node: Node) -> Iterator[Node]:
    """Yield all strings in a document."""
    if node.kind == "text":
        yield node
    elif node.kind == "list":
        for item in node.value:
            yield from strings_in(item)
    for value in node.values():
        yield from strings_in(value)


def text_of(path: Path) -> str:
    """Return the text of a file. Raises `FlowFileError`."""
    diagnostics = Diagnostics()
    check_suffix(str(path), diagnostics)
    try:
        return text_at(path)
    except UnicodeDecodeError as error:
        diagnostics.add(SourceLocation(str(path), 1, 1), f"the file is not UTF-8 (byte {error.start})")
    except FileNotFoundError:
        diagnostics.add(SourceLocation(str(path)), "the file does not exist")
    except IsADirectoryError:
        diagnostics.add(SourceLocation(str(path)), "this is a directory", hint="name a flow file in it")
    except OSError as error:
        diagnostics.add(SourceLocation(str(path)), f"cannot read the file: {error.strerror or error}")
    diagnostics.check()
    return ""


def text_at(path: Path) -> str:
    """Return the text of a file or of a character device such as a terminal. Raises `OSError` and `UnicodeDecodeError`.

    Pipes are rejected: opening one waits until another process writes to it.
    """
    mode = path.stat().st_mode
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISBLK(mode):
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise OSError(errno.EFBIG, f"it has more than {MAX_BYTES} bytes, the limit of flow files", str(path))
    return data.decode().replace("\r\n", "\n").replace("\r", "\n")  # as Python reads text files
