"""Item types of flow files: rules for fields become a TypedDict.

So items are validated by the same code as those of a type in Python. Fields that are not named pass unchanged.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from math import ceil, floor
from typing import Annotated, Any, Literal, NotRequired, TypedDict, cast
from weakref import WeakValueDictionary

import msgspec
from msgspec import Meta

from penstock.flow.item_type import fields_of
from penstock.flowfile.diagnostics import Diagnostics
from penstock.flowfile.document import Node
from penstock.flowfile.forms.choices import Either
from penstock.flowfile.forms.containers import ListOf, MapOf
from penstock.flowfile.forms.form import Form, Lazy
from penstock.flowfile.forms.record import Located, Record, optional
from penstock.flowfile.forms.scalars import AnyValue, Boolean, Integer, Number, Text
from penstock.steps.patterns import pattern

TYPES: dict[str, Any] = {
    "integer": int,
    "number": float,
    "string": str,
    "boolean": bool,
    "object": dict[str, Any],
    "array": list[Any],
    "any": Any,
}
"""The types of fields, by their names in JSON Schema."""

_MADE: WeakValueDictionary[str, Any] = WeakValueDictionary()
"""The item types by their rules, while a flow uses them.

A cache of the last thousand retained 5 kB for each type with 2 fields that a reload had replaced, 20 kB with 40 fields.
"""

_BOUNDS = {
    "minimum": "ge",
    "maximum": "le",
    "above": "gt",
    "below": "lt",
    "min_length": "min_length",
    "max_length": "max_length",
}

_MIN, _MAX = -(2**63), 2**63 - 1
"""Bounds of integers have 64 bits."""

_NAMES = [f"{name}{optional}" for optional in ("", "?") for name in TYPES]
_TYPE = Text(
    noun="type", choices=_NAMES, description="The type of the field; with ? at its end the field may be left out"
)

FIELD: Form[Any] = Lazy("field", lambda: Either(_TYPE, _RULES))
"""The rules of one field: its type, or a mapping of rules."""

FIELDS = MapOf(FIELD)


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldRules(Located):
    type: str | None = optional(_TYPE, "The type of the field; with ? at its end the field may be left out")
    enum: tuple[Any, ...] | None = optional(ListOf(AnyValue(), min=1), "The values that the field may have")
    minimum: float | None = optional(Number(), "The smallest number")
    maximum: float | None = optional(Number(), "The largest number")
    above: float | None = optional(Number(), "The number must be greater than this")
    below: float | None = optional(Number(), "The number must be less than this")
    min_length: int | None = optional(Integer(min=0), "The minimum length of a string or list")
    max_length: int | None = optional(Integer(min=0), "The maximum length of a string or list")
    pattern: str | None = optional(Text(), "A regular expression of RE2 that must occur in the string")
    items: Any = optional(FIELD, "The rules of each value of a list")
    fields: dict[str, Any] | None = optional(FIELDS, "The rules of the fields of an object")
    optional: bool | None = optional(Boolean(), "Whether the field may be left out")


_RULES: Form[Any] = Record(FieldRules).then(lambda rules: _checked(rules.node.plain()))


def item_type(rules: Mapping[str, Any]) -> Any:
    """Return the type for items with these rules: the same one for the same rules while it is in use."""
    text = json.dumps(rules)
    made = _MADE.get(text)
    if made is None:
        made = _MADE[text] = _typed_dict(text)
    return made


def check_key(key: Node, item: Any, diagnostics: Diagnostics) -> str | None:
    """Return the key of a flow; add an error and return None if the items have no such field."""
    fields = fields_of(item)
    if fields is None or key.value in fields:
        return str(key.value)
    diagnostics.unknown(key, "item field", fields)
    return None


def rules_of(item: Any) -> dict[str, Any] | None:
    """Return the rules that a type was made from; None for a type that was written in Python."""
    return cast("dict[str, Any] | None", getattr(item, "__rules__", None))


def _typed_dict(rules: str) -> Any:
    fields: dict[str, Any] = {name: _hint(rule) for name, rule in json.loads(rules).items()}
    item = cast(Any, TypedDict)("Item", fields)  # checkers know no TypedDict whose fields are known only now
    item.__qualname__ = f"Item.{sha256(rules.encode()).hexdigest()[:8]}"  # by which schemas tell several apart
    item.__rules__ = json.loads(rules)
    return item


def _hint(rule: Any) -> Any:
    """Return the annotation of a field."""
    rules: dict[str, Any] = {"type": rule} if isinstance(rule, str) else rule
    name, optional = rules.get("type", "any").removesuffix("?"), rules.get("type", "").endswith("?")
    hint: Any = TYPES[name]
    if "enum" in rules:
        hint = Literal[tuple(rules["enum"])]
    elif "items" in rules:
        hint = list[_hint(rules["items"])]  # type: ignore[misc]  # a type made at run time
    elif "fields" in rules:
        hint = item_type(rules["fields"])
    bounds: dict[str, Any] = {_BOUNDS[key]: bound for key, bound in rules.items() if key in _BOUNDS}
    if name == "integer":  # which is above 1.5 when it is above 1, and at least 1.5 when it is at least 2
        bounds = {key: (ceil if key in ("ge", "lt") else floor)(bound) for key, bound in bounds.items()}
    if bounds:
        hint = Annotated[hint, Meta(**bounds)]
    if "pattern" in rules:
        hint = Annotated[hint, pattern(rules["pattern"])]
    return NotRequired[hint] if optional or rules.get("optional") else hint


def _checked(rules: dict[str, Any]) -> dict[str, Any]:
    """Return rules that can be combined. Raises `ValueError` for others."""
    name = rules.get("type", "array" if "items" in rules else "object" if "fields" in rules else "any")
    kind = name.removesuffix("?")
    for words, kinds in (
        (("minimum", "maximum", "above", "below"), ("integer", "number")),
        (("min_length", "max_length"), ("string", "array")),
        (("pattern",), ("string",)),
        (("items",), ("array",)),
        (("fields",), ("object",)),
    ):
        for word in words:
            if word in rules and kind not in kinds:
                raise ValueError(f"{word}: only for fields of type {' or '.join(kinds)}, not {kind}")
    if "enum" in rules:
        _check_enum(rules, kind)
    if kind == "integer":
        _check_bounds(rules)
    if _may_be_left_out(rules.get("items", {})):
        raise ValueError("items: an item of a list cannot be optional; remove ? and optional")
    hinted = rules | {"type": kind, "optional": False}
    try:
        msgspec.json.Decoder(_hint(hinted))
    except (
        TypeError,
        NotImplementedError,
        OverflowError,
    ) as error:  # all that msgspec raises
        raise ValueError(f"these rules cannot be combined: {error}") from error
    return rules if "type" in rules else rules | ({"type": name} if name != "any" else {})


def _may_be_left_out(rule: Any) -> bool:
    rules: dict[str, Any] = {"type": rule} if isinstance(rule, str) else rule
    return bool(rules.get("optional")) or str(rules.get("type", "")).endswith("?")


def _check_bounds(rules: dict[str, Any]) -> None:
    """Reject bounds of integers that have more than 64 bits, or that no integer of 64 bits satisfies."""
    for word in ("minimum", "maximum", "above", "below"):
        low, high = _MIN + (word == "below"), _MAX - (word == "above")
        if word in rules and not low <= rules[word] <= high:
            raise ValueError(f"{word}: expected a number from {low} to {high}, got {rules[word]}")


def _check_enum(rules: dict[str, Any], kind: str) -> None:
    """Reject values that no field of this type can have, and further rules."""
    if not all(isinstance(value, str | int | None) for value in rules["enum"]):
        raise ValueError("enum: expected strings, integers and null")
    if more := next((word for word in (*_BOUNDS, "pattern", "items", "fields") if word in rules), None):
        raise ValueError(f"enum and {more} exclude each other: remove {more}")
    allowed = {"string": str, "integer": int, "number": int, "any": object}.get(kind, ())
    for value in rules["enum"]:
        if value is not None and not isinstance(value, allowed):
            raise ValueError(f"enum: {value!r} is not a value of type {kind}")
