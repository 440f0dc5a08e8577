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

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from math import isfinite
from typing import Any, Final

from penstock.files.mistakes import Mistakes
from penstock.files.node import Kind, Node

Schema = dict[str, Any]
"""A piece of JSON Schema, draft 2020-12."""


class Missing(Enum):
    """The type of `MISSING`."""

    MISSING = "missing"


MISSING: Final = Missing.MISSING
"""What `read` gives for something that is wrong, or is not there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape(ABC):
    """What a value may look like; `about` says what it is for."""

    about: str = ""

    @property
    @abstractmethod
    def kinds(self) -> frozenset[Kind]:
        """The kinds of nodes that this may be."""

    @property
    @abstractmethod
    def wanted(self) -> str:
        """What is wanted, in a few words: `a text`."""

    @abstractmethod
    def read(self, node: Node, mistakes: Mistakes) -> Any:
        """The value of the node, or `MISSING` after noting what is wrong with it."""

    @abstractmethod
    def rules(self, definitions: dict[str, Schema]) -> Schema:
        """The piece of schema that takes the same as `read`; pieces that it refers to go into the definitions."""

    def piece(self, definitions: dict[str, Schema]) -> Schema:
        """The rules with the description."""
        rules = self.rules(definitions)
        return {**rules, "description": self.about} if self.about else rules

    def schema(self) -> Schema:
        """The whole JSON Schema of a document of this shape."""
        definitions: dict[str, Schema] = {}
        rules = self.piece(definitions)
        defined = {"$defs": definitions} if definitions else {}
        return {"$schema": "https://json-schema.org/draft/2020-12/schema", **rules, **defined}

    def refuse(self, node: Node, mistakes: Mistakes, hint: str | None = None) -> Missing:
        """Note that something else was wanted here."""
        hint = "give a value, or leave the name out" if node.kind == "null" else hint
        mistakes.add(node, f"found {node.shown()}", wanted=self.wanted, hint=hint)
        return MISSING


@dataclass(frozen=True, slots=True)
class Text(Shape):
    """A text; one that matches `pattern` as a whole, or one of `choices`.

    A pattern keeps to what Python and ECMA 262 have in common: `[0-9]`, not `\\d`.
    """

    pattern: str | None = None
    choices: tuple[str, ...] = ()

    @property
    def kinds(self) -> frozenset[Kind]:
        return frozenset({"text"})

    @property
    def wanted(self) -> str:
        return f"a text like {self.pattern}" if self.pattern else "a text"

    def read(self, node: Node, mistakes: Mistakes) -> str | Missing:
        if node.kind != "text":
            scalar = node.kind in ("integer", "number", "boolean")
            return self.refuse(node, mistakes, "put it into quotes" if scalar else None)

        text: str = node.value
        if self.choices and text not in self.choices:
            mistakes.add(node, f"found {node.shown()}", allowed=self.choices, nearest=text)
            return MISSING
        if self.pattern is not None and not re.fullmatch(self.pattern, text):
            return self.refuse(node, mistakes)
        return text

    def rules(self, definitions: dict[str, Schema]) -> Schema:
        rules: Schema = {"type": "string"}
        if self.choices:
            rules["enum"] = list(self.choices)
        if self.pattern is not None:
            rules["pattern"] = whole(self.pattern)
        return rules


@dataclass(frozen=True, slots=True)
class Number(Shape):
    """A finite number from `least` to `most`."""

    least: float | None = None
    most: float | None = None

    @property
    def kinds(self) -> frozenset[Kind]:
        return frozenset({"integer", "number"})

    @property
    def wanted(self) -> str:
        return f"a number{_between(self.least, self.most)}"

    def read(self, node: Node, mistakes: Mistakes) -> float | Missing:
        if node.kind not in self.kinds or not finite(node.value) or not _fits(node.value, self.least, self.most):
            return self.refuse(node, mistakes)
        return float(node.value)

    def rules(self, definitions: dict[str, Schema]) -> Schema:
        return {"type": "number", **_bounds(self.least, self.most)}


@dataclass(frozen=True, slots=True)
class Whole(Shape):
    """A whole number from `least` to `most`; 2.0 is one, as in JSON Schema."""

    least: int | None = None
    most: int | None = None

    @property
    def kinds(self) -> frozenset[Kind]:
        return frozenset({"integer", "number"})

    @property
    def wanted(self) -> str:
        return f"a whole number{_between(self.least, self.most)}"

    def read(self, node: Node, mistakes: Mistakes) -> int | Missing:
        if not integral(node) or not _fits(node.value, self.least, self.most):
            return self.refuse(node, mistakes)
        return int(node.value)

    def rules(self, definitions: dict[str, Schema]) -> Schema:
        return {"type": "integer", **_bounds(self.least, self.most)}


@dataclass(frozen=True, slots=True)
class Flag(Shape):
    """`true` or `false`."""

    @property
    def kinds(self) -> frozenset[Kind]:
        return frozenset({"boolean"})

    @property
    def wanted(self) -> str:
        return "true or false"

    def read(self, node: Node, mistakes: Mistakes) -> bool | Missing:
        return node.value if node.kind == "boolean" else self.refuse(node, mistakes)

    def rules(self, definitions: dict[str, Schema]) -> Schema:
        return {"type": "boolean"}


@dataclass(frozen=True, slots=True)
class Anything(Shape):
    """Any value, read as plain data."""

    @property
    def kinds(self) -> frozenset[Kind]:
        return frozenset({"mapping", "list", "text", "integer", "number", "boolean", "null"})

    @property
    def wanted(self) -> str:
        return "anything"

    def read(self, node: Node, mistakes: Mistakes) -> Any:
        return node.plain()

    def rules(self, definitions: dict[str, Schema]) -> Schema:
        return {}


@dataclass(frozen=True, slots=True)
class Either(Shape):
    """One of several shapes; which one is seen by the kind of the node, so no two of them may be of one kind."""

    shapes: tuple[Shape, ...]

    def __init__(self, *shapes: Shape, about: str = "") -> None:
        object.__setattr__(self, "shapes", shapes)
        object.__setattr__(self, "about", about)

    @property
    def kinds(self) -> frozenset[Kind]:
        all: list[Kind] = [kind for shape in self.shapes for kind in shape.kinds]
        if len(set(all)) < len(all):
            raise ValueError(f"the alternatives of an Either have to differ in kind, got {self.wanted}")
        return frozenset(all)

    @property
    def wanted(self) -> str:
        return " or ".join(shape.wanted for shape in self.shapes)

    def read(self, node: Node, mistakes: Mistakes) -> Any:
        if node.kind not in self.kinds:
            return self.refuse(node, mistakes)
        return next(shape for shape in self.shapes if node.kind in shape.kinds).read(node, mistakes)

    def rules(self, definitions: dict[str, Schema]) -> Schema:
        assert self.kinds
        return {"anyOf": [shape.piece(definitions) for shape in self.shapes]}


@dataclass(frozen=True, slots=True)
class Lazy(Shape):
    """A shape by its name, for shapes that hold themselves: `Lazy("step", lambda: STEP)`."""

    name: str
    shape: Callable[[], Shape]

    @property
    def kinds(self) -> frozenset[Kind]:
        return self.shape().kinds

    @property
    def wanted(self) -> str:
        return self.shape().wanted

    def read(self, node: Node, mistakes: Mistakes) -> Any:
        return self.shape().read(node, mistakes)

    def rules(self, definitions: dict[str, Schema]) -> Schema:
        if self.name not in definitions:
            definitions[self.name] = {}  # what it holds may refer to it again
            definitions[self.name] = self.shape().piece(definitions)
        return {"$ref": f"#/$defs/{self.name}"}


def whole(pattern: str) -> str:
    """The pattern for JSON Schema, which would be content with a part of the text."""
    return f"^(?:{pattern})$(?!\\n)"  # for Python alone `$` also stands before a last newline


def finite(number: float) -> bool:
    """Whether this is neither infinite, nor no number, nor too large for a float."""
    try:
        return isfinite(number)
    except OverflowError:
        return False


def integral(node: Node) -> bool:
    """Whether the node is a whole number."""
    return node.kind == "integer" or (node.kind == "number" and float(node.value).is_integer())


def _fits(number: float, least: float | None, most: float | None) -> bool:
    return (least is None or number >= least) and (most is None or number <= most)


def _between(least: float | None, most: float | None) -> str:
    if least is None:
        return "" if most is None else f" of at most {most}"
    return f" of at least {least}" if most is None else f" from {least} to {most}"


def _bounds(least: float | None, most: float | None) -> Schema:
    bounds = {"minimum": least, "maximum": most}
    return {name: bound for name, bound in bounds.items() if bound is not None}
