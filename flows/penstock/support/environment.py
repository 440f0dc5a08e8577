"""`${NAME}` and `${NAME:-default}` in texts: what differs from machine to machine, and what must stay secret.

Descriptions keep the text as it is written; it is filled in only where it is used. So what stands in a variable is in
no dump, no log and no error of a description.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from penstock.errors import MissingVariable

_VARIABLE = re.compile(r"\$(?:\$|\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\})")


class Placeholder(str):
    """What stands for a variable that is not set, where nothing will run. It is false, so a default is preferred."""

    __slots__ = ()

    def __bool__(self) -> bool:
        return False


class Span(NamedTuple):
    """A part of a text with variables: text as it is written, or the value of a variable (or its default)."""

    text: str
    variable: str | None = None
    """The name of the variable; None for text as it is written."""


def spans(text: str, environment: Mapping[str, str] = os.environ) -> Iterator[Span]:
    """The parts of a text in order, variables filled in. Raises `MissingVariable` for one that is not set.

    For texts that have a syntax of their own, such as templates: the value of a variable must not be parsed as that.

    >>> [tuple(span) for span in spans("$$ ${A:-{x}.", {})]
    [('$', None), (' ', None), ('{x', 'A'), ('.', None)]
    """
    position, end = 0, text.rfind("}") + 1
    for found in _VARIABLE.finditer(
        text, 0, end
    ):  # no variable ends later; each `${` there would be followed to the end
        if position < found.start():
            yield Span(text[position : found.start()])
        position = found.end()
        yield Span("$") if found["name"] is None else Span(_value(found, environment), found["name"])
    if position < len(text):
        yield Span(text[position:end] + text[max(position, end) :].replace("$$", "$"))


def substitute(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """A text with its variables filled in; `$$` stands for `$`. Raises `MissingVariable` for one that is not set.

    As in a shell, the default counts for a variable that is empty, too.

    >>> filled("${SCHEME:-http}://$$host", {})
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


def shown(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """A text with its variables filled in, for messages: variables that are not set, or whose name says that they are
    secret (SECRET, TOKEN, PASSWORD, KEY, CREDENTIAL, AUTH), stay as they are written.

    >>> shown("${OUT:-out}/${API_TOKEN}.csv", {"API_TOKEN": "t0p"})
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
    """The names of the variables in a text."""
    return [found["name"] for found in _VARIABLE.finditer(text, 0, text.rfind("}") + 1) if found["name"]]
