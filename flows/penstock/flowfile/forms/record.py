"""Shapes of mappings with named fields."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from penstock.errors import FlowDefinitionError
from penstock.flowfile.diagnostics import Diagnostics, SourceLocation
from penstock.flowfile.document import Kind, Node, node_of, quoted
from penstock.flowfile.forms.form import MISSING, Form, Schema


@dataclass(frozen=True, slots=True)
class Field:
    """A named value of a record. `default` is what stands for it when it is left out, as one would write it."""

    shape: Form
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
        mistakes = Diagnostics()
        value = self.shape.read(node_of(self.default, SourceLocation("default", 1, 1)), mistakes)
        if mistakes:
            raise ValueError(f"{self.default!r} cannot be the default: {next(iter(mistakes))}")
        return value

    def piece(self, definitions: dict[str, Schema]) -> Schema:
        """The schema of the field, with what it is about and its default."""
        piece = self.shape.schema_part(definitions)
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

    def mapping(self, name: str) -> dict[str, Any]:
        """The value of a field that is a mapping; an empty one when it was left out."""
        found: dict[str, Any] = self.values[name] or {}
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self.values)

    def __contains__(self, name: str) -> bool:
        """Whether the field was written, and not left out."""
        return self.node.get(name) is not None

    def at(self, name: str) -> Node:
        """The node of this field, or of the whole record when the field was left out: where a mistake points to."""
        return self.node.get(name) or self.node


@dataclass(frozen=True, slots=True)
class Record(Form):
    """A mapping with these fields and no others, read as a `Read`, or as what `make` makes of that.

    A `ValueError`, `TypeError` or `FlowDefinitionError` of `make` becomes a mistake of the record.
    """

    fields: Mapping[str, Field]
    make: Callable[[Read], Any] | None = None

    @property
    def json_types(self) -> frozenset[Kind]:
        return frozenset({"mapping"})

    @property
    def expected(self) -> str:
        return "a mapping"

    def read(self, node: Node, mistakes: Diagnostics, /) -> Any:
        if node.kind != "mapping":
            return self.reject(node, mistakes)

        found, complete = self.parts(node, mistakes)
        return self._made(found, mistakes) if complete else MISSING

    def parts(self, node: Node, mistakes: Diagnostics) -> tuple[Read, bool]:
        """As much of a mapping as can be read, and whether that is all of it; what cannot counts as left out."""
        unknown = unknown_keys(node, self.fields, mistakes)
        values = {name: read_field(name, field, node, mistakes) for name, field in self.fields.items()}
        complete = not unknown and not any(value is MISSING for value in values.values())
        known = {name: None if value is MISSING else value for name, value in values.items()}
        return Read(node, known), complete

    def _made(self, read: Read, mistakes: Diagnostics) -> Any:
        if self.make is None:
            return read
        try:
            return self.make(read)
        except (ValueError, TypeError, FlowDefinitionError) as error:
            mistakes.add(read.node, str(error))
            return MISSING

    def json_schema(self, definitions: dict[str, Schema], /) -> Schema:
        return mapping_rules(self.fields, definitions)


def read_field(name: str, field: Field, node: Node, mistakes: Diagnostics) -> Any:
    """The value of this field of a mapping."""
    value = node.get(name)
    if value is not None:
        return field.shape.read(value, mistakes)
    if field.required:
        mistakes.add(node, f"{quoted(name)} is missing", wanted=field.shape.expected)
        return MISSING
    return field.left_out()


def unknown_keys(node: Node, known: Collection[str], mistakes: Diagnostics) -> bool:
    """Note the keys of a mapping that it may not have; returns whether there are any."""
    unknown = [key for key, _ in node.value if key.value not in known]
    for key in unknown:
        mistakes.add(key, f"found {key.shown()}", allowed=known, nearest=key.value)
    return bool(unknown)


def mapping_rules(fields: Mapping[str, Field], definitions: dict[str, Schema]) -> Schema:
    """The rules of a mapping with these fields and no others."""
    required = [name for name, field in fields.items() if field.required]
    return {
        "type": "object",
        "properties": {name: field.piece(definitions) for name, field in fields.items()},
        **({"required": required} if required else {}),
        "additionalProperties": False,
    }
