"""JSON with locations: the standard library validates it, a walk over the text locates the values."""

from __future__ import annotations

import json
import re
from math import isfinite

from penstock.flowfile.diagnostics import Diagnostics, LineIndex, SourceLocation, too_deep
from penstock.flowfile.document import MAX_DEPTH, TOO_DEEP, Node, check_characters, quoted, scalar_kind

_SPACE = re.compile(r"[ \t\r\n]*")
_SEPARATOR = re.compile(r"[ \t\r\n]*[,:]?[ \t\r\n]*")


def read_json(text: str, file: str, diagnostics: Diagnostics) -> Node:
    """Return the nodes of a JSON text. A syntax error is the only error that is reported."""
    nothing = Node("null", None, SourceLocation(file, 1, 1))
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        diagnostics.add(SourceLocation(file, error.lineno, error.colno), f"invalid JSON: {_lower(error.msg)}")
        return nothing
    except RecursionError:
        diagnostics.add(too_deep(text, LineIndex(text, file), MAX_DEPTH), TOO_DEEP)
        return nothing
    except ValueError as error:  # a number of thousands of digits
        diagnostics.add(nothing, f"invalid JSON: {_lower(str(error))}")
        return nothing
    return _Walk(text, file, diagnostics).document()


class _Walk:
    """Walks over a text that is known to be valid."""

    def __init__(self, text: str, file: str, diagnostics: Diagnostics) -> None:
        self._text = text
        self._lines = LineIndex(text, file)
        self._diagnostics = diagnostics
        self._decoder = json.JSONDecoder()

    def document(self) -> Node:
        return self._value(_SPACE.match(self._text).end(), 0)[0]  # type: ignore[union-attr]  # matches anything

    def _value(self, start: int, depth: int) -> tuple[Node, int]:
        self._diagnostics.values.add(1, self._lines.location(start))
        first = self._text[start]
        if first not in "{[":
            return self._scalar(start)

        location = self._lines.location(start)
        if depth == MAX_DEPTH:
            self._diagnostics.add(location, TOO_DEEP)
            self._diagnostics.check()  # going deeper could exhaust the stack
        return self._mapping(start, location, depth + 1) if first == "{" else self._list(start, location, depth + 1)

    def _scalar(self, start: int) -> tuple[Node, int]:
        value, end = self._decoder.raw_decode(self._text, start)
        node = Node(scalar_kind(value), value, self._lines.location(start))
        if isinstance(value, float) and not isfinite(value):
            self._diagnostics.add(node, f"expected a finite number, got {self._text[start:end][:40]}")
        return check_characters(node, self._diagnostics), end

    def _mapping(self, start: int, location: SourceLocation, depth: int) -> tuple[Node, int]:
        pairs: dict[str, tuple[Node, Node]] = {}
        at = self._past(start + 1)
        while self._text[at] != "}":
            self._diagnostics.values.add(1, location)
            key, at = self._scalar(at)
            value, at = self._value(self._past(at), depth)
            if key.value in pairs:
                self._diagnostics.add(key, f"duplicate key {quoted(key.value)}", hint="remove one of them")
            pairs.setdefault(key.value, (key, value))
            at = self._past(at)
        return Node("mapping", tuple(pairs.values()), location), at + 1

    def _list(self, start: int, location: SourceLocation, depth: int) -> tuple[Node, int]:
        items: list[Node] = []
        at = self._past(start + 1)
        while self._text[at] != "]":
            item, at = self._value(at, depth)
            items.append(item)
            at = self._past(at)
        return Node("list", tuple(items), location), at + 1

    def _past(self, at: int) -> int:
        """Return the offset after spaces, a comma or a colon."""
        return _SEPARATOR.match(self._text, at).end()  # type: ignore[union-attr]  # matches anything


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:]
