"""YAML 1.2 with locations: PyYAML parses, the core schema of YAML 1.2 decides what a scalar without quotes is.

See https://yaml.org/spec/1.2.2/#1032-tag-resolution. YAML 1.1, which PyYAML implements, reads `no` as false, `1:30` as
90 and `12_000` as a number; here they are strings.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from penstock.flowfile.diagnostics import MAX_VALUES, Diagnostics, LineIndex, SourceLocation
from penstock.flowfile.document import MAX_DEPTH, TOO_DEEP, Kind, Node, check_characters, quoted
from penstock.flowfile.limits import MAX_BYTES

_INTEGER = re.compile(r"[-+]?[0-9]{1,400}|0o[0-7]{1,400}|0x[0-9a-fA-F]{1,400}")
_NUMBER = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_WORDS: dict[str, tuple[Kind, Any]] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), ("null", None)),
    **dict.fromkeys(("true", "True", "TRUE"), ("boolean", True)),
    **dict.fromkeys(("false", "False", "FALSE"), ("boolean", False)),
    **{
        f"{sign}{word}": ("number", float(f"{sign}inf")) for sign in ("", "+", "-") for word in (".inf", ".Inf", ".INF")
    },
    **{word: ("number", float("nan")) for word in (".nan", ".NaN", ".NAN")},
}


def resolve(word: str) -> tuple[Kind, Any]:
    """Return the kind and the value of a scalar without quotes."""
    if word in _WORDS:
        return _WORDS[word]
    if _INTEGER.fullmatch(word):
        return "integer", int(word, {"0o": 8, "0x": 16}.get(word[:2], 10))
    if _NUMBER.fullmatch(word):
        return "number", float(word)
    return "text", word


_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster, where PyYAML was built with libyaml
_FORBIDDEN = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_MESSAGES: dict[str, tuple[str, str | None]] = {
    "nesting depth": (TOO_DEEP, None),
    "tab character": ("tab in the indentation", "indent with spaces"),
    "cannot start any token": ("a value cannot start with this character", "put the string in quotes"),
    "alphabetic or numeric": ("a value cannot start with * or &", "put a string that starts with * or & in quotes"),
    "whitespace or line break": ("a tag is not allowed", "put a string that starts with ! in quotes"),
    "mapping values are not allowed": ("second colon, or wrong indentation", "put a string with a colon in quotes"),
    "expected ':'": ("key without a colon", "write `name: value`"),
    "expected key": ("indentation differs from the lines above", "align it with them"),
    "<block end>": ("indentation differs from the lines above", "align it with them"),
    "'-' indicator": ("indentation differs from the lines above", "align it with them"),
    "expected ',' or": (
        "list or mapping in brackets is not closed, or a comma is missing",
        "close it; put a string with { or } or a comma in quotes",
    ),
    "unexpected end of stream": ("string in quotes is not closed", "close the quotes"),
    "unknown escape character": ("unknown escape in double quotes", "use single quotes, or double the backslash"),
}
"""Messages of PyYAML, what they mean, and how to correct the error."""


def read_yaml(text: str, file: str, diagnostics: Diagnostics) -> Node:
    """Return the nodes of a YAML text. All keys are strings; tags and merge keys are rejected."""
    nothing = Node("null", None, SourceLocation(file, 1, 1))
    lines = LineIndex(text, file)  # the parser would count U+2028 and the like as line breaks, which no editor does
    if forbidden := _FORBIDDEN.search(text):
        location = lines.location(forbidden.start())
        diagnostics.add(location, f"character U+{ord(forbidden[0]):04X} is not allowed in YAML", hint="remove it")
        return nothing
    composer = _Composer(yaml.parse(text, Loader=_LOADER), lines, diagnostics)
    try:
        return composer.document() or nothing
    except yaml.MarkedYAMLError as error:
        endless = "end of stream" in (error.problem or "") or "expected ',' or" in (error.problem or "")
        mark = (error.context_mark if endless else None) or error.problem_mark
        location = lines.location(mark.index) if mark else nothing.location
        found, hint = _message(error, text, location)
        diagnostics.add(location, found, hint=hint)
        return nothing


def _message(error: yaml.MarkedYAMLError, text: str, location: SourceLocation) -> tuple[str, str | None]:
    problem = error.problem or "unreadable"
    lines = text.split("\n")
    rest = lines[location.line - 1][location.column - 1 :] if location.line <= len(lines) else ""
    if rest.startswith("\t"):
        return _MESSAGES["tab character"]
    known = next((message for words, message in _MESSAGES.items() if words in problem), None)
    return known or (f"invalid YAML: {problem}", None)


class _Composer:
    """Makes nodes from the events of the parser."""

    def __init__(self, events: Iterator[Any], lines: LineIndex, diagnostics: Diagnostics) -> None:
        self._events = events
        self._lines = lines
        self._diagnostics = diagnostics
        self._anchors: dict[str, tuple[Node, int, int, int]] = {}
        """For each anchor its node, and how many nodes, levels and characters that has."""
        self._open: set[str] = set()
        self._count = 0
        self._reach = 0
        self._length = 0
        """Characters of all strings, including those that aliases refer to."""

    def document(self) -> Node | None:
        root: Node | None = None
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                if root is not None:
                    self._diagnostics.add(
                        self._location(event), "second document in the file", hint="put it in its own file"
                    )
                    break
                root = self._node(next(self._events), 0)
        return root

    def _node(self, event: Any, depth: int) -> Node:
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, depth)
        if event.tag is not None:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            hint = "remove it" if tag.startswith("!!") else "remove it, or put a string that starts with ! in quotes"
            self._diagnostics.add(self._location(event), f"tag {tag} is not allowed", hint=hint)

        if event.anchor is not None:
            return self._anchored(event, depth)
        return self._plain(event, depth)

    def _plain(self, event: Any, depth: int) -> Node:
        self._add(1, 0, event)
        return self._scalar(event) if isinstance(event, yaml.ScalarEvent) else self._collection(event, depth + 1)

    def _anchored(self, event: Any, depth: int) -> Node:
        before, length, reach, self._reach = self._count, self._length, self._reach, depth
        self._open.add(event.anchor)
        node = self._plain(event, depth)
        self._open.discard(event.anchor)
        self._anchors[event.anchor] = node, self._count - before, self._reach - depth, self._length - length
        self._reach = max(reach, self._reach)
        return node

    def _alias(self, event: Any, depth: int) -> Node:
        location, name = self._location(event), event.anchor
        if name in self._open:
            self._diagnostics.add(location, f"alias *{name} refers to a value that contains it", hint="write it out")
        elif name not in self._anchors:
            hint = None if self._anchors else "put a string that starts with * in quotes"
            self._diagnostics.unknown(Node("text", name, location), "anchor", self._anchors, hint=hint)
        else:
            node, size, levels, length = self._anchors[name]
            self._add(size, length, event)
            self._go_to(depth + levels, location)
            return Node(node.kind, node.value, location)
        return Node("null", None, location)

    def _add(self, nodes: int, characters: int, event: Any) -> None:
        """Count nodes and the characters of strings. Raises `FlowFileError` if there are too many."""
        self._count += nodes
        self._length += characters
        if self._count > MAX_VALUES:
            self._diagnostics.values.add(self._count, self._location(event))
        if self._length > MAX_BYTES:
            hint = "use fewer aliases"
            self._diagnostics.exceeded(self._location(event), "bytes of strings up to here", MAX_BYTES, hint=hint)
            self._diagnostics.check()

    def _scalar(self, event: Any) -> Node:
        self._add(0, len(event.value), event)
        plain = not event.style
        kind, value = resolve(event.value) if plain else ("text", event.value)
        return check_characters(Node(kind, value, self._location(event)), self._diagnostics)

    def _collection(self, event: Any, depth: int) -> Node:
        location = self._location(event)
        self._go_to(depth, location)
        if isinstance(event, yaml.MappingStartEvent):
            return Node("mapping", tuple(self._pairs(depth)), location)
        return Node("list", tuple(self._node(item, depth) for item in self._until(yaml.SequenceEndEvent)), location)

    def _pairs(self, depth: int) -> list[tuple[Node, Node]]:
        pairs: dict[str, tuple[Node, Node]] = {}
        for event in self._until(yaml.MappingEndEvent):
            key = self._key(event, depth)
            value = self._node(next(self._events), depth)
            if key is None:
                continue
            if key.value in pairs:
                self._diagnostics.add(key, f"duplicate key {quoted(key.value)}", hint="remove one of them")
            pairs.setdefault(key.value, (key, value))
        return list(pairs.values())

    def _key(self, event: Any, depth: int) -> Node | None:
        node = self._node(event, depth)
        if isinstance(event, yaml.ScalarEvent):
            if event.value == "<<" and not event.style:
                self._diagnostics.add(node, "merge key << is not allowed", hint="write the keys out")
                return None
            return check_characters(Node("text", event.value, node.location), self._diagnostics)
        if node.kind == "text":
            return node
        self._diagnostics.add(node, f"expected a string as a key, got {node.shown()}", expected="a string")
        return None

    def _go_to(self, depth: int, location: SourceLocation) -> None:
        self._reach = max(self._reach, depth)
        if depth > MAX_DEPTH:
            self._diagnostics.add(location, TOO_DEEP)
            self._diagnostics.check()  # going deeper could exhaust the stack

    def _until(self, end: type) -> Iterator[Any]:
        while not isinstance(event := next(self._events), end):
            yield event

    def _location(self, event: Any) -> SourceLocation:
        return self._lines.location(event.start_mark.index)
