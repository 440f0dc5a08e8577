"""Shapes of single values: texts, numbers, flags, and whatever a user likes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from penstock.flowfile.diagnostics import Diagnostics
from penstock.flowfile.document import Kind, Node
from penstock.flowfile.forms.form import MISSING, Form, Missing, Schema, complete


@dataclass(frozen=True, slots=True)
class Text(Form):
    """A text; one that matches `pattern` as a whole, or one of `choices`.

    A pattern keeps to what Python and ECMA 262 have in common: `[0-9]`, not `\\d`.
    """

    pattern: str | None = None
    choices: Sequence[str] = ()
    meanings: Sequence[str] = ()
    """What each of the choices means."""
    said: str = ""
    """What a text is that matches the pattern, in words."""

    @property
    def json_types(self) -> frozenset[Kind]:
        return frozenset({"text"})

    @property
    def expected(self) -> str:
        return self.said or (f"a text like {self.pattern}" if self.pattern else "a text")

    def read(self, node: Node, mistakes: Diagnostics, /) -> str | Missing:
        if node.kind != "text":
            scalar = node.kind in ("integer", "number", "boolean")
            return self.reject(node, mistakes, "put it into quotes" if scalar else None)

        text: str = node.value
        if self.choices and text not in self.choices:
            mistakes.add(node, f"found {node.shown()}", allowed=self.choices, nearest=text)
            return MISSING
        if self.pattern is not None and not re.fullmatch(self.pattern, text):
            return self.reject(node, mistakes)
        return text

    def json_schema(self, _definitions: dict[str, Schema], /) -> Schema:
        rules: Schema = {"type": "string"}
        if self.choices:
            rules["enum"] = list(self.choices)
        if self.meanings:
            rules["enumDescriptions"] = list(self.meanings)
        if self.pattern is not None:
            rules |= {"pattern": complete(self.pattern), "patternErrorMessage": f"wanted is {self.expected}"}
        return rules


def word(meanings: Mapping[str, str]) -> Text:
    """The shape of one of these words, each with what it means."""
    return Text(choices=tuple(meanings), meanings=tuple(meanings.values()))


@dataclass(frozen=True, slots=True)
class Number(Form):
    """A finite number from `least` to `most`."""

    least: float | None = None
    most: float | None = None

    @property
    def json_types(self) -> frozenset[Kind]:
        return frozenset({"integer", "number"})

    @property
    def expected(self) -> str:
        return f"a number{_between(self.least, self.most)}"

    def read(self, node: Node, mistakes: Diagnostics, /) -> float | Missing:
        if node.kind not in self.json_types or not finite(node.value) or not _fits(node.value, self.least, self.most):
            return self.reject(node, mistakes)
        return float(node.value)

    def json_schema(self, _definitions: dict[str, Schema], /) -> Schema:
        return {"type": "number", **_bounds(self.least, self.most)}


@dataclass(frozen=True, slots=True)
class Integer(Form):
    """A whole number from `least` to `most`; 2.0 is one, as in JSON Schema."""

    least: int | None = None
    most: int | None = None

    @property
    def json_types(self) -> frozenset[Kind]:
        return frozenset({"integer", "number"})

    @property
    def expected(self) -> str:
        return f"a whole number{_between(self.least, self.most)}"

    def read(self, node: Node, mistakes: Diagnostics, /) -> int | Missing:
        if not integral(node) or not _fits(node.value, self.least, self.most):
            return self.reject(node, mistakes)
        return int(node.value)

    def json_schema(self, _definitions: dict[str, Schema], /) -> Schema:
        return {"type": "integer", **_bounds(self.least, self.most)}


@dataclass(frozen=True, slots=True)
class Boolean(Form):
    """`true` or `false`."""

    @property
    def json_types(self) -> frozenset[Kind]:
        return frozenset({"boolean"})

    @property
    def expected(self) -> str:
        return "true or false"

    def read(self, node: Node, mistakes: Diagnostics, /) -> bool | Missing:
        return node.value if node.kind == "boolean" else self.reject(node, mistakes)

    def json_schema(self, _definitions: dict[str, Schema], /) -> Schema:
        return {"type": "boolean"}


@dataclass(frozen=True, slots=True)
class AnyValue(Form):
    """Any value, read as plain data."""

    @property
    def json_types(self) -> frozenset[Kind]:
        return frozenset({"mapping", "list", "text", "integer", "number", "boolean", "null"})

    @property
    def expected(self) -> str:
        return "anything"

    def read(self, node: Node, _mistakes: Diagnostics, /) -> Any:
        return node.plain()

    def json_schema(self, _definitions: dict[str, Schema], /) -> Schema:
        return {}


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
