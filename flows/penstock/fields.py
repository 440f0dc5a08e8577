"""The fields of a type of items, and which of them was meant by a name that is none."""

from __future__ import annotations

import dataclasses
import typing
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

import msgspec

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
def type_trouble(item: Any) -> str | None:
    """Why items cannot be of this type; None when they can."""
    try:
        msgspec.json.Decoder(item)
    except NameError:  # of a type that is defined further down
        return None
    except Exception as error:  # whatever msgspec meets in a type that others wrote
        return str(error)
    return None


def nearest(name: str, names: list[str]) -> str:
    """What a mistyped name may have meant, and what there is."""
    close = get_close_matches(name, names, 1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"{hint} (fields: {', '.join(names)})"
