"""Explain why an expression is invalid, or has no result for a value."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, cast

from penstock.support.text import suggest

_LOCATION = re.compile(r"<input>:(\d+):(\d+): (.*)")
_KEY = re.compile(r"Key not found in map : \"?(.*?)\"?$", re.DOTALL)
_CONVERTIBLE = re.compile(r"overloads found : \S*_\((?:(?:string|u?int64|double)(?:, )?)+\)$")
_TYPE_PREFIX = re.compile(r"^[A-Z_]+: ")

_MAX_KEYS, _LONGEST_KEY = 50, 60
"""Objects with more keys, and longer keys, are not searched for a key that a mistyped one may have meant."""

NOT_AN_OBJECT = "Applying SELECT to non-message type"
"""CEL's message for a field of a value that is not an object."""


def missing(key: str) -> str:
    """Return CEL's message for a missing field."""
    return f'Key not found in map : "{key}"'


def failure(message: str, text: str, variables: Mapping[str, Any]) -> str:
    """Convert a message of CEL to the reason why there is no result for the values of the variables."""
    reason = _TYPE_PREFIX.sub("", message)
    if "overload" in reason and "int64" in reason and "double" in reason:
        return f"{reason}; integers and fractions cannot be mixed: write double(…) around the integer"
    if _CONVERTIBLE.search(reason):
        return f"{reason}; convert with double(…), int(…) or string(…)"
    if found := _KEY.match(reason):
        return f"{reason}; {_missing_key_advice(found[1], text, variables)}"
    return reason


def too_many_iterations(limit: int) -> str:
    """Explain that the loops of an expression exceeded the limit."""
    return (
        f"it needs more than {limit:,} iterations: those of all(), exists(), exists_one(), map() and filter() "
        "are added, and those of nested loops multiplied; shorten the list, or use a function in Python"
    )


def missing_message(kind: str, given: Any, variable: str) -> str:
    """Explain that CEL does not support a kind of value that the input contains."""
    path = next(_missing_paths(kind, given, variable), variable)
    if kind == "NUL":
        return (
            f"{path} contains the character NUL (U+0000), at which CEL would cut it off; only expressions that are a "
            "path of fields, such as value.a.b, accept it"
        )
    return (
        f"{path} is an integer of more than 64 bits, which CEL does not support; only expressions that are a path of "
        "fields, such as value.a.b, accept it"
    )


def cel_missing(error: ImportError) -> str:
    """Explain that CEL is not installed, or cannot be loaded."""
    return (
        f"it needs the package cel-expr-python, which cannot be imported ({error}); install it: pip install "
        '"cel-expr-python<0.2". It has no wheels for musl (Alpine), Windows on Arm and free-threaded Python: there, '
        "use a path of fields, such as value.a.b, or a function in Python"
    )


def explain(message: str, text: str) -> tuple[str, int, int]:
    """Return the reason why an expression is invalid, and its line and column, from 1."""
    if "recursion" in message:
        return "it is nested too deeply; compute parts of it in earlier steps, such as set", 1, 1
    found = _LOCATION.search(message)
    if found is None:
        return message.split("\n")[0], 1, 1
    line, column, reason = int(found[1]), int(found[2]), found[3]
    if reason.startswith("undeclared reference to"):
        name = reason.split("'")[1]
        column = max(1, text.split("\n")[line - 1].find(name) + 1)
        reason = f"unknown name {name!r}"
    elif reason.startswith("Syntax error:"):
        reason = reason.split(" expecting ")[0].removeprefix("Syntax error: ")
        reason = "it ends too early" if "<EOF>" in reason else reason
    return reason, line, column


def _missing_key_advice(key: str, text: str, variables: Mapping[str, Any]) -> str:
    """Return advice for a missing key: a field of the value, or a key in a literal map."""
    if field := _field_access(text, key):
        meant = _similar_key(field, variables)
        similar = "" if meant is None else f"did you mean {meant}? Or "
        return f"{similar}handle a field that may be missing: has({field}) ? {field} : 0"
    return "handle a key that may be missing: {'a': 1}[?value.x].orValue(0)"


def _similar_key(field: str, variables: Mapping[str, Any]) -> str | None:
    """Return the key that a mistyped one may have meant, of the object in which it was searched."""
    *names, key = field.split(".")
    found: Any = variables
    for name in names:
        found = cast("Mapping[str, Any]", found).get(name) if isinstance(found, Mapping) else None
    if not isinstance(found, dict) or key in found or len(cast("dict[str, Any]", found)) > _MAX_KEYS:
        return None
    keys = tuple(one for one in cast("dict[str, Any]", found) if len(one) <= _LONGEST_KEY and one.isidentifier())
    return _suggested(key, keys)


@lru_cache(256)
def _suggested(key: str, keys: tuple[str, ...]) -> str | None:
    """Suggest a key. Cached, because many items fail alike, and a comparison takes longer than an expression."""
    return suggest(key, keys)


def _field_access(text: str, key: str) -> str | None:
    """Return the path in an expression that ends with a key. No regular expression: the key may be long input text."""
    end = 0
    while (found := text.find(f".{key}", end)) >= 0:
        end = found + 1 + len(key)
        start = found
        while start and (text[start - 1].isalnum() or text[start - 1] in "_."):
            start -= 1
        if start < found and not text[end : end + 1].isidentifier() and not text[end : end + 1].isdigit():
            return text[start:end]
    return None


def _missing_paths(kind: str, given: Any, variable: str) -> Iterator[str]:
    """Yield the locations in a value of what CEL does not support."""
    pending: list[tuple[str, Any]] = [(variable, given)]
    for path, value in pending:
        if isinstance(value, str):
            if kind == "NUL" and "\0" in value:
                yield path
        elif isinstance(value, int):
            if kind != "NUL" and not -(1 << 63) <= value < 1 << 64:
                yield path
        elif isinstance(value, dict):
            for key, inner in cast("dict[object, Any]", value).items():
                if kind == "NUL" and isinstance(key, str) and "\0" in key:
                    yield f"the name of a field of {path}"
                pending.append((f"{path}.{key}", inner))
        elif isinstance(value, list):
            pending.extend((f"{path}[{number}]", inner) for number, inner in enumerate(cast("list[object]", value)))
