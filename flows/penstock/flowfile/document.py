"""A value of a document with its location in the file."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from penstock.flowfile.diagnostics import Diagnostics, SourceLocation

Kind = Literal["mapping", "list", "text", "integer", "number", "boolean", "null"]

DEEPEST = 100
"""How deep mappings and lists may be nested."""

TOO_DEEP = f"more than {DEEPEST} levels of nesting"

_SHOWN = 40


@dataclass(frozen=True, slots=True)
class Node:
    """A value and where it stands.

    `value` is plain for a scalar, a tuple of nodes for a list, a tuple of pairs (key node, value node) for a
    mapping. A mapping's keys are texts and differ from each other.
    """

    kind: Kind
    value: Any
    place: SourceLocation

    def get(self, name: str) -> Node | None:
        """The value under this key, if this is a mapping that has it."""
        return next((value for key, value in self.items() if key == name), None)

    def key(self, name: str) -> Node | None:
        """The key of this name itself, for its place."""
        pairs = self.value if self.kind == "mapping" else ()
        return next((key for key, _ in pairs if key.value == name), None)

    def items(self) -> Iterator[tuple[str, Node]]:
        """Names and values of a mapping; nothing for anything else."""
        if self.kind == "mapping":
            for key, value in self.value:
                yield key.value, value

    def values(self) -> Iterator[Node]:
        """The values of a mapping; nothing for anything else."""
        return (value for _, value in self.items())

    def plain(self) -> Any:
        """The same as dicts, lists and scalars."""
        if self.kind == "mapping":
            return {name: value.plain() for name, value in self.items()}
        if self.kind == "list":
            return [item.plain() for item in self.value]
        return self.value

    def shown(self) -> str:
        """Describe the value in a few words, for messages."""
        if self.kind == "mapping":
            return "a mapping"
        if self.kind == "list":
            return f"a list of {len(self.value)}" if self.value else "an empty list"
        if self.kind == "null":
            return "nothing"
        if self.kind == "text":
            text: str = self.value
            return quoted(text)
        number = str(self.value)
        return number.lower() if len(number) <= _SHOWN else f"{number[:_SHOWN]}…"


def quoted(text: str) -> str:
    """A text in double quotes and in one line, shortened when it is long."""
    return json.dumps(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…", ensure_ascii=False)


def scalar_kind(value: object) -> Kind:
    """The kind of a plain scalar."""
    match value:
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case None:
            return "null"
        case str():
            return "text"
        case _:
            raise TypeError(f"no document holds a {type(value).__name__}")


def node_of(value: Any, place: SourceLocation) -> Node:
    """Plain data as a node, all of it at one place."""
    if isinstance(value, Mapping):
        names = cast("Mapping[str, Any]", value)
        pairs = ((Node("text", str(name), place), node_of(inner, place)) for name, inner in names.items())
        return Node("mapping", tuple(pairs), place)
    if isinstance(value, (list, tuple)):
        items = cast("Sequence[Any]", value)
        return Node("list", tuple(node_of(item, place) for item in items), place)
    return Node(scalar_kind(value), value, place)


_REFUSED = re.compile("[\0\ud800-\udfff]")


def check_characters(node: Node, diagnostics: Diagnostics) -> Node:
    """Return the node; add an error and replace the character if it is a string with a lone surrogate or U+0000.

    No name, path or URL can contain them: they cannot be written to a terminal, opened, compiled or sent.
    """
    if node.kind != "text" or (found := _REFUSED.search(node.value)) is None:
        return node
    diagnostics.add(node, f"character U+{ord(found[0]):04X} is not allowed in flow files", hint="remove it")
    return Node("text", _REFUSED.sub("\ufffd", node.value), node.place)
