"""Shapes that are one of several: told apart by the kind of the value, or by the one key of a mapping."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from penstock.flowfile.diagnostics import Diagnostics
from penstock.flowfile.document import Kind, Node
from penstock.flowfile.forms.form import MISSING, Form, Missing, Schema
from penstock.flowfile.forms.record import Field, Read, mapping_rules, read_field, unknown_keys

NOT_FOR_ALL = frozenset({"$ref", "anyOf", "description", "enum", "oneOf"})
"""What a piece of schema says of values of any type; all else that shapes say is about one type only."""

APART = "make it an item of its own"
"""What to do about a second key where there is a list of such mappings."""


@dataclass(frozen=True, slots=True)
class Either(Form):
    """One of several shapes; which one is seen by the kind of the node, so no two of them may be of one kind."""

    shapes: tuple[Form, ...]

    def __init__(self, *shapes: Form, about: str = "") -> None:
        object.__setattr__(self, "shapes", shapes)
        object.__setattr__(self, "about", about)

    @property
    def json_types(self) -> frozenset[Kind]:
        all: list[Kind] = [kind for shape in self.shapes for kind in shape.json_types]
        if len(set(all)) < len(all):
            raise ValueError(f"the alternatives of an Either have to differ in kind, got {self.expected}")
        return frozenset(all)

    @property
    def expected(self) -> str:
        return " or ".join(shape.expected for shape in self.shapes)

    def read(self, node: Node, mistakes: Diagnostics, /) -> Any:
        if node.kind not in self.json_types:
            return self.reject(node, mistakes)
        return next(shape for shape in self.shapes if node.kind in shape.json_types).read(node, mistakes)

    def json_schema(self, definitions: dict[str, Schema], /) -> Schema:
        if not self.json_types:
            raise ValueError("an Either needs at least one shape")
        return joined([shape.schema_part(definitions) for shape in self.shapes])


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
class OneKey(Form):
    """A mapping with exactly one of these keys, which says what it is; the fields of `beside` may stand next to it.

    Read as a `Chosen`.
    """

    alternatives: Mapping[str, Form]
    beside: Mapping[str, Field] | None = None
    second: str = "leave one out"
    """What to do about a second key."""

    def __post_init__(self) -> None:
        if both := set(self.alternatives) & set(self.beside or {}):
            raise ValueError(f"{', '.join(sorted(both))} cannot be a key and stand beside it")

    @property
    def json_types(self) -> frozenset[Kind]:
        return frozenset({"mapping"})

    @property
    def expected(self) -> str:
        return f"a mapping with one of {', '.join(self.alternatives)}"

    def read(self, node: Node, mistakes: Diagnostics, /) -> Chosen | Missing:
        if node.kind != "mapping":
            return self.reject(node, mistakes)

        fields = self.beside or {}
        pairs: list[tuple[Node, Node]] = [pair for pair in node.value if pair[0].value in self.alternatives]
        unknown = unknown_keys(node, [*self.alternatives, *fields], mistakes)
        values = [self.alternatives[key.value].read(value, mistakes) for key, value in pairs]
        beside = {name: read_field(name, field, node, mistakes) for name, field in fields.items()}
        if not pairs and not unknown:
            self.reject(node, mistakes)
        for key, _ in pairs[1:]:
            sentence = f"{key.shown()} stands beside {pairs[0][0].shown()}"
            mistakes.add(key, sentence, wanted="only one of them", hint=self.second)
        if len(pairs) != 1 or unknown or any(value is MISSING for value in (*values, *beside.values())):
            return MISSING
        key, at = pairs[0]
        return Chosen(key.value, key, values[0], at, Read(node, beside))

    def json_schema(self, definitions: dict[str, Schema], /) -> Schema:
        keys = {name: Field(shape) for name, shape in self.alternatives.items()}
        said = f"wanted is {self.expected}"  # editors show it; without it, that the first of them is missing
        one = [{"required": [name], "errorMessage": said} for name in self.alternatives]
        return {**mapping_rules({**keys, **(self.beside or {})}, definitions), "oneOf": one}


def joined(pieces: list[Schema]) -> Schema:
    """The schema of what is one of these, which differ in type.

    It is one piece as far as it goes: with several, editors have to guess which one was meant, and guess wrong.
    """
    plain = [piece for piece in pieces if not NOT_FOR_ALL & piece.keys()]
    others = [piece for piece in pieces if piece not in plain]
    if not plain:
        return {"anyOf": others}
    types = [type for piece in plain for type in types_of(piece)]
    one: Schema = dict(ChainMap({"type": types}, *plain)) if len(plain) > 1 else plain[0]
    if not others:
        return one
    if all("enum" in piece for piece in others):
        return {**one, "type": ["string", *types], "anyOf": [*others, {"type": types}]}
    return {"anyOf": [*others, one]}


def types_of(piece: Schema) -> list[str]:
    """The types that a piece of schema names."""
    types: str | list[str] = piece["type"]
    return [types] if isinstance(types, str) else types
