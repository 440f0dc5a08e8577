"""The nodes of a document: values with their locations in the file."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from penstock.flowfile.diagnostics import Diagnostics, SourceLocation

Kind = Literal["mapping", "list", "text", "integer", "number", "boolean", "null"]

MAX_DEPTH = 100
"""How deep mappings and lists may be nested."""

TOO_DEEP = f"more than {MAX_DEPTH} levels of nesting"

_MAX_SHOWN = 40


@dataclass(frozen=True, slots=True)
class Node:
    """A value and its location.

    `value` is a Python value for a scalar, a tuple of nodes for a list, and a tuple of pairs (key node, value node) for
    a mapping. The keys of a mapping are strings without duplicates.
    """

    kind: Kind
    value: Any
    location: SourceLocation

    def get(self, name: str) -> Node | None:
        """Return the value of a key; None for other keys, and for a node that is not a mapping."""
        return next((value for key, value in self.items() if key == name), None)

    def key(self, name: str) -> Node | None:
        """Return the node of a key, such as for its location; None if there is none."""
        pairs = self.value if self.kind == "mapping" else ()
        return next((key for key, _ in pairs if key.value == name), None)

    def items(self) -> Iterator[tuple[str, Node]]:
        """Yield the keys and values of a mapping; nothing for other nodes."""
        if self.kind == "mapping":
            for key, value in self.value:
                yield key.value, value

    def values(self) -> Iterator[Node]:
        """Yield the values of a mapping; nothing for other nodes."""
        return (value for _, value in self.items())

    def plain(self) -> Any:
        """Return the value as dicts, lists and scalars."""
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
        return number.lower() if len(number) <= _MAX_SHOWN else f"{number[:_MAX_SHOWN]}…"


def quoted(text: str) -> str:
    """Return a string in double quotes, in one line, shortened if it is long."""
    return json.dumps(text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…", ensure_ascii=False)


def any_of(names: Sequence[str]) -> str:
    """Return names as one text: a, b or c."""
    return " or ".join([*([", ".join(names[:-1])] if len(names) > 1 else []), names[-1]])


def scalar_kind(value: object) -> Kind:
    """Return the kind of a Python scalar. Raises `TypeError` for other values."""
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
            raise TypeError(f"expected a JSON value, got {type(value).__name__}")


def node_of(value: Any, location: SourceLocation) -> Node:
    """Return dicts, lists and scalars as a node. All its nodes get the same location."""
    if isinstance(value, Mapping):
        names = cast("Mapping[str, Any]", value)
        pairs = ((Node("text", str(name), location), node_of(inner, location)) for name, inner in names.items())
        return Node("mapping", tuple(pairs), location)
    if isinstance(value, (list, tuple)):
        items = cast("Sequence[Any]", value)
        return Node("list", tuple(node_of(item, location) for item in items), location)
    return Node(scalar_kind(value), value, location)


_FORBIDDEN = re.compile("[\0\ud800-\udfff]")


def check_characters(node: Node, diagnostics: Diagnostics) -> Node:
    """Return the node; add an error and replace the character if it is a string with a lone surrogate or U+0000.

    No name, path or URL can contain them: they cannot be written to a terminal, opened, compiled or sent.
    """
    if node.kind != "text" or (found := _FORBIDDEN.search(node.value)) is None:
        return node
    diagnostics.add(node, f"character U+{ord(found[0]):04X} is not allowed in flow files", hint="remove it")
    return Node("text", _FORBIDDEN.sub("\ufffd", node.value), node.location)
