"""The items of a flow, described in its file: which fields they have, and what may stand in each.

The rules become a TypedDict, so that what the file says is checked by the same code as a type of Python. Fields
that are not named are let through unchanged.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from math import ceil, floor
from typing import Annotated, Any, Literal, NotRequired, TypedDict, cast
from weakref import WeakValueDictionary

import msgspec
from msgspec import Meta

from penstock.flow.item_type import fields_of
from penstock.flowfile.diagnostics import Diagnostics
from penstock.flowfile.document import quoted
from penstock.flowfile.forms.choices import Either
from penstock.flowfile.forms.containers import ListOf, MapOf
from penstock.flowfile.forms.form import Form, Lazy
from penstock.flowfile.forms.record import Field, Read, Record
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
"""The types of fields, by the names that JSON Schema gives them."""

_MADE: WeakValueDictionary[str, Any] = WeakValueDictionary()
"""The types of items by their rules, as long as a flow uses them.

A cache of the last thousand kept 5 kB of each type with 2 fields that a reload had replaced, and 20 kB with 40 fields.
"""

_BOUNDS = {
    "minimum": "ge",
    "maximum": "le",
    "above": "gt",
    "below": "lt",
    "min_length": "min_length",
    "max_length": "max_length",
}

_LEAST, _MOST = -(2**63), 2**63 - 1
"""Bounds of whole numbers have 64 bits."""

_NAMES = [f"{name}{optional}" for optional in ("", "?") for name in TYPES]
_TYPE = Text(choices=_NAMES, about="The type of the field; with ? at its end the field may be left out")

FIELD: Form = Lazy("field", lambda: Either(_TYPE, _RULES))
"""The rules of one field: its type, or a mapping that says more."""

FIELDS = MapOf(FIELD)

_RULES: Form = Record(
    {
        "type": Field(_TYPE, about="The type of the field; with ? at its end the field may be left out"),
        "enum": Field(ListOf(AnyValue(), least=1), about="The values that the field may have"),
        "minimum": Field(Number(), about="The least number"),
        "maximum": Field(Number(), about="The greatest number"),
        "above": Field(Number(), about="The number has to be greater than this"),
        "below": Field(Number(), about="The number has to be less than this"),
        "min_length": Field(Integer(least=0), about="The least length of a text or list"),
        "max_length": Field(Integer(least=0), about="The greatest length of a text or list"),
        "pattern": Field(Text(), about="A regular expression of RE2 that has to be found in the text"),
        "items": Field(FIELD, about="The rules of each value of a list"),
        "fields": Field(FIELDS, about="The rules of the fields of an object"),
        "optional": Field(Boolean(), about="Whether the field may be left out"),
    },
    make=lambda read: _checked(read.node.plain()),
)


def item_type(rules: Mapping[str, Any]) -> Any:
    """The type for items with these rules, the same one for the same rules as long as it is in use."""
    text = json.dumps(rules)
    made = _MADE.get(text)
    if made is None:
        made = _MADE[text] = _typed_dict(text)
    return made


def key_of(read: Read, item: Any, mistakes: Diagnostics) -> str | None:
    """The key of a flow; None, and a mistake at its place, when the items have no such field."""
    key: str | None = read["key"]
    fields = fields_of(item)
    if key is None or fields is None or key in fields:
        return key
    mistakes.add(read.at("key"), f"the item has no field {quoted(key)} for a key", allowed=fields, nearest=key)
    return None


def rules_of(item: Any) -> dict[str, Any] | None:
    """The rules that a type was made of; None for one that was written in Python."""
    return cast("dict[str, Any] | None", getattr(item, "__rules__", None))


def _typed_dict(rules: str) -> Any:
    fields: dict[str, Any] = {name: _hint(rule) for name, rule in json.loads(rules).items()}
    item = cast(Any, TypedDict)("Item", fields)  # checkers know no TypedDict whose fields are known only now
    item.__qualname__ = f"Item.{sha256(rules.encode()).hexdigest()[:8]}"  # by which schemas tell several apart
    item.__rules__ = json.loads(rules)
    return item


def _hint(rule: Any) -> Any:
    """The annotation of a field."""
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
    """The rules, if they fit together; raises `ValueError`."""
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
                raise ValueError(f"{word} is for a field of type {' or '.join(kinds)}, not {kind}")
    if "enum" in rules:
        _check_enum(rules, kind)
    if kind == "integer":
        _check_bounds(rules)
    if _may_be_left_out(rules.get("items", {})):
        raise ValueError("what a list has in it cannot be left out; leave out ? and optional of items")
    hinted = rules | {"type": kind, "optional": False}
    try:
        msgspec.json.Decoder(_hint(hinted))
    except (
        TypeError,
        NotImplementedError,
        OverflowError,
    ) as error:  # all that msgspec raises
        raise ValueError(f"these rules do not fit together: {error}") from error
    return rules if "type" in rules else rules | ({"type": name} if name != "any" else {})


def _may_be_left_out(rule: Any) -> bool:
    rules: dict[str, Any] = {"type": rule} if isinstance(rule, str) else rule
    return bool(rules.get("optional")) or str(rules.get("type", "")).endswith("?")


def _check_bounds(rules: dict[str, Any]) -> None:
    """Refuse bounds of whole numbers that have more than 64 bits, or leave no whole number of 64 bits."""
    for word in ("minimum", "maximum", "above", "below"):
        least, most = _LEAST + (word == "below"), _MOST - (word == "above")
        if word in rules and not least <= rules[word] <= most:
            raise ValueError(f"{word} of a whole number is from {least} to {most}, got {rules[word]}")


def _check_enum(rules: dict[str, Any], kind: str) -> None:
    """Refuse values that no field of this type has, and further rules: an enum says it all."""
    if not all(isinstance(value, str | int | None) for value in rules["enum"]):
        raise ValueError("enum takes texts, whole numbers and null")
    if more := next((word for word in (*_BOUNDS, "pattern", "items", "fields") if word in rules), None):
        raise ValueError(f"enum says which values there are; leave out {more}")
    allowed = {"string": str, "integer": int, "number": int, "any": object}.get(kind, ())
    for value in rules["enum"]:
        if value is not None and not isinstance(value, allowed):
            raise ValueError(f"a field of type {kind} never has the value {value!r} of its enum")
