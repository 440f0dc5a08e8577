"""Shapes of what holds other values: lists, mappings, records with named fields, and choices by a key."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from penstock.errors import FlowError
from penstock.files.mistakes import Mistakes
from penstock.files.node import Kind, Node, node_of, quoted
from penstock.files.places import Place
from penstock.files.shapes import MISSING, Missing, Schema, Shape, whole


@dataclass(frozen=True, slots=True)
class Field:
    """A named value of a record. `default` is what stands for it when it is left out, as one would write it."""

    shape: Shape
    required: bool = False
    about: str = ""
    default: Any = None

    def __post_init__(self) -> None:
        if self.default is not None:
            self.left_out()

    def left_out(self) -> Any:
        """The value of the field when it is not there: that of its default, else None."""
        if self.default is None:
            return None
        mistakes = Mistakes()
        value = self.shape.read(node_of(self.default, Place("default", 1, 1)), mistakes)
        if mistakes:
            raise ValueError(f"{self.default!r} cannot be the default: {next(iter(mistakes))}")
        return value

    def piece(self, definitions: dict[str, Schema]) -> Schema:
        """The schema of the field, with what it is about and its default."""
        piece = self.shape.piece(definitions)
        piece |= {"description": self.about} if self.about else {}
        return piece | ({"default": self.default} if self.default is not None else {})


@dataclass(frozen=True, slots=True)
class Read:
    """A record that was read: the value of every field, and where it stood."""

    node: Node
    """The mapping."""
    values: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.values)

    def __contains__(self, name: str) -> bool:
        """Whether the field was written, and not left out."""
        return self.node.get(name) is not None

    def at(self, name: str) -> Node:
        """The node of this field, or of the whole record when the field was left out: where a mistake points to."""
        return self.node.get(name) or self.node


@dataclass(frozen=True, slots=True)
class Chosen:
    """What was read under the one key of a `OneKey`."""

    kind: str
    """The key."""
    key: Node
    """Where the key stands."""
    value: Any
    at: Node
    """Where the value stands."""
    beside: Read
    """What stands beside the key."""


@dataclass(frozen=True, slots=True)
class ListOf(Shape):
    """A list of values of one shape, read as a tuple."""

    shape: Shape
    least: int = 0

    @property
    def kinds(self) -> frozenset[Kind]:
        return frozenset({"list"})

    @property
    def wanted(self) -> str:
        return f"a list of at least {self.least}" if self.least else "a list"

    def read(self, node: Node, mistakes: Mistakes) -> tuple[Any, ...] | Missing:
        if node.kind != "list" or len(node.value) < self.least:
            return self.refuse(node, mistakes)
        values = tuple(self.shape.read(item, mistakes) for item in node.value)
        return MISSING if any(value is MISSING for value in values) else values

    def rules(self, definitions: dict[str, Schema]) -> Schema:
        least = {"minItems": self.least} if self.least else {}
        return {"type": "array", "items": self.shape.piece(definitions), **least}


@dataclass(frozen=True, slots=True)
class MapOf(Shape):
    """Values of one shape under names of the user's choice, read as a dict; `key_pattern` is for a whole name."""

    shape: Shape
    key_pattern: str | None = None

    @property
    def kinds(self) -> frozenset[Kind]:
        return frozenset({"mapping"})

    @property
    def wanted(self) -> str:
        return "a mapping"

    def read(self, node: Node, mistakes: Mistakes) -> dict[str, Any] | Missing:
        if node.kind != "mapping":
            return self.refuse(node, mistakes)
        values = {key.value: self._value(key, value, mistakes) for key, value in node.value}
        return MISSING if any(value is MISSING for value in values.values()) else values

    def _value(self, key: Node, value: Node, mistakes: Mistakes) -> Any:
        read = self.shape.read(value, mistakes)
        if self.key_pattern is None or re.fullmatch(self.key_pattern, key.value):
            return read
        mistakes.add(key, f"found the name {key.shown()}", wanted=f"a name like {self.key_pattern}")
        return MISSING

    def rules(self, definitions: dict[str, Schema]) -> Schema:
        names = {} if self.key_pattern is None else {"propertyNames": {"pattern": whole(self.key_pattern)}}
        return {"type": "object", **names, "additionalProperties": self.shape.piece(definitions)}


@dataclass(frozen=True, slots=True)
class Record(Shape):
    """A mapping with these fields and no others, read as a `Read`, or as what `make` makes of that.

    A `ValueError`, `TypeError` or `FlowError` of `make` becomes a mistake of the record.
    """

    fields: Mapping[str, Field]
    make: Callable[[Read], Any] | None = None

    @property
    def kinds(self) -> frozenset[Kind]:
        return frozenset({"mapping"})

    @property
    def wanted(self) -> str:
        return "a mapping"

    def read(self, node: Node, mistakes: Mistakes) -> Any:
        if node.kind != "mapping":
            return self.refuse(node, mistakes)

        unknown = [key for key, _ in node.value if key.value not in self.fields]
        for key in unknown:
            mistakes.add(key, f"found {key.shown()}", allowed=self.fields, nearest=key.value)
        values = {name: _read_field(name, field, node, mistakes) for name, field in self.fields.items()}
        if unknown or any(value is MISSING for value in values.values()):
            return MISSING
        return self._made(Read(node, values), mistakes)

    def _made(self, read: Read, mistakes: Mistakes) -> Any:
        if self.make is None:
            return read
        try:
            return self.make(read)
        except (ValueError, TypeError, FlowError) as error:
            mistakes.add(read.node, str(error))
            return MISSING

    def rules(self, definitions: dict[str, Schema]) -> Schema:
        required = [name for name, field in self.fields.items() if field.required]
        return {
            "type": "object",
            "properties": {name: field.piece(definitions) for name, field in self.fields.items()},
            **({"required": required} if required else {}),
            "additionalProperties": False,
        }


@dataclass(frozen=True, slots=True)
class OneKey(Shape):
    """A mapping with exactly one of these keys, which says what it is; the fields of `beside` may stand next to it.

    Read as a `Chosen`.
    """

    alternatives: Mapping[str, Shape]
    beside: Mapping[str, Field] | None = None

    def __post_init__(self) -> None:
        if both := set(self.alternatives) & set(self.beside or {}):
            raise ValueError(f"{', '.join(sorted(both))} cannot be a key and stand beside it")

    @property
    def kinds(self) -> frozenset[Kind]:
        return frozenset({"mapping"})

    @property
    def wanted(self) -> str:
        return f"a mapping with one of {', '.join(self.alternatives)}"

    def read(self, node: Node, mistakes: Mistakes) -> Chosen | Missing:
        if node.kind != "mapping":
            return self.refuse(node, mistakes)

        fields = self.beside or {}
        pairs: list[tuple[Node, Node]] = [pair for pair in node.value if pair[0].value in self.alternatives]
        unknown = [key for key, _ in node.value if key.value not in self.alternatives and key.value not in fields]
        values = [self.alternatives[key.value].read(value, mistakes) for key, value in pairs]
        beside = {name: _read_field(name, field, node, mistakes) for name, field in fields.items()}
        for key in unknown:
            mistakes.add(key, f"found {key.shown()}", allowed=[*self.alternatives, *fields], nearest=key.value)
        if not pairs and not unknown:
            self.refuse(node, mistakes)
        for key, _ in pairs[1:]:
            sentence = f"{key.shown()} stands beside {pairs[0][0].shown()}"
            mistakes.add(key, sentence, wanted="only one of them", hint="make it an item of its own")
        if len(pairs) != 1 or unknown or any(value is MISSING for value in (*values, *beside.values())):
            return MISSING
        return Chosen(pairs[0][0].value, pairs[0][0], values[0], pairs[0][1], Read(node, beside))

    def rules(self, definitions: dict[str, Schema]) -> Schema:
        fields = self.beside or {}
        required = [name for name, field in fields.items() if field.required]
        return {
            "type": "object",
            "properties": {name: part.piece(definitions) for name, part in {**self.alternatives, **fields}.items()},
            **({"required": required} if required else {}),
            "additionalProperties": False,
            "oneOf": [{"required": [name]} for name in self.alternatives],
        }


def _read_field(name: str, field: Field, node: Node, mistakes: Mistakes) -> Any:
    value = node.get(name)
    if value is not None:
        return field.shape.read(value, mistakes)
    if field.required:
        mistakes.add(node, f"{quoted(name)} is missing", wanted=field.shape.wanted)
        return MISSING
    return field.left_out()
