"""Shapes of lists and mappings that hold any number of values of one shape."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from penstock.flowfile.diagnostics import Diagnostics
from penstock.flowfile.document import Kind, Node
from penstock.flowfile.forms.form import MISSING, Form, Missing, Schema, complete


@dataclass(frozen=True, slots=True)
class ListOf(Form):
    """A list of values of one shape, read as a tuple."""

    shape: Form
    least: int = 0

    @property
    def json_types(self) -> frozenset[Kind]:
        return frozenset({"list"})

    @property
    def expected(self) -> str:
        return f"a list of at least {self.least}" if self.least else "a list"

    def read(self, node: Node, mistakes: Diagnostics, /) -> tuple[Any, ...] | Missing:
        if node.kind != "list" or len(node.value) < self.least:
            return self.reject(node, mistakes)
        values = tuple(self.shape.read(item, mistakes) for item in node.value)
        return MISSING if any(value is MISSING for value in values) else values

    def json_schema(self, definitions: dict[str, Schema], /) -> Schema:
        least = {"minItems": self.least} if self.least else {}
        return {"type": "array", "items": self.shape.schema_part(definitions), **least}


@dataclass(frozen=True, slots=True)
class MapOf(Form):
    """Values of one shape under names of the user's choice, read as a dict; `key_pattern` is for a whole name."""

    shape: Form
    key_pattern: str | None = None

    @property
    def json_types(self) -> frozenset[Kind]:
        return frozenset({"mapping"})

    @property
    def expected(self) -> str:
        return "a mapping"

    def read(self, node: Node, mistakes: Diagnostics, /) -> dict[str, Any] | Missing:
        if node.kind != "mapping":
            return self.reject(node, mistakes)
        values = {key.value: self._value(key, value, mistakes) for key, value in node.value}
        return MISSING if any(value is MISSING for value in values.values()) else values

    def _value(self, key: Node, value: Node, mistakes: Diagnostics) -> Any:
        read = self.shape.read(value, mistakes)
        if self.key_pattern is None or re.fullmatch(self.key_pattern, key.value):
            return read
        mistakes.add(key, f"found the name {key.shown()}", wanted=f"a name like {self.key_pattern}")
        return MISSING

    def json_schema(self, definitions: dict[str, Schema], /) -> Schema:
        names: Schema = {}
        if self.key_pattern is not None:
            said = f"wanted is a name like {self.key_pattern}"
            names = {"propertyNames": {"pattern": complete(self.key_pattern), "patternErrorMessage": said}}
        return {"type": "object", **names, "additionalProperties": self.shape.schema_part(definitions)}
