"""What is wrong with an expression, or why it has no result for a value, in words that help."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, cast

_PLACE = re.compile(r"<input>:(\d+):(\d+): (.*)")
_KEY = re.compile(r"Key not found in map : \"?(.*?)\"?$", re.DOTALL)
_TYPE_PREFIX = re.compile(r"^[A-Z_]+: ")

NOT_AN_OBJECT = "Applying SELECT to non-message type"
"""What CEL says of a field of what is no object."""


def missing(key: str) -> str:
    """What CEL says of a field that is not there."""
    return f'Key not found in map : "{key}"'


def failure(said: str, text: str) -> str:
    """Why there is no result, from what CEL said."""
    reason = _TYPE_PREFIX.sub("", said)
    if "overload" in reason and "int64" in reason and "double" in reason:
        return f"{reason}; whole numbers and fractions do not mix: write double(…) around the whole number"
    if found := _KEY.match(reason):
        return f"{reason}; {_missing_key_advice(found[1], text)}"
    return reason


def too_many_iterations(most: int) -> str:
    """Why an expression with loops was given up."""
    return (
        f"it needs more than {most:,} iterations: all those of all(), exists(), exists_one(), map() and filter() "
        "together, where those of a loop within a loop are multiplied; shorten the list, or use a function in Python"
    )


def missing_message(kind: str, given: Any, variable: str) -> str:
    """Why CEL is not given a value: of what kind that is which it cannot take."""
    path = next(_missing_paths(kind, given, variable), variable)
    if kind == "NUL":
        return (
            f"{path} contains the character NUL (U+0000), at which CEL would cut it off; only expressions that are a "
            "path of fields, such as value.a.b, take it"
        )
    return (
        f"{path} is an integer of more than 64 bits, which CEL does not have; only expressions that are a path of "
        "fields, such as value.a.b, take it"
    )


def explain(said: str, text: str) -> tuple[str, int, int]:
    """What is wrong, and where in the expression, from 1 on."""
    if "recursion" in said:
        return "it is nested too deeply; compute parts of it in steps of their own, such as set", 1, 1
    found = _PLACE.search(said)
    if found is None:
        return said.split("\n")[0], 1, 1
    line, column, reason = int(found[1]), int(found[2]), found[3]
    if reason.startswith("undeclared reference to"):
        name = reason.split("'")[1]
        column = max(1, text.split("\n")[line - 1].find(name) + 1)
        reason = f"there is no {name!r} here"
    elif reason.startswith("Syntax error:"):
        reason = reason.split(" expecting ")[0].removeprefix("Syntax error: ")
        reason = "it ends too early" if "<EOF>" in reason else reason
    return reason, line, column


def _missing_key_advice(key: str, text: str) -> str:
    """What to do about a key that a value has not: a field of it, or one that is looked up among others."""
    if field := _field_access(text, key):
        return f"say what stands for a field that may be missing: has({field}) ? {field} : 0"
    return "if that is no failure, look it up with [?…] and say what stands for it: {'a': 1}[?value.x].orValue(0)"


def _field_access(text: str, key: str) -> str | None:
    """The path in an expression that ends with a key. Not a pattern: the key may be a text of the input, and long."""
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
    """Where in a value there is what CEL cannot take."""
    waiting: list[tuple[str, Any]] = [(variable, given)]
    for path, value in waiting:
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
                waiting.append((f"{path}.{key}", inner))
        elif isinstance(value, list):
            waiting.extend((f"{path}[{number}]", inner) for number, inner in enumerate(cast("list[object]", value)))
