"""Templates of URLs, headers and texts: literal text, fields of the value (`{orderId}`) and variables (`${TOKEN}`).

A template is parsed before variables are substituted, so the value of a variable is data: a brace in it is a literal
brace. Errors name the variable and never contain its value, which may be a secret.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from string import Formatter
from typing import Any, NamedTuple, cast

from penstock.errors import InvalidItem
from penstock.support.environment import Placeholder, spans

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")

HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""A token (RFC 9110, section 5.6.2)."""

FRAMING_HEADERS = ("content-length", "transfer-encoding")
"""Headers that the client sets itself: other values break the request."""

_NOT_TEXT = (type(None), Mapping, list, tuple, set, bytes)


class Text(NamedTuple):
    """Literal text."""

    text: str


class Variable(NamedTuple):
    """A variable of the environment with its value, or its default."""

    name: str
    value: str

    @property
    def is_unset(self) -> bool:
        """Whether the value is a placeholder: the variable is not set, and nothing will run."""
        return isinstance(self.value, Placeholder)


class Field(NamedTuple):
    """A field of the value, such as `card.number`."""

    name: str


Part = Text | Variable | Field


class HeaderTemplate:
    """A header whose value may contain fields of the value."""

    __slots__ = ("_parts", "name", "template")

    def __init__(self, name: str, template: str, environment: Mapping[str, str] = os.environ) -> None:
        self.name = name
        self.template = template
        if not HEADER_NAME.fullmatch(name):
            raise ValueError(f"invalid header name {name!r}: expected letters, digits and -")
        if name.lower() in FRAMING_HEADERS:
            raise ValueError(f"header {name} is set automatically; remove it")
        try:
            self._parts = [_header_part(part) for part in parse_template(template, environment)]
        except ValueError as error:
            raise ValueError(f"header {name}: {error}") from None

    @property
    def has_fields(self) -> bool:
        """Whether it contains fields of the value."""
        return any(field is not None for _, field in self._parts)

    def render(self, value: Any) -> str:
        """Return the header for a value. Raises `InvalidItem` if a field is missing or cannot be sent."""
        header = ""
        for text, field in self._parts:
            header += text
            if field is not None:
                header += _header_text(field, text_of(field, field_of(value, field), "a header"))
        return header


def parse_template(template: str, environment: Mapping[str, str] = os.environ) -> Iterator[Part]:
    """Yield the parts of a template. Raises `ValueError` for an invalid template, and `MissingVariable`."""
    for text, variable in spans(template, environment):
        if variable is not None:
            _check_characters(variable, text)
            yield Variable(variable, text)
        else:
            yield from parse_fields(text)


def parse_fields(text: str) -> Iterator[Text | Field]:
    """Yield the parts of a template without variables. Raises `ValueError` for an invalid template."""
    try:
        parsed = list(Formatter().parse(text))
    except ValueError as error:
        raise ValueError(f"{error}; write {{{{ or }}}} for a literal brace") from None
    for literal, field, form, conversion in parsed:
        if literal:
            yield Text(literal)
        if field is None:
            continue
        if not all(map(str.isidentifier, field.split("."))) or form or conversion:
            raise ValueError(f"{{{field}}} is not the name of a field; write {{{{ or }}}} for a literal brace")
        yield Field(field)


def field_of(value: Any, path: str) -> Any:
    """Return a field of a mapping, an attribute, or a nested one: `card.number`.

    Raises `InvalidItem` if it is missing.
    """
    if type(value) is dict and "." not in path:  # the usual case, without the checks below
        fields = cast("dict[str, Any]", value)
        if path in fields:
            return fields[path]
    found: Any = cast("Any", value)
    try:
        for name in path.split("."):
            found = cast("Mapping[str, Any]", found)[name] if isinstance(found, Mapping) else getattr(found, name)
    except (KeyError, AttributeError) as error:
        raise InvalidItem(f"the value has no field {path}, which the request needs") from error
    return found


def text_of(field: str, found: object, target: str) -> str:
    """Return a field as text, booleans as in JSON. Raises `InvalidItem` for objects, arrays and null."""
    if isinstance(found, _NOT_TEXT):
        raise InvalidItem(f"the field {field} is neither text nor a number, and cannot be sent in {target}")
    return str(found).lower() if isinstance(found, bool) else str(found)


def is_latin1(text: str) -> bool:
    """Return whether a text can be sent in a header: characters of ISO 8859-1."""
    return text.isascii() or max(text) <= "\xff"


def _check_characters(variable: str, value: str) -> None:
    """Raise `ValueError` for characters that are valid neither in a URL nor in a header."""
    if _SURROGATE.search(value):
        raise ValueError(f"the variable {variable} is not valid UTF-8")
    if control := CONTROL.search(value.replace("\t", "")):
        hint = "; it ends with a line break" if value.endswith(("\n", "\r")) else ""
        raise ValueError(f"the variable {variable} contains the control character U+{ord(control[0]):04X}{hint}")


def _header_part(part: Part) -> tuple[str, str | None]:
    """Return the text and the field of a part of a header. Raises `ValueError` for text that cannot be sent."""
    if isinstance(part, Field):
        return "", part.name
    subject, text = (f"the variable {part.name}", part.value) if isinstance(part, Variable) else ("it", part.text)
    if CONTROL.search(text.replace("\t", "")):
        raise ValueError(f"{subject} contains a line break or another control character")
    if not is_latin1(text):
        raise ValueError(f"{subject} contains characters outside of Latin-1 (ISO 8859-1)")
    return text, None


def _header_text(field: str, text: str) -> str:
    if not text.isprintable() or not is_latin1(text):
        raise InvalidItem(f"the field {field} cannot be sent in a header: expected printable text in Latin-1")
    return text
