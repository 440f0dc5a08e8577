"""What a word of YAML is that stands without quotes: the core schema of YAML 1.2.

See https://yaml.org/spec/1.2.2/#1032-tag-resolution. YAML 1.1, which PyYAML follows, takes `no` for false, `1:30` for
90 and `12_000` for a number; here they are texts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from penstock.flowfile.diagnostics import MAX_VALUES, Diagnostics, LineIndex, SourceLocation
from penstock.flowfile.document import DEEPEST, TOO_DEEP, Kind, Node, check_characters, quoted
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
    """The kind and the value of a plain word."""
    if word in _WORDS:
        return _WORDS[word]
    if _INTEGER.fullmatch(word):
        return "integer", int(word, {"0o": 8, "0x": 16}.get(word[:2], 10))
    if _NUMBER.fullmatch(word):
        return "number", float(word)
    return "text", word


_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster, where PyYAML was built with libyaml
_UNREADABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_SENTENCES: dict[str, tuple[str, str | None]] = {
    "nesting depth": (TOO_DEEP, None),
    "tab character": ("a tab in the indentation", "indent with spaces"),
    "cannot start any token": ("this character cannot begin a value", "put the text into quotes"),
    "mapping values are not allowed": ("a second colon, or a wrong indentation", "put a text with a colon into quotes"),
    "expected ':'": ("a key without its colon", "write `name: value`"),
    "expected key": ("this line is indented like none above it", "align it with its neighbours"),
    "<block end>": ("this line is indented like none above it", "align it with its neighbours"),
    "'-' indicator": ("this line is indented like none above it", "align it with its neighbours"),
    "expected ',' or": (
        "a list or mapping in brackets does not end, or misses a comma",
        "close it; put a text with { or } or a comma into quotes",
    ),
    "unexpected end of stream": ("a text in quotes does not end", "close the quotes"),
    "unknown escape character": ("an unknown escape in double quotes", "use single quotes, or double the backslash"),
}
"""What PyYAML says, what that means, and the way out."""


def read_yaml(text: str, file: str, mistakes: Diagnostics) -> Node:
    """The nodes of a YAML text. Keys are texts whatever they look like; tags and merge keys are refused."""
    nothing = Node("null", None, SourceLocation(file, 1, 1))
    lines = LineIndex(text, file)  # the parser would count U+2028 and the like as line breaks, which no editor does
    if unreadable := _UNREADABLE.search(text):
        place = lines.place(unreadable.start())
        mistakes.add(place, f"the character U+{ord(unreadable[0]):04X} may not stand in YAML", hint="take it out")
        return nothing
    composer = _Composer(yaml.parse(text, Loader=_LOADER), lines, mistakes)
    try:
        return composer.document() or nothing
    except yaml.MarkedYAMLError as error:
        endless = "end of stream" in (error.problem or "") or "expected ',' or" in (error.problem or "")
        mark = (error.context_mark if endless else None) or error.problem_mark
        place = lines.place(mark.index) if mark else nothing.place
        found, hint = _sentence(error, text, place)
        mistakes.add(place, found, hint=hint)
        return nothing


def _sentence(error: yaml.MarkedYAMLError, text: str, place: SourceLocation) -> tuple[str, str | None]:
    problem = error.problem or "unreadable"
    lines = text.split("\n")
    rest = lines[place.line - 1][place.column - 1 :] if place.line <= len(lines) else ""
    if rest.startswith("\t"):
        return _SENTENCES["tab character"]
    known = next((said for words, said in _SENTENCES.items() if words in problem), None)
    return known or (f"this is no valid YAML: {problem}", None)


class _Composer:
    """Makes nodes of the parser's events."""

    def __init__(self, events: Iterator[Any], lines: LineIndex, mistakes: Diagnostics) -> None:
        self._events = events
        self._lines = lines
        self._mistakes = mistakes
        self._anchors: dict[str, tuple[Node, int, int, int]] = {}
        """What each anchor stands for, how many nodes that is, how many levels, and how many characters."""
        self._open: set[str] = set()
        self._count = 0
        self._reach = 0
        self._length = 0
        """Characters of all texts, those that aliases stand for included."""

    def document(self) -> Node | None:
        root: Node | None = None
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                if root is not None:
                    self._mistakes.add(self._place(event), "a second document begins here", hint="give it its own file")
                    break
                root = self._node(next(self._events), 0)
        return root

    def _node(self, event: Any, depth: int) -> Node:
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, depth)
        if event.tag is not None:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            self._mistakes.add(self._place(event), f"found the tag {tag}", hint="tags mean nothing here, leave it out")

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
        place, name = self._place(event), event.anchor
        if name in self._open:
            self._mistakes.add(place, f"the alias *{name} stands inside of what it stands for", hint="write it out")
        elif name not in self._anchors:
            self._mistakes.add(place, f"nothing above is marked &{name}", allowed=self._anchors, nearest=name)
        else:
            node, size, levels, length = self._anchors[name]
            self._add(size, length, event)
            self._go_to(depth + levels, place)
            return Node(node.kind, node.value, place)
        return Node("null", None, place)

    def _add(self, nodes: int, characters: int, event: Any) -> None:
        """Count nodes and the characters of texts; raises `FlowFileError` when there are too many."""
        self._count += nodes
        self._length += characters
        if self._count > MAX_VALUES:
            self._mistakes.values.add(self._count, self._place(event))
        if self._length > MAX_BYTES:
            hint = "write out less, or use fewer aliases"
            self._mistakes.add(self._place(event), f"the texts up to here have more than {MAX_BYTES} bytes", hint=hint)
            self._mistakes.check()

    def _scalar(self, event: Any) -> Node:
        self._add(0, len(event.value), event)
        plain = not event.style
        kind, value = resolve(event.value) if plain else ("text", event.value)
        return check_characters(Node(kind, value, self._place(event)), self._mistakes)

    def _collection(self, event: Any, depth: int) -> Node:
        place = self._place(event)
        self._go_to(depth, place)
        if isinstance(event, yaml.MappingStartEvent):
            return Node("mapping", tuple(self._pairs(depth)), place)
        return Node("list", tuple(self._node(item, depth) for item in self._until(yaml.SequenceEndEvent)), place)

    def _pairs(self, depth: int) -> list[tuple[Node, Node]]:
        pairs: dict[str, tuple[Node, Node]] = {}
        for event in self._until(yaml.MappingEndEvent):
            key = self._key(event, depth)
            value = self._node(next(self._events), depth)
            if key is None:
                continue
            if key.value in pairs:
                self._mistakes.add(key, f"{quoted(key.value)} stands twice in this mapping", hint="keep one of them")
            pairs.setdefault(key.value, (key, value))
        return list(pairs.values())

    def _key(self, event: Any, depth: int) -> Node | None:
        node = self._node(event, depth)
        if isinstance(event, yaml.ScalarEvent):
            if event.value == "<<" and not event.style:
                self._mistakes.add(node, "found the merge key <<", hint="write the keys out where they belong")
                return None
            return check_characters(Node("text", event.value, node.place), self._mistakes)
        if node.kind == "text":
            return node
        self._mistakes.add(node, f"found {node.shown()} as a key", wanted="a text")
        return None

    def _go_to(self, depth: int, place: SourceLocation) -> None:
        self._reach = max(self._reach, depth)
        if depth > DEEPEST:
            self._mistakes.add(place, TOO_DEEP)
            self._mistakes.check()  # going deeper could exhaust the stack

    def _until(self, end: type) -> Iterator[Any]:
        while not isinstance(event := next(self._events), end):
            yield event

    def _place(self, event: Any) -> SourceLocation:
        return self._lines.place(event.start_mark.index)
