"""TOML with places: `tomllib` reads the values, a walk over the text finds where they stand."""

from __future__ import annotations

import datetime
import re
import tomllib
from collections.abc import Sequence
from typing import Any, cast

from penstock.files.characters import check_characters
from penstock.files.mistakes import Mistakes
from penstock.files.node import DEEPEST, TOO_DEEP, Node, scalar_kind
from penstock.files.places import Lines, Place, too_deep

Path = tuple[str | int, ...]

_AT = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
_TRIVIA = re.compile(r"(?:[ \t\r\n,]|#[^\n]*)*")
_KEY = re.compile(r"""[ \t]*("(?:\\.|[^"\\])*"|'[^']*'|[A-Za-z0-9_-]+)[ \t]*(\.?)""")
_SCALAR = re.compile(
    r""""{3}(?:\\.|[^\\])*?"{3}"{0,2}|'{3}.*?'{3}'{0,2}|"(?:\\.|[^"\\])*"|'[^']*'|[^,\]}\n#]+""", re.DOTALL
)


def read_toml(text: str, file: str, mistakes: Mistakes) -> Node:
    """The nodes of a TOML text. Dates and times become texts in the form of ISO 8601."""
    start = Place(file, 1, 1)
    try:
        data = tomllib.loads(text)
        walk = _Walk(text, file)
        walk.document()
    except tomllib.TOMLDecodeError as error:
        mistakes.add(_where(error, text, file), f"this is no valid TOML: {_AT.sub('', str(error))}")
        return Node("null", None, start)
    except RecursionError:
        mistakes.add(too_deep(text, Lines(text, file), DEEPEST), TOO_DEEP)
        return Node("null", None, start)
    except ValueError as error:  # a number of thousands of digits
        mistakes.add(start, f"this TOML cannot be read: {error}")
        return Node("null", None, start)
    return _Builder(walk, mistakes).node(data, (), start)


def _where(error: tomllib.TOMLDecodeError, text: str, file: str) -> Place:
    found = _AT.search(str(error))
    if found is None or found[1] is None:
        return Lines(text, file).place(len(text))
    return Place(file, int(found[1]), int(found[2]))


class _Walk:
    """Goes through a text that is known to be valid and notes the place of every key and value by its path."""

    def __init__(self, text: str, file: str) -> None:
        self._text = text
        self._lines = Lines(text, file)
        self._tables: dict[Path, int] = {}
        """How often each `[[table]]` has been begun."""
        self.keys: dict[Path, Place] = {}
        self.values: dict[Path, Place] = {}

    def document(self) -> None:
        table: Path = ()
        at = self._past(0)
        while at < len(self._text):
            if self._text[at] == "[":
                at, table = self._header(at)
            else:
                at = self._pair(at, table)
            at = self._past(at)

    def _header(self, at: int) -> tuple[int, Path]:
        brackets = 2 if self._text.startswith("[[", at) else 1
        names, end = self._names(at + brackets)
        path: Path = ()
        for number, (name, place) in enumerate(names, 1):
            path = (*path, name)
            self.keys.setdefault(path, place)
            self.values.setdefault(path, place)
            if brackets == 2 and number == len(names):
                self._tables[path] = self._tables.get(path, 0) + 1
            if path in self._tables:
                path = (*path, self._tables[path] - 1)
            self.values.setdefault(path, place)
        return end + brackets, path

    def _pair(self, at: int, table: Path) -> int:
        names, at = self._names(at)
        path = table
        for name, place in names:
            path = (*path, name)
            self.keys.setdefault(path, place)
            self.values.setdefault(path, place)
        return self._value(self._past(at + 1), path)

    def _value(self, at: int, path: Path) -> int:
        self.values[path] = self._lines.place(at)
        if self._text[at] == "[":
            return self._list(at + 1, path)
        if self._text[at] == "{":
            return self._inline(at + 1, path)
        return _SCALAR.match(self._text, at).end()  # type: ignore[union-attr]  # the text is valid

    def _list(self, at: int, path: Path) -> int:
        index = 0
        while self._text[at := self._past(at)] != "]":
            at = self._value(at, (*path, index))
            index += 1
        return at + 1

    def _inline(self, at: int, path: Path) -> int:
        while self._text[at := self._past(at)] != "}":
            at = self._pair(at, path)
        return at + 1

    def _names(self, at: int) -> tuple[list[tuple[str, Place]], int]:
        """The parts of a dotted key, and where it ends."""
        names: list[tuple[str, Place]] = []
        while found := _KEY.match(self._text, at):
            written, at = found[1], found.end()
            name = str(tomllib.loads(f"name = {written}")["name"]) if written[0] in "\"'" else written
            names.append((name, self._lines.place(found.start(1))))
            if not found[2]:
                break
        return names, at

    def _past(self, at: int) -> int:
        """The next thing after spaces, lines, comments and commas."""
        return _TRIVIA.match(self._text, at).end()  # type: ignore[union-attr]  # matches anything


class _Builder:
    """Puts the values that `tomllib` read and the places together."""

    def __init__(self, walk: _Walk, mistakes: Mistakes) -> None:
        self._walk = walk
        self._mistakes = mistakes

    def node(self, value: Any, path: Path, around: Place) -> Node:
        place = self._walk.values.get(path, around)
        if len(path) >= DEEPEST and isinstance(value, (dict, list)):
            self._mistakes.add(place, TOO_DEEP)
            return Node("null", None, place)
        if isinstance(value, dict):
            table = cast("dict[str, Any]", value)
            return Node("mapping", tuple(self._pair(item, path, place) for item in table.items()), place)
        if isinstance(value, list):
            items = cast("Sequence[Any]", value)
            nodes = (self.node(item, (*path, index), place) for index, item in enumerate(items))
            return Node("list", tuple(nodes), place)
        if isinstance(value, (datetime.date, datetime.time)):
            return Node("text", value.isoformat(), place)
        return check_characters(Node(scalar_kind(value), value, place), self._mistakes)

    def _pair(self, item: tuple[str, Any], path: Path, around: Place) -> tuple[Node, Node]:
        name, value = item
        inner = (*path, name)
        key = check_characters(Node("text", name, self._walk.keys.get(inner, around)), self._mistakes)
        return key, self.node(value, inner, around)
