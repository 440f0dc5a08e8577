"""Substitute `${NAME}` and `${NAME:-default}` in strings, for machine-specific settings and secrets.

Descriptions store the text without substitution, so values never appear in dumps, logs or errors.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from penstock.errors import MissingVariable

_VARIABLE = re.compile(r"\$(?:\$|\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\})")


class Placeholder(str):
    """Stands for a variable that is not set, when nothing will run. It is false, so that a default is preferred."""

    __slots__ = ()

    def __bool__(self) -> bool:
        return False


class Span(NamedTuple):
    """A part of a text with variables: literal text, or the value of a variable (or its default)."""

    text: str
    variable: str | None = None
    """The name of the variable; None for literal text."""


def spans(text: str, environment: Mapping[str, str] = os.environ) -> Iterator[Span]:
    """Yield the parts of a text in order, variables substituted. Raises `MissingVariable` for one that is not set.

    For texts with a syntax, such as templates: the value of a variable must not be parsed as a part of them.

    >>> [tuple(span) for span in spans("$$ ${A:-{x}.", {})]
    [('$', None), (' ', None), ('{x', 'A'), ('.', None)]
    """
    position, end = 0, text.rfind("}") + 1
    # No variable ends after the last brace. Without this limit, each `${` would be scanned to the end of the text.
    for found in _VARIABLE.finditer(text, 0, end):
        if position < found.start():
            yield Span(text[position : found.start()])
        position = found.end()
        yield Span("$") if found["name"] is None else Span(_value(found, environment), found["name"])
    if position < len(text):
        yield Span(text[position:end] + text[max(position, end) :].replace("$$", "$"))


def substitute(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """Substitute the variables in a text; `$$` stands for `$`. Raises `MissingVariable` for one that is not set.

    As in a shell, the default is also used for a variable that is empty.

    >>> substitute("${SCHEME:-http}://$$host", {})
    'http://$host'
    """
    return "".join(span.text for span in spans(text, environment))


def _value(found: re.Match[str], environment: Mapping[str, str]) -> str:
    name, default = found["name"], found["default"]
    if (known := environment.get(name)) or (known is not None and default is None):
        return known
    if default is None:
        raise MissingVariable(name)
    return default


_SECRET = re.compile(r"secret|token|passw|pwd|key|credential|auth", re.IGNORECASE)


def display_text(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """Substitute the variables in a text for messages.

    Variables that are not set, and those whose name indicates a secret (SECRET, TOKEN, PASSWORD, KEY, CREDENTIAL,
    AUTH), are left as they are written.

    >>> display_text("${OUT:-out}/${API_TOKEN}.csv", {"API_TOKEN": "t0p"})
    'out/${API_TOKEN}.csv'
    """

    def value(found: re.Match[str]) -> str:
        name = found["name"]
        if name is not None and _SECRET.search(name):
            return found[0]
        try:
            return substitute(found[0], environment)
        except MissingVariable:
            return found[0]

    return _VARIABLE.sub(value, text)


def variable_names(text: str) -> list[str]:
    """Return the names of the variables in a text."""
    return [found["name"] for found in _VARIABLE.finditer(text, 0, text.rfind("}") + 1) if found["name"]]
