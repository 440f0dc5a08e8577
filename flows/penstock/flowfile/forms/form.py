"""Shapes: what a document may look like, said once, to check it and to describe it to an editor.

    RETRIES = Record({
        "attempts": Field(Whole(least=1), default=3, about="how often a call is tried"),
        "timeout": Field(Duration(), required=True, about="what one attempt may take"),
    })
    mistakes = Mistakes()
    read = RETRIES.read(read_document("timeout: 2s", "retries.yaml"), mistakes)
    mistakes.check()
    read["timeout"]         # 2.0
    read["attempts"]        # 3, as by default
    read.at("timeout")      # the node 2s, to point at when 2 seconds turn out to be wrong for another reason
    RETRIES.schema()        # the JSON Schema of the same

`read` notes every mistake it finds, not only the first, and gives `MISSING` when there was one. What it takes
without a mistake and what the schema takes is the same, but for two things that JSON cannot hold: numbers that
are not finite, and what a `make` refuses.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from penstock.flowfile.diagnostics import Diagnostics
from penstock.flowfile.document import Kind, Node

Schema = dict[str, Any]
"""A piece of JSON Schema, draft 2020-12."""


class Missing(Enum):
    """The type of `MISSING`."""

    MISSING = "missing"


MISSING: Final = Missing.MISSING
"""What `read` gives for something that is wrong, or is not there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Form(ABC):
    """What a value may look like; `about` says what it is for."""

    about: str = ""

    @property
    @abstractmethod
    def json_types(self) -> frozenset[Kind]:
        """The kinds of nodes that this may be."""

    @property
    @abstractmethod
    def expected(self) -> str:
        """What is wanted, in a few words: `a text`."""

    @abstractmethod
    def read(self, node: Node, mistakes: Diagnostics, /) -> Any:
        """The value of the node, or `MISSING` after noting what is wrong with it."""

    @abstractmethod
    def json_schema(self, definitions: dict[str, Schema], /) -> Schema:
        """The piece of schema that takes the same as `read`; pieces that it refers to go into the definitions."""

    def schema_part(self, definitions: dict[str, Schema], /) -> Schema:
        """The rules with the description."""
        rules = self.json_schema(definitions)
        return {**rules, "description": self.about} if self.about else rules

    def schema(self) -> Schema:
        """The whole JSON Schema of a document of this shape."""
        definitions: dict[str, Schema] = {}
        rules = self.schema_part(definitions)
        defined = {"$defs": definitions} if definitions else {}
        return {"$schema": "https://json-schema.org/draft/2020-12/schema", **rules, **defined}

    def reject(self, node: Node, mistakes: Diagnostics, hint: str | None = None) -> Missing:
        """Note that something else was wanted here."""
        hint = "give it a value, or leave it out" if node.kind == "null" else hint
        mistakes.add(node, f"found {node.shown()}", wanted=self.expected, hint=hint)
        return MISSING


@dataclass(frozen=True, slots=True)
class Lazy(Form):
    """A shape by its name, for shapes that hold themselves: `Lazy("step", lambda: STEP)`."""

    name: str
    shape: Callable[[], Form]

    @property
    def json_types(self) -> frozenset[Kind]:
        return self.shape().json_types

    @property
    def expected(self) -> str:
        return self.shape().expected

    def read(self, node: Node, mistakes: Diagnostics, /) -> Any:
        return self.shape().read(node, mistakes)

    def json_schema(self, definitions: dict[str, Schema], /) -> Schema:
        if self.name not in definitions:
            definitions[self.name] = {}  # what it holds may refer to it again
            definitions[self.name] = self.shape().schema_part(definitions)
        return {"$ref": f"#/$defs/{self.name}"}


def complete(pattern: str) -> str:
    """The pattern for JSON Schema, which would be content with a part of the text."""
    return f"^(?:{pattern})$(?!\\n)"  # for Python alone `$` also stands before a last newline
