"""The files that a flow is written in: itself, those that it uses, and its tests; each is read by its shape."""

from __future__ import annotations

import errno
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from penstock.errors import FlowFileError, MissingVariable
from penstock.flowfile.diagnostics import Diagnostics, SourceLocation
from penstock.flowfile.document import Node
from penstock.flowfile.forms.form import MISSING
from penstock.flowfile.forms.record import Read
from penstock.flowfile.limits import MAX_BYTES, Limits
from penstock.flowfile.models import FLOW, SHARED, SHARED_FILE, TESTS_FILE
from penstock.flowfile.read_document import check_ending, read_document
from penstock.support.environment import substitute

NOTHING = Node("mapping", (), SourceLocation("", 1, 1))


class FileReader:
    """What was read, together with what is wrong in it."""

    def __init__(self, environment: Mapping[str, str], mistakes: Diagnostics) -> None:
        self._environment = environment
        self._mistakes = mistakes
        self._limits = Limits(mistakes)
        self.files: list[Path] = []
        self.texts: list[str] = []

    def flow(self, text: str, path: Path) -> tuple[Node, Read | None, bool]:
        """The document of a flow, what its shape made of it, and whether that is all. Raises `FlowFileError`.

        None for what is no mapping.
        """
        self._note(text, path)
        node = read_document(text, str(path)) if text.strip("\ufeff \t\r\n") else NOTHING
        if node.kind == "null" or node.value == ():
            place = SourceLocation(str(path), 1, 1)
            self._mistakes.add(place, "the file is empty", hint="`penstock new NAME` begins one")
            return NOTHING, None, False
        self._limits.add_document(node)
        self._check_variables(node)
        if node.kind != "mapping":
            FLOW.reject(node, self._mistakes)
            return node, None, False
        return node, *FLOW.parts(node, self._mistakes)

    def shared(self, folder: Path, name: Node) -> tuple[Node, Any]:
        """The same of a file that is used by its name. Raises `FlowFileError` for what is no document."""
        path = folder / str(name.value)
        try:
            text = text_at(path)
        except (OSError, UnicodeDecodeError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or "it is not UTF-8"
            self._mistakes.add(name, f"the file {path} cannot be read: {reason}")
            return NOTHING, MISSING
        self._note(text, path)
        node = read_document(text, str(path))
        self._limits.add_document(node)
        if node.get("flow") is not None:
            hint = "put what is shared into a file without flow:"
            self._mistakes.add(name, "a flow file cannot be used by another", hint=hint)
            names = tuple(pair for pair in node.value if pair[0].value in SHARED)  # nobody is to miss them here
            return Node("mapping", names, node.place), MISSING
        self._check_variables(node)
        return node, SHARED_FILE.read(node, self._mistakes)

    def tests(self, path: Path) -> Any:
        """The tests in a file of their own."""
        self.files.append(path)
        try:
            text = text_of(path)
            self._limits.add_text(text, str(path))
            node = read_document(text, str(path))
            self._limits.add_document(node)
            read = TESTS_FILE.read(node, self._mistakes)
        except FlowFileError as error:
            self._mistakes.extend(error)
            return None
        return read["tests"] if isinstance(read, Read) else None

    def _note(self, text: str, path: Path) -> None:
        self._limits.add_text(text, str(path))
        self.files.append(path)
        self.texts.append(text)

    def _check_variables(self, node: Node) -> None:
        for text_node in (one for name, part in node.items() if name != "tests" for one in texts_in(part)):
            try:
                substitute(text_node.value, self._environment)
            except MissingVariable as error:
                self._mistakes.add(text_node, str(error))


def tests_beside(path: Path) -> Path:
    """The file in which further tests of a flow file may lie: `NAME.test.yaml` beside `NAME.yaml`."""
    return path.parent / f"{path.stem}.test{path.suffix}"


def texts_in(node: Node) -> Iterator[Node]:
    """All texts in a document."""
    if node.kind == "text":
        yield node
    elif node.kind == "list":
        for item in node.value:
            yield from texts_in(item)
    for value in node.values():
        yield from texts_in(value)


def text_of(path: Path) -> str:
    """The text of a file; raises `FlowFileError`."""
    mistakes = Diagnostics()
    check_ending(str(path), mistakes)
    try:
        return text_at(path)
    except UnicodeDecodeError as error:
        mistakes.add(SourceLocation(str(path), 1, 1), f"the file is not UTF-8 (byte {error.start})")
    except OSError as error:
        mistakes.add(SourceLocation(str(path), 1, 1), f"the file cannot be read: {error.strerror or error}")
    mistakes.check()
    return ""


def text_at(path: Path) -> str:
    """The text at a path; raises `OSError` and `UnicodeDecodeError`.

    Of files and devices such as a terminal only: whoever opens a pipe waits for another to write to it.
    """
    mode = path.stat().st_mode
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISBLK(mode):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise OSError(errno.EFBIG, f"it has more than {MAX_BYTES} bytes, the limit of flow files", str(path))
    return data.decode().replace("\r\n", "\n").replace("\r", "\n")  # as text files are read
