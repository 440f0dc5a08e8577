"""Forms of single values: strings, numbers, booleans, and any data."""

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
class Text(Form[str]):
    """A string: any, one that matches `pattern` completely, or one of `choices`.

    Patterns use the syntax that Python and ECMA 262 share: `[0-9]`, not `\\d`. `noun` and `allowed` describe the
    pattern in messages: a `name` of `letters, digits, - and _`. `noun` also says what the choices are.
    """

    pattern: str | None = None
    noun: str = "string"
    allowed: str = ""
    choices: Sequence[str] = ()
    meanings: Sequence[str] = ()
    """The meaning of each choice."""

    @property
    def json_types(self) -> frozenset[Kind]:
        return frozenset({"text"})

    @property
    def expected(self) -> str:
        if self.choices:
            return f"one of {', '.join(self.choices)}" if len(self.choices) > 1 else self.choices[0]
        if self.allowed:
            return f"a {self.noun} of {self.allowed}"
        return f"a string that matches {self.pattern}" if self.pattern else "a string"

    def read(self, node: Node, diagnostics: Diagnostics, /) -> str | Missing:
        if node.kind != "text":
            scalar = node.kind in ("integer", "number", "boolean")
            return self.reject(node, diagnostics, "put it in quotes" if scalar else None)

        text: str = node.value
        if self.choices and text not in self.choices:
            subject = f"{diagnostics.subject}: " if diagnostics.subject else ""
            diagnostics.unknown(node, "value" if self.noun == "string" else self.noun, self.choices, prefix=subject)
            return MISSING
        if self.pattern is not None and not re.fullmatch(self.pattern, text):
            if not self.allowed:
                return self.reject(node, diagnostics)
            message = f"invalid {self.noun} {node.shown()}: use {self.allowed}"
            diagnostics.add(node, message, expected=self.expected)
            return MISSING
        return text

    def json_schema(self, _definitions: dict[str, Schema], /) -> Schema:
        rules: Schema = {"type": "string"}
        if self.choices:
            rules["enum"] = list(self.choices)
        if self.meanings:
            rules["enumDescriptions"] = list(self.meanings)
        if self.pattern is not None:
            rules |= {"pattern": complete(self.pattern), "patternErrorMessage": f"expected {self.expected}"}
        return rules


def word(meanings: Mapping[str, str]) -> Text:
    """Return the form of one of several words, each with its meaning."""
    return Text(choices=tuple(meanings), meanings=tuple(meanings.values()))


@dataclass(frozen=True, slots=True)
class Number(Form[float]):
    """A finite number from `min` to `max`."""

    min: float | None = None
    max: float | None = None

    @property
    def json_types(self) -> frozenset[Kind]:
        return frozenset({"integer", "number"})

    @property
    def expected(self) -> str:
        return f"a number{_range(self.min, self.max)}"

    def read(self, node: Node, diagnostics: Diagnostics, /) -> float | Missing:
        if node.kind not in self.json_types or not finite(node.value) or not _fits(node.value, self.min, self.max):
            return self.reject(node, diagnostics)
        return float(node.value)

    def json_schema(self, _definitions: dict[str, Schema], /) -> Schema:
        return {"type": "number", **_bounds(self.min, self.max)}


@dataclass(frozen=True, slots=True)
class Integer(Form[int]):
    """An integer from `min` to `max`; 2.0 is one, as in JSON Schema."""

    min: int | None = None
    max: int | None = None

    @property
    def json_types(self) -> frozenset[Kind]:
        return frozenset({"integer", "number"})

    @property
    def expected(self) -> str:
        return f"an integer{_range(self.min, self.max)}"

    def read(self, node: Node, diagnostics: Diagnostics, /) -> int | Missing:
        if not integral(node) or not _fits(node.value, self.min, self.max):
            return self.reject(node, diagnostics)
        return int(node.value)

    def json_schema(self, _definitions: dict[str, Schema], /) -> Schema:
        return {"type": "integer", **_bounds(self.min, self.max)}


@dataclass(frozen=True, slots=True)
class Boolean(Form[bool]):
    """`true` or `false`; only `true` with `only_true`."""

    only_true: bool = False

    @property
    def json_types(self) -> frozenset[Kind]:
        return frozenset({"boolean"})

    @property
    def expected(self) -> str:
        return "true" if self.only_true else "true or false"

    def read(self, node: Node, diagnostics: Diagnostics, /) -> bool | Missing:
        if self.only_true and node.value is False:
            return self.reject(node, diagnostics, "remove the key")
        return bool(node.value) if node.kind == "boolean" else self.reject(node, diagnostics)

    def json_schema(self, _definitions: dict[str, Schema], /) -> Schema:
        return {"type": "boolean", **({"const": True} if self.only_true else {})}


@dataclass(frozen=True, slots=True)
class AnyValue(Form[Any]):
    """Any value, returned as plain data."""

    @property
    def json_types(self) -> frozenset[Kind]:
        return frozenset({"mapping", "list", "text", "integer", "number", "boolean", "null"})

    @property
    def expected(self) -> str:
        return "a value"

    def read(self, node: Node, _diagnostics: Diagnostics, /) -> Any:
        return node.plain()

    def json_schema(self, _definitions: dict[str, Schema], /) -> Schema:
        return {}


def finite(number: float) -> bool:
    """Return whether a number is neither infinite, nor NaN, nor too large for a float."""
    try:
        return isfinite(number)
    except OverflowError:
        return False


def integral(node: Node) -> bool:
    """Return whether a node is an integer."""
    return node.kind == "integer" or (node.kind == "number" and float(node.value).is_integer())


def _fits(number: float, min: float | None, max: float | None) -> bool:
    return (min is None or number >= min) and (max is None or number <= max)


def _range(min: float | None, max: float | None) -> str:
    if min is None:
        return "" if max is None else f" <= {max}"
    return f" >= {min}" if max is None else f" from {min} to {max}"


def _bounds(min: float | None, max: float | None) -> Schema:
    bounds = {"minimum": min, "maximum": max}
    return {name: bound for name, bound in bounds.items() if bound is not None}
