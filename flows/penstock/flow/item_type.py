"""The fields of a type of items, and which of them was meant by a name that is none."""

from __future__ import annotations

import dataclasses
import typing
from functools import lru_cache
from typing import Any

import msgspec

from penstock.support.text import suggest

_NAME = r"[^.*\[\]\s](?:[^.*\[\]]*[^.*\[\]\s])?"
FIELD = rf"{_NAME}(?:\.{_NAME})*"
"""The pattern of a field by its path: names with dots between them, without stars and without numbers of items."""


def fields_of(item: Any) -> list[str] | None:
    """The fields that a type of items has; None when it does not say."""
    if typing.is_typeddict(item):
        return list(typing.get_type_hints(item))
    if isinstance(item, type) and issubclass(item, msgspec.Struct):
        return list(item.__struct_fields__)
    if isinstance(item, type) and dataclasses.is_dataclass(item):
        return [field.name for field in dataclasses.fields(item)]
    return None


@lru_cache(16)  # each step makes a flow of its own, with the same type; more would retain types of flows that are gone
def item_type_error(item: Any) -> str | None:
    """Why items cannot be of this type; None when they can."""
    try:
        msgspec.json.Decoder(item)
    except NameError:  # of a type that is defined further down
        return None
    except Exception as error:  # whatever msgspec meets in a type that others wrote
        return str(error)
    return None


def field_hint(name: str, fields: list[str]) -> str:
    """Return the end of a message about an unknown field: the one that was meant, and all that there are."""
    meant = suggest(name, fields)
    hint = f"; did you mean {meant!r}?" if meant else ""
    return f"{hint} (fields: {', '.join(fields)})"
