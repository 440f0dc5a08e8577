"""Forms: what a document may contain, declared once, to validate it and to describe it to an editor.

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Retries(Located):
        attempts: int = defaulted(Integer(min=1), 3, "How often a call is tried")
        timeout: float = required(Duration(), "The time for one attempt")

    RETRIES = Record(Retries)
    diagnostics = Diagnostics()
    read = RETRIES.read(read_document("timeout: 2s", "retries.yaml"), diagnostics)
    diagnostics.check()
    read.timeout            # 2.0
    read.attempts           # 3, the default
    read.at("timeout")      # the node 2s, for the location of a later error
    RETRIES.schema()        # the JSON Schema of the same

`read` adds all errors, not only the first, and returns `MISSING` if there was one. It accepts the same values as the
schema, except for two things that JSON cannot express: numbers that are not finite, and what a function of `then`
rejects.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import ChainMap
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Generic, TypeVar

from penstock.errors import FlowDefinitionError
from penstock.flowfile.diagnostics import Diagnostics
from penstock.flowfile.document import Kind, Node

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

Schema = dict[str, Any]
"""A part of a JSON Schema, draft 2020-12."""


class Missing(Enum):
    """The type of `MISSING`."""

    MISSING = "missing"


MISSING: Final = Missing.MISSING
"""What `read` returns for an invalid or absent value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Form(ABC, Generic[T_co]):
    """What a value may be. `description` says what the value is for."""

    description: str = ""

    @property
    @abstractmethod
    def json_types(self) -> frozenset[Kind]:
        """The kinds of nodes that are accepted."""

    @property
    @abstractmethod
    def expected(self) -> str:
        """The expected value, for messages: `a string`."""

    @abstractmethod
    def read(self, node: Node, diagnostics: Diagnostics, /) -> T_co | Missing:
        """Return the value of a node; add an error and return `MISSING` if it is invalid."""

    @abstractmethod
    def json_schema(self, definitions: dict[str, Schema], /) -> Schema:
        """Return the schema that accepts the same as `read`. Schemas that it refers to go into the definitions."""

    def schema_part(self, definitions: dict[str, Schema], /) -> Schema:
        """Return the schema with the description."""
        rules = self.json_schema(definitions)
        return {**rules, "description": self.description} if self.description else rules

    def schema(self) -> Schema:
        """Return the JSON Schema of a document of this form."""
        definitions: dict[str, Schema] = {}
        rules = self.schema_part(definitions)
        defined = {"$defs": definitions} if definitions else {}
        return {"$schema": "https://json-schema.org/draft/2020-12/schema", **rules, **defined}

    def reject(self, node: Node, diagnostics: Diagnostics, hint: str | None = None) -> Missing:
        """Add the error that another value was expected."""
        hint = "give it a value or remove the key" if node.kind == "null" else hint
        diagnostics.reject(node, self.expected, hint=hint)
        return MISSING

    def then(self, make: Callable[[T_co], T]) -> Converted[T]:
        """Return the form whose value is what a function makes of this one's.

        A `ValueError`, `TypeError` or `FlowDefinitionError` that the function raises becomes an error at the node.
        """
        return Converted(self, make)


@dataclass(frozen=True, slots=True)
class Converted(Form[T_co]):
    """A form with a function that converts its values; see `Form.then`."""

    form: Form[Any]
    make: Callable[[Any], T_co]

    @property
    def json_types(self) -> frozenset[Kind]:
        return self.form.json_types

    @property
    def expected(self) -> str:
        return self.form.expected

    def read(self, node: Node, diagnostics: Diagnostics, /) -> T_co | Missing:
        value = self.form.read(node, diagnostics)
        if value is MISSING:
            return MISSING
        try:
            return self.make(value)
        except (ValueError, TypeError, FlowDefinitionError) as error:
            diagnostics.add(node, str(error))
            return MISSING

    def json_schema(self, definitions: dict[str, Schema], /) -> Schema:
        return self.form.schema_part(definitions)


@dataclass(frozen=True, slots=True)
class Lazy(Form[T_co]):
    """A form by its name, for forms that contain themselves: `Lazy("step", lambda: STEP)`."""

    name: str
    form: Callable[[], Form[T_co]]

    @property
    def json_types(self) -> frozenset[Kind]:
        return self.form().json_types

    @property
    def expected(self) -> str:
        return self.form().expected

    def read(self, node: Node, diagnostics: Diagnostics, /) -> T_co | Missing:
        return self.form().read(node, diagnostics)

    def json_schema(self, definitions: dict[str, Schema], /) -> Schema:
        if self.name not in definitions:
            definitions[self.name] = {}  # the form may refer to itself
            definitions[self.name] = self.form().schema_part(definitions)
        return {"$ref": f"#/$defs/{self.name}"}


@dataclass(frozen=True, slots=True)
class NodeForm(Form[Node]):
    """Any value, returned as its node: another reader validates it later."""

    @property
    def json_types(self) -> frozenset[Kind]:
        return frozenset({"mapping", "list", "text", "integer", "number", "boolean", "null"})

    @property
    def expected(self) -> str:
        return "a value"

    def read(self, node: Node, _diagnostics: Diagnostics, /) -> Node:
        return node

    def json_schema(self, _definitions: dict[str, Schema], /) -> Schema:
        return {}


NOT_FOR_ALL = frozenset({"$ref", "anyOf", "description", "enum", "oneOf"})
"""Keywords of a schema that apply to values of any type; the others that forms use apply to one type."""


def joined(parts: list[Schema]) -> Schema:
    """Return the schema of a value that is one of these, which differ in type.

    It is one schema as far as possible: with several alternatives, editors have to guess which one was meant, and
    guess wrong.
    """
    plain = [part for part in parts if not NOT_FOR_ALL & part.keys()]
    others = [part for part in parts if part not in plain]
    if not plain:
        return {"anyOf": others}
    types = [type for part in plain for type in types_of(part)]
    one: Schema = dict(ChainMap({"type": types}, *plain)) if len(plain) > 1 else plain[0]
    if not others:
        return one
    if all("enum" in part for part in others):
        return {**one, "type": ["string", *types], "anyOf": [*others, {"type": types}]}
    return {"anyOf": [*others, one]}


def types_of(part: Schema) -> list[str]:
    """Return the types that a schema names."""
    types: str | list[str] = part["type"]
    return [types] if isinstance(types, str) else types


def complete(pattern: str) -> str:
    """Return a pattern for JSON Schema that matches only a complete string."""
    return f"^(?:{pattern})$(?!\\n)"  # in Python `$` also matches before a final newline
