"""Read the fields of an item type, and suggest the field that was meant by an unknown name."""

from __future__ import annotations

import dataclasses
import typing
from functools import lru_cache
from typing import Any

import msgspec

from penstock.support.text import suggest

_NAME = r"[^.*\[\]\s](?:[^.*\[\]]*[^.*\[\]\s])?"
FIELD = rf"{_NAME}(?:\.{_NAME})*"
"""The pattern of the path of a field: names with dots between them, without `*` and `[0]`."""


def fields_of(item: Any) -> list[str] | None:
    """Return the fields of an item type; None if it does not declare any."""
    if typing.is_typeddict(item):
        return list(typing.get_type_hints(item))
    if isinstance(item, type) and issubclass(item, msgspec.Struct):
        return list(item.__struct_fields__)
    if isinstance(item, type) and dataclasses.is_dataclass(item):
        return [field.name for field in dataclasses.fields(item)]
    return None


@lru_cache(16)  # each step makes a flow with the same type; a larger cache would retain the types of deleted flows
def item_type_error(item: Any) -> str | None:
    """Return why items cannot be decoded to a type; None if they can."""
    try:
        msgspec.json.Decoder(item)
    except NameError:  # a forward reference to a type that is not defined yet
        return None
    except Exception as error:  # msgspec may raise anything for the type of a user
        return str(error)
    return None


def field_hint(name: str, fields: list[str]) -> str:
    """Return the end of a message about an unknown field: the nearest field, and all fields."""
    meant = suggest(name, fields)
    hint = f"; did you mean {meant!r}?" if meant else ""
    return f"{hint} (fields: {', '.join(fields)})"
