"""Forms of lists and mappings that contain any number of values of one form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from penstock.flowfile.diagnostics import Diagnostics
from penstock.flowfile.document import Kind, Node
from penstock.flowfile.forms.form import MISSING, Form, Missing, Schema, T, T_co
from penstock.flowfile.forms.scalars import Text


@dataclass(frozen=True, slots=True)
class ListOf(Form[tuple[T_co, ...]]):
    """A list of values of one form, read as a tuple."""

    form: Form[T_co]
    min: int = 0

    @property
    def json_types(self) -> frozenset[Kind]:
        return frozenset({"list"})

    @property
    def expected(self) -> str:
        return f"a list of at least {self.min}" if self.min else "a list"

    def read(self, node: Node, diagnostics: Diagnostics, /) -> tuple[T_co, ...] | Missing:
        if node.kind != "list" or len(node.value) < self.min:
            return self.reject(node, diagnostics)
        values: tuple[Any, ...] = tuple(self.form.read(item, diagnostics) for item in node.value)
        return MISSING if any(value is MISSING for value in values) else values

    def json_schema(self, definitions: dict[str, Schema], /) -> Schema:
        min = {"minItems": self.min} if self.min else {}
        return {"type": "array", "items": self.form.schema_part(definitions), **min}


@dataclass(frozen=True, slots=True)
class MapOf(Form[dict[str, T]]):
    """Values of one form under keys that the user chooses, read as a dict. `keys` is the form of the keys."""

    form: Form[T]
    keys: Text | None = None

    @property
    def json_types(self) -> frozenset[Kind]:
        return frozenset({"mapping"})

    @property
    def expected(self) -> str:
        return "a mapping"

    def read(self, node: Node, diagnostics: Diagnostics, /) -> dict[str, T] | Missing:
        if node.kind != "mapping":
            return self.reject(node, diagnostics)
        subject = diagnostics.subject
        values: dict[str, Any] = {}
        for key, value in node.value:
            diagnostics.subject = key.value
            values[key.value] = self.form.read(value, diagnostics)
            if self.keys is not None and self.keys.read(key, diagnostics) is MISSING:
                values[key.value] = MISSING
        diagnostics.subject = subject
        return MISSING if any(value is MISSING for value in values.values()) else cast("dict[str, T]", values)

    def json_schema(self, definitions: dict[str, Schema], /) -> Schema:
        names: Schema = {}
        if self.keys is not None:
            rules = self.keys.json_schema(definitions)
            names = {"propertyNames": {name: rule for name, rule in rules.items() if name != "type"}}
        return {"type": "object", **names, "additionalProperties": self.form.schema_part(definitions)}
