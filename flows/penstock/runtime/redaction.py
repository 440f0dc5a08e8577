"""What dead letters do not keep: fields that are secret, in what came in and in what steps had found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from penstock.element import Element

REDACTED = "[redacted]"
"""Stands where a value was."""

UNREADABLE = b"[redacted: this input is no JSON]"
"""Stands for an input in which the secret fields cannot be told from the others."""


def redacted(element: Element[Any], paths: Sequence[str]) -> Element[Any]:
    """A copy of an element for its letter, without the fields at some paths (`card.number`); lists are gone through."""
    parts = [path.split(".") for path in paths]
    original = element.root.input
    found = None if element.found is None else _without(element.found, parts)
    return msgspec.structs.replace(element, input=_input(original, parts), found=found, parent=None)


def _input(original: Any, paths: list[list[str]]) -> Any:
    if not isinstance(original, bytes):
        return _without(_plain(original), paths)
    try:
        return msgspec.json.encode(_without(msgspec.json.decode(original), paths))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return UNREADABLE


def _plain(value: Any) -> Any:
    """A value as dicts and lists, as far as it can be."""
    try:
        return msgspec.to_builtins(value, enc_hook=repr)
    except Exception:
        return REDACTED


def _without(value: Any, paths: list[list[str]]) -> Any:
    """A value with something else at the ends of the paths."""
    if isinstance(value, list):
        items: list[Any] = value
        return [_without(item, paths) for item in items]
    if not isinstance(value, dict):
        return value
    fields: dict[str, Any] = value
    kept: dict[str, Any] = {}
    for name, inner in fields.items():
        deeper = [path[1:] for path in paths if path[0] == name]
        kept[name] = REDACTED if [] in deeper else _without(inner, deeper) if deeper else inner
    return kept
